"""TwigVLM (arXiv 2503.14075): a few layers grown behind an early one say which visual tokens stay from there on.

Source: *Growing a Twig to Accelerate Large Vision-Language Models*, ICCV 2025. `docs/methods/twig.md` says what is
different here and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor

from ..core.attention_inputs import last_text_slot
from ..core.base_model import BaseModel
from ..core.decision import LayerView
from ..core.errors import DataError, SettingsError
from ..core.registry import register
from ..core.twig import TwigSpec
from .ranked import Keep, RankedPolicy, check_some, steps_to_entries
from .ranking import Ranking, Wanted

__all__ = ["Twig"]


def _twig_attention(view: LayerView, wanted: Wanted) -> Tensor:
    """Attention of the last prompt token in the twig's last layer on each slot, mean over heads. [B, S]"""
    if view.twig is None:
        raise SettingsError(
            f"The twig's attention was not given before layer {view.layer}: this engine does not carry twigs out."
        )
    return view.twig.weights(last_text_slot(view.layout.text)[:, None])[:, :, 0].mean(1)


@register("twig")
@dataclass(frozen=True, eq=False, kw_only=True)
class Twig(RankedPolicy):
    """Before layer K, the visual tokens stay that a twig's last layer attends to most; later all leave (TwigVLM).

    The twig is T decoder layers behind layer K, trained (`lookaway train --method twig`) while the model is frozen.
    Without weights it is layers K to K + T - 1 of the model themselves: the ranking of a layer that lies T layers
    deeper. It runs once, in prefill, and its FLOPs are counted in the trace's cost.

    Raises:
        SettingsError: settings that are out of range.
    """

    start: int = 2
    """K: so many layers see all tokens, and the twig grows behind them (published: 2)."""
    depth: int = 3
    """T: layers of the twig (published: 3)."""
    keep: Keep = 227 / 576
    """R: what stays from layer K on, as a share (float) or a count (int). Published: 227, 134 or 41 of 576."""
    final: int | None = None
    """K_f: before this layer all visual tokens leave; None: never. Published: 24 of 32."""
    training: Mapping[str, Any] | None = None
    """How the weights came about."""
    weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Trained weights; empty: those of the model's own layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("start", 1), ("depth", 1), ("final", 1)):
            value = getattr(self, name)
            if name == "final" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SettingsError(f"A twig's {name} is a whole number from {least} on, not {value!r}.")
        check_some(self.keep, "Twig")
        if self.final is not None and self.final <= self.start:
            raise SettingsError(
                f"All tokens leave before layer {self.final}, but the twig chooses among them before layer "
                f"{self.start}: give a later 'final', or none."
            )

    def twig(self) -> TwigSpec:
        return TwigSpec(self.start, self.depth, self.weights)

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        if self.start + self.depth > num_layers:
            raise SettingsError(
                f"A twig of {self.depth} layers behind layer {self.start} does not fit a decoder of {num_layers} "
                "layers: 'start' + 'depth' is at most their number."
            )
        steps: dict[int, Keep] = {self.start: self.keep}
        if self.final is not None:
            steps[self.final] = 0
        return steps_to_entries(steps, num_layers, "Twig")

    def order(self) -> Ranking:
        return Ranking("twig", "attention of the last prompt token in the twig's last layer", _twig_attention)

    def can_exit(self, num_layers: int) -> bool:
        return self.final is not None

    def at(self, keep: Keep, final: int | None = None) -> Self:
        """The same twig with another number of tokens."""
        other = replace(self, keep=keep, final=final)
        object.__setattr__(other, "base", self.base)
        return other

    def with_base(self, base: BaseModel | None) -> Self:
        other = replace(self)
        object.__setattr__(other, "base", base)
        return other

    # on disk ---------------------------------------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        training = None if self.training is None else dict(self.training)
        names = ("start", "depth", "keep", "final", "positions")
        return {**{name: getattr(self, name) for name in names}, "training": training}

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.weights)

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> Self:
        for name, value in (tensors or {}).items():
            if not bool(value.isfinite().all()):
                raise DataError(f"Twig: weight {name!r} holds NaN or infinite values. Train it again.")
        try:
            return cls(**config, weights=dict(tensors or {}))
        except TypeError as error:
            raise DataError(
                f"These are no settings of 'twig' ({error}). Known: start, depth, keep, final, positions."
            ) from error

    def card(self) -> str:
        what = "trained" if self.weights else "not trained: the model's own layers"
        end = "they stay to the end" if self.final is None else f"before layer {self.final} all leave"
        return (
            f"A twig (TwigVLM, arXiv 2503.14075) of {self.depth} layers behind layer {self.start}, {what}. The "
            f"attention of the last prompt token in its last layer ranks the visual tokens: {self.keep} of them stay "
            f"from layer {self.start} on, and {end}."
        )
