"""How much faster a model can become at all, measured before a search: its boldest policies beside the full model."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...anatomy.base import Anatomy
from ...anatomy.find import anatomy_of
from ...core.decision import Policy
from ...core.errors import LookawayError
from ...core.record import Sample
from ...engine.api import attach
from ...models.encoding import encode
from ...policies.fixed import ExitAt, KeepAll
from ...policies.keep_schedule import KeepSchedule
from .options import BEFORE_DECODER, FitOptions
from .seconds import measure_seconds

__all__ = ["Reach", "boldest", "measure_reach"]


@dataclass(frozen=True)
class Reach:
    """What a batch takes, and the fastest of the boldest policies beside it."""

    seconds: float
    """Of a batch under the full model."""
    vision_tower: float | None
    """Its share of a full batch, which no policy shortens; None: it was not found."""
    boldest: str | None
    """The fastest of these policies, in words; None: this model runs none of them."""
    speedup: float
    """Full model's seconds / its seconds."""


def boldest(anatomy: Anatomy, options: FitOptions) -> dict[str, Policy]:
    """Of each method the policy that leaves the fewest visual tokens, in words -> policy. Rankings cost time of their
    own, so these need none."""
    found: dict[str, Policy] = {}
    depth, first = anatomy.num_layers, anatomy.first_prunable_layer
    if BEFORE_DECODER in options.methods:
        share = min(options.before_shares)
        found[f"{share:.0%} of the visual tokens enter the decoder"] = KeepSchedule.from_steps(
            {0: share}, depth, ranking="uniform"
        )
    if anatomy.only_before:
        return found
    if "exit" in options.methods:
        layer = max(depth // 6, first, 1)
        found[f"all visual tokens leave before layer {layer}"] = ExitAt(layer)
    if set(options.methods) - {BEFORE_DECODER, "exit"}:
        layer, share = min(options.reduce_before), min(options.shares)
        found[f"{share:.0%} of the visual tokens stay from layer {layer} on"] = KeepSchedule.from_steps(
            {layer: share}, depth, ranking="uniform"
        )
    return found


def measure_reach(
    model: Any, processor: Any, samples: Sequence[Sample], options: FitOptions, batch_size: int, answer_tokens: int,
    seed: int = 0,
) -> Reach:  # fmt: skip
    """Time the boldest policies beside the full model, and find the vision tower's share of a full batch.

    Args:
        samples: with an image each; the batches are drawn from them as `measure_seconds` does.
    """
    inputs = encode(processor, list(samples[:batch_size]), model.device).inputs

    def run() -> None:
        model.generate(**inputs, do_sample=False, min_new_tokens=answer_tokens, max_new_tokens=answer_tokens)

    can: dict[str, tuple[Policy, float]] = {"nothing leaves": (KeepAll(), 0.0)}
    for name, policy in boldest(anatomy_of(model), options).items():
        try:
            with attach(model, policy):
                run()
        except LookawayError:  # not every method fits every model; the search says which
            continue
        can[name] = policy, 0.0
    timed = measure_seconds(
        model, processor, samples, can, batch_size=batch_size, answer_tokens=answer_tokens, repeats=3, seed=seed
    )
    full = timed.pop("nothing leaves").full_seconds
    tower = _tower_share(model, run)
    fastest = max(timed, key=lambda name: timed[name].speedup, default=None)
    return Reach(full, tower, fastest, 1.0 if fastest is None else timed[fastest].speedup)


def _tower_share(model: Any, run: Callable[[], None]) -> float | None:
    """Seconds inside the vision tower and its projector / seconds of the whole run, the median of three."""
    backbone = anatomy_of(model).backbone
    inner = getattr(backbone, "get_image_features", None)
    if inner is None:
        return None
    spent = [0.0]

    def now() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return time.perf_counter()

    @functools.wraps(inner)  # generate reads its signature
    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = now()
        try:
            return inner(*args, **kwargs)
        finally:
            spent[0] += now() - begun

    shares, own = [], vars(backbone).get("get_image_features")
    backbone.get_image_features = timed  # type: ignore[assignment]
    try:
        for _ in range(3):
            spent[0], begun = 0.0, now()
            run()
            shares.append(spent[0] / (now() - begun))
    finally:
        del backbone.get_image_features  # the class's own method is there again
        if own is not None:
            backbone.get_image_features = own
    middle = sorted(shares)[1]
    return middle if middle > 0 else None
