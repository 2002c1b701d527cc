"""Read-only probes: how much the text looks at the image, layer by layer, without an S x S map.

The decoder's attention is selected under a name of our own, whose function calls the model's usual one and beside it
recomputes the rows that are asked for. Nothing that transformers registered is wrapped, and the name is put back.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..anatomy.base import anatomy_of
from ..core.errors import AttachError, UnsupportedModel
from ..core.layout import TokenLayout
from .attach import check_detached

__all__ = ["Looks", "Observation", "observe"]

NAMES = {"sdpa": "lookaway_sdpa", "eager": "lookaway_eager"}


@dataclass(frozen=True)
class Looks:
    """Attention weights of one layer on all columns of a prompt, zero where a column is not visual."""

    last: Tensor  # [B, heads, S]
    """From the last prompt token."""
    text_mean: Tensor  # [B, heads, S]
    """Mean over the text tokens after the first visual one."""
    text_max: Tensor  # [B, heads, S]


@dataclass
class Observation:
    """What was seen of the latest prompt; a context manager, and a handle with `stop()`."""

    layers: tuple[int, ...]
    looks: dict[int, Looks] = field(default_factory=dict)
    """Layer -> its attention weights."""
    layout: TokenLayout | None = None
    """Layout of the latest prompt."""
    _undo: list[Any] = field(default_factory=list)

    def stop(self) -> None:
        """Take the probes off; a second call does nothing."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Observation:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def observe(model: Any, layers: Sequence[int] | None = None) -> Observation:
    """Observe the attention of text on visual tokens in prefill.

    Args:
        model: a supported model with SDPA or eager attention and no policy attached.
        layers: decoder layers to look at; None: all.

    Raises:
        UnsupportedModel: another attention implementation.
        AttachError: a policy or other probes are attached.
    """
    anatomy = anatomy_of(model)
    check_detached(anatomy)
    usual = anatomy.attention
    if usual in NAMES.values():
        raise AttachError("This model is observed already. Stop that observation first.")
    if usual not in NAMES:
        raise UnsupportedModel(f"Probes read SDPA or eager attention, not {usual!r}. Load the model with one of them.")
    _register()
    seen = Observation(tuple(range(anatomy.num_layers)) if layers is None else tuple(layers))
    parameters = tuple(inspect.signature(type(anatomy.backbone).forward).parameters)[1:]

    def before_model(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = {**dict(zip(parameters, args, strict=False)), **kwargs}
        cache = inputs.get("past_key_values")
        if cache is None or cache.get_seq_length() == 0:
            seen.looks.clear()
            seen.layout = anatomy.layout(inputs["input_ids"], inputs.get("attention_mask"))

    hook = anatomy.backbone.register_forward_pre_hook(before_model, with_kwargs=True)
    seen._undo.append(hook.remove)
    for layer in seen.layers:
        attention = anatomy.layers[layer].self_attn
        _observed[id(attention)] = (seen, layer)
        seen._undo.append(partial(_observed.pop, id(attention), None))
    decoder: Any = anatomy.language_model
    decoder.set_attn_implementation(NAMES[usual])
    seen._undo.append(lambda: decoder.set_attn_implementation(usual))
    return seen


_observed: dict[int, tuple[Observation, int]] = {}
"""id of an attention module -> who observes it, and which layer it is."""


def _register() -> None:
    """Give our names to transformers' tables; done once."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask, sdpa_mask

    known = AttentionInterface()
    if NAMES["sdpa"] in known:
        return
    sdpa = known["sdpa"]
    AttentionInterface.register(NAMES["sdpa"], lambda module, *args, **kwargs: _probe(sdpa, module, *args, **kwargs))
    AttentionInterface.register(NAMES["eager"], lambda module, *args, **kwargs: _probe(None, module, *args, **kwargs))
    AttentionMaskInterface.register(NAMES["sdpa"], sdpa_mask)
    AttentionMaskInterface.register(NAMES["eager"], eager_mask)


def _probe(usual: Any, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
    """The usual attention, after a look at the rows that are asked for."""
    seen, layer = _observed.get(id(module), (None, 0))
    if seen is not None and seen.layout is not None and query.shape[2] == seen.layout.visual.shape[1] == key.shape[2]:
        with torch.no_grad():
            seen.looks[layer] = _looks(seen.layout, query, key, mask, kwargs.get("scaling"))
    if usual is None:  # eager attention lives beside the model's own code
        usual = sys.modules[type(module).__module__].eager_attention_forward
    return usual(module, query, key, value, mask, **kwargs)


def _looks(layout: TokenLayout, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> Looks:
    """Rows of the attention map that belong to question text, on visual columns.

    Args:
        query: [B, heads, S, d]; key: [B, KV heads, S, d].
    """
    # 1. The rows: question text, padded to the longest; the last token is the last of them.
    question = layout.question_mask()  # [B, S]
    count = int(question.sum(1).max())
    rows = question.to(torch.uint8).argsort(dim=1, stable=True)[:, question.shape[1] - count :]  # [B, T]
    real = question.gather(1, rows)[:, None, :, None]  # [B, 1, T, 1]

    # 2. Their weights on all columns.
    heads, size = query.shape[1], query.shape[3]
    chosen = query.gather(2, rows[:, None, :, None].expand(-1, heads, -1, size))
    keys = key.repeat_interleave(heads // key.shape[1], dim=1)
    scores = (chosen @ keys.transpose(2, 3)).float() * (size**-0.5 if scaling is None else scaling)  # [B, heads, T, S]
    if mask is None:
        allowed = torch.arange(key.shape[2], device=rows.device) <= rows[:, :, None]
        scores = scores.masked_fill(~allowed[:, None], -torch.inf)
    else:
        part = mask.expand(len(rows), -1, -1, -1)
        part = part.gather(2, rows[:, None, :, None].expand(-1, part.shape[1], -1, part.shape[3]))
        scores = scores.masked_fill(~part, -torch.inf) if part.dtype == torch.bool else scores + part
    weights = scores.softmax(-1).masked_fill(~real, 0.0)

    # 3. What falls on the image.
    weights = weights * layout.visual[:, None, None, :]
    mean = weights.sum(2) / real.sum(2)
    return Looks(weights[:, :, -1], mean, weights.amax(2))
