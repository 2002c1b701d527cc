"""Read-only probes: the attention that text pays to the image, layer by layer, without an S x S map.

`attention_spy.py` shows the queries and keys of single attention modules; the rows that are asked for are recomputed
from them beside the model's usual attention.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from ...anatomy.find import anatomy_of
from ...core.attention_inputs import attention_rows, text_rows
from ...core.errors import AttachError, UnsupportedModel
from ...core.layout import TokenLayout
from ..attached import check_detached
from .attention_spy import spy
from .one_forward import one_forward_at_a_time

__all__ = ["Observation", "TextToImageAttention", "observe"]


@dataclass(frozen=True)
class TextToImageAttention:
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
    looks: dict[int, TextToImageAttention] = field(default_factory=dict)
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
        layers: decoder layers to observe; None: all.

    Raises:
        UnsupportedModel: another attention implementation.
        AttachError: a policy or other probes are attached; from a forward, that another thread's is running.
    """
    anatomy = anatomy_of(model)
    anatomy.require_inside("Reading attention layer by layer")
    check_detached(anatomy)
    if anatomy.attention not in ("sdpa", "eager"):
        raise UnsupportedModel(
            f"Probes read SDPA or eager attention, not {anatomy.attention!r}. Load the model with one of them."
        )
    if id(anatomy.backbone) in _observed:
        raise AttachError("This model is observed already. Stop that observation first.")
    seen = Observation(tuple(range(anatomy.num_layers)) if layers is None else tuple(layers))
    parameters = tuple(inspect.signature(type(anatomy.backbone).forward).parameters)[1:]

    def before_model(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = {**dict(zip(parameters, args, strict=False)), **kwargs}
        cache = inputs.get("past_key_values")
        if cache is None or cache.get_seq_length() == 0:
            seen.looks.clear()
            seen.layout = anatomy.layout(inputs["input_ids"], inputs.get("attention_mask"))

    seen._undo += one_forward_at_a_time(anatomy.backbone)
    hook = anatomy.backbone.register_forward_pre_hook(before_model, with_kwargs=True)
    seen._undo.append(hook.remove)
    for layer in seen.layers:
        seen._undo.append(spy(anatomy.layers[layer].self_attn, partial(_probe, seen, layer)))  # type: ignore[arg-type]
    _observed[id(anatomy.backbone)] = seen
    seen._undo.append(lambda: _observed.pop(id(anatomy.backbone), None))
    return seen


_observed: WeakValueDictionary[int, Observation] = WeakValueDictionary()
"""What is observed, by the id of the backbone; its hooks keep an observation alive as long as its model lives."""


def _probe(
    seen: Observation, layer: int, module: nn.Module, query: Tensor, key: Tensor, mask: Any, scaling: float
) -> None:
    """The rows that are asked for, in prefill."""
    if seen.layout is not None and query.shape[2] == seen.layout.visual.shape[1] == key.shape[2]:
        with torch.no_grad():
            seen.looks[layer] = _text_to_image(seen.layout, query, key, mask, scaling)


def _text_to_image(
    layout: TokenLayout, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float
) -> TextToImageAttention:
    """Rows of the attention map that belong to question text, on visual columns.

    Args:
        query: [B, heads, S, d]; key: [B, KV heads, S, d].
    """
    # 1. The rows: question text, padded to the longest; the last token is the last of them.
    rows, real = text_rows(layout.question_mask())  # [B, T]
    real = real[:, None, :, None]

    # 2. Their weights on all columns.
    if mask is None:
        allowed = (torch.arange(key.shape[2], device=rows.device) <= rows[:, :, None])[:, None]
    else:
        allowed = mask.expand(len(rows), -1, -1, -1)
        allowed = allowed.gather(2, rows[:, None, :, None].expand(-1, allowed.shape[1], -1, allowed.shape[3]))
    weights = attention_rows(query, key, rows, allowed, scaling).masked_fill(~real, 0.0)

    # 3. What falls on the image.
    weights = weights * layout.visual[:, None, None, :]
    mean = weights.sum(2) / real.sum(2)
    return TextToImageAttention(weights[:, :, -1], mean, weights.amax(2))
