"""The most that each kind of method can save on a model, from its sizes alone: what no ranking and no gate can beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..anatomy.families.shapes import decoder_shape, has_experts
from ..anatomy.from_config import shape_from_modules
from ..anatomy.support import state_of
from ..core.cost import DecoderShape
from ..core.errors import SettingsError, UnsupportedModel

__all__ = ["Ceiling", "ceilings", "shape_of_config"]


@dataclass(frozen=True)
class Ceiling:
    """One kind of method at its cheapest."""

    kind: str
    prefill_share: float
    """Counted FLOPs of the decoder's prefill / those of the unpruned run."""
    kv_share: float
    """KV bytes after prefill / those of the unpruned run."""
    total_share: float
    """FLOPs of prefill and answer together / those of the unpruned run."""


def ceilings(shape: DecoderShape, visual: int, text: int, answer: int = 64, first_prunable: int = 1) -> list[Ceiling]:
    """The kinds, from the unpruned run to what saves most.

    Args:
        visual: visual tokens of the prompt. text: its other tokens. answer: tokens that are generated.
        first_prunable: the smallest layer inside the decoder before which something may leave;
            the number of layers where only removal before the decoder is possible.

    Raises:
        SettingsError: a number is below what makes sense.
    """
    if visual < 1 or text < 1 or answer < 0:
        raise SettingsError(f"visual and text are from 1 on, answer from 0 on, not {visual}, {text} and {answer}.")
    depth, whole = shape.num_layers, visual + text
    rows: list[tuple[str, list[int], int]] = [("nothing removed", [whole] * depth, 0)]
    frozen = [("visual tokens frozen in 60 % of the layers", round(0.6 * depth)),
              ("visual tokens frozen in all layers", depth)]  # fmt: skip
    inside = first_prunable < depth
    for share in (0.75, 0.5, 0.25) if inside else ():
        layer = max(round(share * depth), first_prunable)
        rows.append((f"all leave before layer {layer}", [whole] * layer + [text] * (depth - layer), 0))
    if inside:
        early = [whole] * first_prunable + [text] * (depth - first_prunable)
        rows.append((f"all leave before layer {first_prunable}, the first that allows it", early, 0))
    for keep in (0.5, 0.25):
        rows.append((f"{keep:.0%} enter the decoder", [round(keep * visual) + text] * depth, 0))
    rows.append(("none enters the decoder", [text] * depth, 0))
    if inside:
        rows.append(("half of the attentions skipped", [whole] * depth, depth // 2))
        rows.append(("all attentions but one skipped", [whole] * depth, depth - 1))
    costs = [(kind, *_cost(shape, tokens, skipped, answer)) for kind, tokens, skipped in rows]
    costs += [(kind, *_cost(shape, [whole] * depth, 0, answer, [visual] * count)) for kind, count in frozen if inside]
    _, prefill, kv, total = costs[0]
    return [Ceiling(kind, p / prefill, k / kv, t / total) for kind, p, k, t in costs]


def _cost(
    shape: DecoderShape, tokens: Sequence[int], skipped: int, answer: int, held: Sequence[int] = ()
) -> tuple[int, int, int]:
    """(prefill FLOPs, KV bytes after prefill, FLOPs with the answer), the last `skipped` layers without attention.

    `held`: tokens that the first layers freeze.
    """
    prefill = kv = decode = 0
    for layer, count in enumerate(tokens):
        attends = layer < len(tokens) - skipped
        prefill += shape.layer_flops(count, attends, held[layer] if layer < len(held) else 0, layer)
        decode += answer * shape.layer_flops(1, attends, 0, layer)
        if attends:
            kv += shape.kv_bytes(count, layer)
            seen = (
                answer * count + answer * (answer - 1) // 2
            )  # keys before each answer token; its own is counted above
            decode += 2 * shape.layer(layer).scores * seen
    return prefill, kv, prefill + decode


def shape_of_config(config: Any) -> tuple[DecoderShape, int]:
    """The decoder's sizes, and the first layer inside it before which something may leave, from a config alone.

    Raises:
        UnsupportedModel: the config names no decoder whose sizes are of the usual kind.
    """
    text = config.get_text_config()
    state = state_of(config.model_type)
    if has_experts(text) or (state is not None and state[0] == "before the decoder only"):
        return shape_from_modules(config)
    try:
        shape = decoder_shape(text, 2)
    except (AttributeError, TypeError) as error:
        raise UnsupportedModel(
            f"The config of {config.model_type!r} does not give the sizes of a decoder ({error}). `lookaway bench` "
            "measures a model itself."
        ) from error
    features = getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None) or ()
    return shape, max(1, len(features))
