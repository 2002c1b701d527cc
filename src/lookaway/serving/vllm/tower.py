"""What the vision tower's own attention says of each picture's tokens, read while vLLM runs the tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...core.vision_inputs import VisionInputs, attention_received

__all__ = ["Seen", "has_tower", "watched"]


def has_tower(model_config: Any) -> bool:
    """Whether each token of the model's vision tower becomes one visual token, as `Anatomy.vision` says it of the same
    model in transformers: a LLaVA around CLIP without its class token, or around SigLIP.

    Args:
        model_config: vLLM's.
    """
    config = model_config.hf_config
    if model_config.architectures[0] != "LlavaForConditionalGeneration":
        return False
    kind, rule = config.vision_config.model_type, config.vision_feature_select_strategy
    one_to_one = (kind, rule) in (("clip_vision_model", "default"), ("siglip_vision_model", "full"))
    return one_to_one and isinstance(config.vision_feature_layer, int)


class Seen:
    """Of the pictures of one step, by identifier."""

    def __init__(self, class_token: bool) -> None:
        self.class_token = class_token
        self.identifiers: Sequence[str] = ()
        self._calls: list[tuple[Tensor, Tensor]] = []

    def note(self, module: Any, inputs: tuple[Tensor, ...]) -> None:
        """Called with what the attention is called with: queries and keys [N, P, heads x d]."""
        queries, keys = (x.view(*x.shape[:2], module.num_heads, -1).transpose(1, 2) for x in inputs[:2])
        received = attention_received(queries, keys, module.scale, self.class_token)
        self._calls.append((received, keys.float().mean(1)[:, int(self.class_token) :]))

    def of(self, identifier: str) -> VisionInputs | None:
        """At the V visual tokens of a picture, [1, V] and [1, V, d]; None where it was not among them."""
        if identifier not in self.identifiers:
            return None
        place = self.identifiers.index(identifier)
        received, keys = (torch.cat(parts)[place, None] for parts in zip(*self._calls, strict=True))
        return VisionInputs(received, keys)


@contextmanager
def watched(runner: Any, scheduled: Any) -> Iterator[Seen]:
    """While the tower runs over the pictures of a step, see what its attention sees.

    vLLM builds a tower up to the layer whose states the projector reads: the last one is that to watch.

    Args:
        scheduled: vLLM's `SchedulerOutput`.
    """
    tower = runner.get_model().vision_tower
    seen = Seen(runner.model_config.hf_config.vision_config.model_type == "clip_vision_model")
    seen.identifiers = runner._batch_mm_inputs_from_scheduler(scheduled)[0]
    handle = tower.vision_model.encoder.layers[-1].self_attn.attn.register_forward_pre_hook(seen.note)
    try:
        yield seen
    finally:
        handle.remove()
