"""Which visual tokens of a picture a policy kept for how long: what the pictures of a report are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..core.cost import DecoderShape
from ..core.decision import Policy
from ..core.record import Sample
from ..engine.api import attach
from ..models.encoding import encode
from .runner import PairedResult
from .token_baselines import prompt_tokens

__all__ = ["chosen_for_pictures", "kept_tokens", "looked_again"]


@torch.no_grad()
def kept_tokens(model: Any, processor: Any, policy: Policy, sample: Sample) -> dict[str, Any] | None:
    """One sample's prefill under the policy.

    Returns:
        `layers`: for each visual token the number of decoder layers that processed it (of a second look in the pass it
        ended with), `grid`: (rows, columns) of the picture's tokens, `again`: it looked again, `num_layers` and
        `flops_share`. None where its tokens are not those of one picture in a known grid.
    """
    inputs = encode(processor, [sample], model.device).inputs
    with attach(model, policy) as run:
        spans = run.anatomy.layout(inputs["input_ids"], inputs.get("attention_mask")).spans[0]
        grid = spans[0].grid if len(spans) == 1 else None
        if grid is None:
            return None
        model(**inputs)
        (layers,) = run.visual_layers()
        trace = run.trace
    if len(layers) != grid[0] * grid[1]:
        return None
    return {
        "layers": layers,
        "grid": list(grid),
        "num_layers": trace.shape.num_layers,
        "again": trace.looked_again[0],
        "flops_share": trace.cost().flops_share,
    }


def looked_again(result: PairedResult, shape: DecoderShape) -> bool:
    """More was spent than on the tokens of the pass that it ended with; of a policy that may look again."""
    text = prompt_tokens(result, shape) - result.initial_visual_tokens
    return result.flops > sum(
        shape.layer_flops(visual + text, layer=layer) for layer, visual in enumerate(result.visual_tokens)
    )


def chosen_for_pictures(results: Sequence[PairedResult], again: Sequence[bool], count: int) -> list[str]:
    """Ids worth a picture: changed answers, at most a quarter; then one of each family among those that were done after
    one pass, and among those that looked again, at most half of each; then the others in order."""
    seen = [(r, twice) for r, twice in zip(results, again, strict=True) if r.initial_visual_tokens]
    order = [result.id for result, _ in seen if not result.agree][: max(1, count // 4)]
    for want in (False, True):
        families: dict[str | None, str] = {}
        for result, twice in seen:
            if twice == want:
                families.setdefault(result.family, result.id)
        order += list(families.values())[: -(-count // 2)]
    order += [result.id for result, _ in seen]
    return list(dict.fromkeys(order))[:count]
