"""Where attention goes, layer by layer: every layer's map is made in blocks of rows that are reduced at once.

What is kept of a layer is some numbers a row and two vectors over the visual tokens, so memory does not grow with depth
and no S x S map of any layer ever exists. The sums are those of DyVTE (arXiv 2411.19628, section 3), with the columns
that the paper leaves out (system prompt, first token) beside them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...anatomy.base import Anatomy
from ...anatomy.find import anatomy_of
from ...core.attention_inputs import attention_rows, last_text_slot
from ...core.errors import AttachError, UnsupportedModel
from ...core.layout import TokenLayout
from .attention_spy import spy
from .one_forward import one_forward_at_a_time

__all__ = ["ENTROPIES", "FLOWS", "Flow", "FlowWatch", "reduce_attention", "require_observable", "watch_flow"]

FLOWS = ("visual_self", "cross", "text_self", "text_to_system", "text_to_first", "visual_to_system")
"""Sums over the map A of one layer, V visual tokens, T text tokens after the first of them, S system tokens before it:
visual_self = 1/v sum A[V, V]; cross = 1/t sum A[T, V]; text_self = 1/t sum A[T, T]; text_to_system = 1/t sum A[T, S];
text_to_first = 1/t sum A[T, first real token]; visual_to_system = 1/v sum A[V, S]."""
ENTROPIES = ("cross", "text_self", "cross_merged", "text_self_merged")
"""In nats, averaged over text rows. The first two: of each head's weights on V (or T), made to sum to 1, averaged over
heads. `_merged`: -sum A ln A of the map merged by maximum, as it is (it may exceed ln v): the paper gives no formula,
and its values are too large for the other."""
BLOCK = 64
"""Rows of the map that exist at once."""


@dataclass(frozen=True)
class Flow:
    """One layer's attention, reduced; fp32. NaN where a row has no such tokens."""

    by_max: dict[str, Tensor]
    """FLOWS of the map merged over heads by maximum, as published (so they may exceed 1); each [B]."""
    by_mean: dict[str, Tensor]
    """FLOWS of the map merged by mean: shares of attention; each [B]."""
    entropy: dict[str, Tensor]
    """ENTROPIES, each [B]."""
    last: Tensor  # [B, S]
    """From the last text token on each visual token, mean over heads; 0 on other columns."""
    text: Tensor  # [B, S]
    """The same, mean over all text tokens after the first visual one."""


@dataclass
class FlowWatch:
    """What was seen of the latest prompt; a context manager, and a handle with `stop()`."""

    flows: dict[int, Flow] = field(default_factory=dict)
    layout: TokenLayout | None = None
    """Layout of the latest prompt, at full length."""
    _undo: list[Any] = field(default_factory=list)

    def stop(self) -> None:
        """Take the probes off; a second call does nothing."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> FlowWatch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def watch_flow(model: Any, layers: Sequence[int] | None = None, block: int = BLOCK) -> FlowWatch:
    """Watch where the attention of each prompt goes, in prefill.

    A policy may be attached: layers after an exit are then reduced over the text that is left (prompts of one row).

    Args:
        model: a supported model with SDPA or eager attention.
        layers: decoder layers to look at; None: all.
        block: rows of a map that exist at once.

    Raises:
        UnsupportedModel: the attention of this model cannot be observed.
    """
    anatomy = anatomy_of(model)
    anatomy.require_inside("Measuring the flow of attention")
    require_observable(anatomy)
    watch = FlowWatch()
    parameters = tuple(inspect.signature(type(anatomy.backbone).forward).parameters)[1:]

    def before_model(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = {**dict(zip(parameters, args, strict=False)), **kwargs}
        cache = inputs.get("past_key_values")
        if cache is None or cache.get_seq_length() == 0:
            watch.flows.clear()
            watch.layout = anatomy.layout(inputs["input_ids"], inputs.get("attention_mask"))

    def see(layer: int, module: nn.Module, query: Tensor, key: Tensor, mask: Any, scaling: float) -> None:
        layout = watch.layout
        if layout is None or query.shape[2] != key.shape[2]:  # decoding
            return
        with torch.no_grad():
            left, question = _of_length(layout, query.shape[2])
            watch.flows[layer] = reduce_attention(left, question, query, key, mask, scaling, block)

    try:
        watch._undo += one_forward_at_a_time(anatomy.backbone)
        watch._undo.append(anatomy.backbone.register_forward_pre_hook(before_model, with_kwargs=True).remove)
        for layer in range(anatomy.num_layers) if layers is None else layers:
            watch._undo.append(spy(anatomy.layers[layer].self_attn, partial(see, layer)))  # type: ignore[arg-type]
    except BaseException:
        watch.stop()
        raise
    return watch


def require_observable(anatomy: Anatomy) -> None:
    """Raise UnsupportedModel, with the cure, where attention weights cannot be recomputed from queries and keys."""
    anatomy.require_inside("Seeing what each decoder layer reads from the image")
    name = anatomy.base.id or anatomy.base.architecture
    if anatomy.attention not in ("sdpa", "eager"):
        raise UnsupportedModel(
            f"The attention of {name} runs as {anatomy.attention!r}, whose masks cannot be read. Load the model with "
            "attn_implementation='sdpa'."
        )
    for index, layer in enumerate(anatomy.layers):
        attention = getattr(layer, "self_attn", None)
        config = getattr(attention, "config", None)
        if getattr(config, "_attn_implementation", None) is None:
            raise UnsupportedModel(
                f"Decoder layer {index} of {name} has no attention that chooses its function by its config, so its "
                "queries and keys cannot be read. Exit curves need no attention: lookaway eval."
            )
        if getattr(config, "attn_logit_softcapping", None) is not None or hasattr(attention, "sinks"):
            raise UnsupportedModel(
                f"The attention of {name} caps its scores or has extra sinks: its weights are not the softmax of "
                "queries and keys, so what would be shown is wrong. Exit curves need no attention: lookaway eval."
            )


def reduce_attention(
    layout: TokenLayout,
    question: Tensor,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    scaling: float,
    block: int = BLOCK,
) -> Flow:
    """The Flow of one attention call over a whole prompt.

    Args:
        layout: layout of its S slots.
        question: bool [B, S], the text tokens T (`TokenLayout.question_mask` of the whole prompt).
        query: [B, H, S, d]. key: [B, G, S, d].
        mask: [B or 1, 1 or H, S, S], bool or additive; None: causal.
        scaling: factor on the dot products.
    """
    batch, length = layout.visual.shape
    slots = torch.arange(length, device=query.device)
    visual = layout.visual
    system = layout.text & ~question
    first = slots == (~layout.padding).to(torch.uint8).argmax(1, keepdim=True)
    columns = torch.stack([visual, question, system, first], 1).float()  # [B, 4, S]
    is_last = slots == last_text_slot(layout.text)[:, None]
    sums = {name: torch.zeros(batch, 2, 4, device=query.device) for name in ("max", "mean")}
    entropy = torch.zeros(batch, len(ENTROPIES), device=query.device)
    last, text = (torch.zeros(batch, length, device=query.device) for _ in range(2))

    for start in range(0, length, block):
        rows = slots[start : start + block]
        allowed = _allowed(mask, rows, slots)
        weights = attention_rows(query, key, rows.expand(batch, -1), allowed, scaling)  # [B, H, R, S]
        weights = weights.masked_fill(layout.padding[:, None, rows, None], 0.0)
        which = torch.stack([visual[:, rows], question[:, rows]], 1).float()  # [B, 2, R]
        most, mean = weights.amax(1), weights.mean(1)  # [B, R, S]
        sums["max"] += which @ most @ columns.transpose(1, 2)
        sums["mean"] += which @ mean @ columns.transpose(1, 2)
        asking = question[:, rows].float()  # [B, R]
        entropy += torch.stack([(found * asking).sum(1) for found in _entropies(weights, most, columns[:, :2])], dim=1)
        text += (asking[:, None] @ mean)[:, 0]
        last += (is_last[:, None, rows].float() @ mean)[:, 0]

    asked, seen = question.sum(1).float(), visual.sum(1).float()  # 0 / 0 is NaN: there is nothing to average
    pairs = {"visual_self": (0, 0, seen), "cross": (1, 0, asked), "text_self": (1, 1, asked),
             "text_to_system": (1, 2, asked), "text_to_first": (1, 3, asked),
             "visual_to_system": (0, 2, seen)}  # fmt: skip
    merged = {
        name: {flow: found[:, r, c] / count for flow, (r, c, count) in pairs.items()} for name, found in sums.items()
    }
    entropy = entropy / asked[:, None]
    entropy[:, 0::2] = entropy[:, 0::2].masked_fill((seen == 0)[:, None], torch.nan)
    return Flow(merged["max"], merged["mean"], dict(zip(ENTROPIES, entropy.unbind(1), strict=True)),
                last * visual, text / asked[:, None] * visual)  # fmt: skip


def _allowed(mask: Tensor | None, rows: Tensor, slots: Tensor) -> Tensor:
    """What the rows may see, [B or 1, 1 or H, R, S]."""
    if mask is None:
        return (slots <= rows[:, None])[None, None]
    part = mask[:, :, rows]
    if part.dtype == torch.bool:
        return part | ~part.any(-1, keepdim=True)  # a row that sees nothing only pads: no NaN
    return part


def _entropies(weights: Tensor, most: Tensor, columns: Tensor) -> list[Tensor]:
    """ENTROPIES of each row, [B, R] each; `columns` [B, 2, S]: visual, text."""
    found = []
    logs = torch.special.entr(weights)  # -w ln w, [B, H, R, S]
    for chosen in columns.unbind(1):
        mass = weights @ chosen[:, None, :, None]  # [B, H, R, 1]
        spread = logs @ chosen[:, None, :, None]
        normal = torch.where(mass > 0, spread / mass.clamp(min=1e-30) + mass.clamp(min=1e-30).log(), 0.0)
        found.append(normal[..., 0].clamp(min=0).mean(1))
    merged = torch.special.entr(most)
    return [*found, *((merged @ chosen[:, :, None])[..., 0] for chosen in columns.unbind(1))]


def _of_length(layout: TokenLayout, length: int) -> tuple[TokenLayout, Tensor]:
    """The layout of the slots that a layer saw (all, or the text alone after an exit), and which are question text."""
    question = layout.question_mask()
    if length == layout.visual.shape[1]:
        return layout, question
    text = layout.text.nonzero()[:, 1]
    if len(layout.text) == 1 and len(text) == length:
        return layout.gather(text[None], torch.ones_like(text[None], dtype=torch.bool)), question[:, text]
    raise AttachError(
        f"A layer saw {length} of {layout.visual.shape[1]} tokens, which is neither all nor the text alone. Watch "
        "prompts one at a time while a policy is attached, and policies that drop all visual tokens at once."
    )
