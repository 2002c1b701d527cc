"""ShortV (arXiv 2504.00502): visual tokens are frozen in the layers that hardly change them for the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.decision import KEEP, Decision, LayerView, Policy
from ...core.errors import SettingsError
from ...core.registry import register

__all__ = ["PUBLISHED", "ShortV", "least_divergent"]

PUBLISHED: Mapping[str, tuple[int, ...]] = {
    "llava-1.5-7b": (31, 29, 30, 28, 0, 26, 27, 25, 24, 22, 23, 21, 2, 3, 20, 18, 17, 12, 19),
    "llava-1.5-13b": (39, 32, 28, 36, 27, 37, 29, 30, 1, 38, 25, 31, 2, 26, 23, 34, 0, 33, 35, 22, 24, 21, 20, 17),
    "llava-next-7b": (31, 29, 30, 28, 26, 27, 22, 24, 21, 23, 25, 20, 19, 17, 18, 15, 12, 0, 2),
    "llava-next-13b": (39, 32, 29, 36, 27, 30, 37, 23, 25, 31, 26, 2, 28, 22, 33, 35, 34, 24, 38, 21, 20, 18, 1, 17),
}
"""Frozen layers by model, the least important first, as the authors' repository lists them."""


@register("shortv")
@dataclass(frozen=True)
class ShortV(Policy):
    """In chosen layers visual tokens are frozen: their states stay, their keys and values serve the text (ShortV).

    A frozen token costs its keys and values alone: no query, no output projection, no FFN. Nothing leaves, so the KV
    cache stays as long as it was. As published: 19 of 32 layers of LLaVA-1.5-7B, found by `least_divergent`.

    Raises:
        SettingsError: no layer, a layer twice; at attachment: one that the decoder does not have.
    """

    frozen: Sequence[int]
    """Layers (0-based) in which visual tokens are frozen."""

    def __post_init__(self) -> None:
        given = [self.frozen] if isinstance(self.frozen, int) else list(self.frozen)
        wrong = [layer for layer in given if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0]
        if wrong or not given or len(set(given)) != len(given):
            raise SettingsError(f"ShortV takes decoder layers (0-based), each once, not {given}.")
        object.__setattr__(self, "frozen", tuple(sorted(given)))

    @classmethod
    def published(cls, model: str, count: int | None = None) -> ShortV:
        """The first `count` layers (None: all) of the authors' list for a model of `PUBLISHED`.

        Raises:
            SettingsError: there is no list for the model, or it is shorter.
        """
        if model not in PUBLISHED:
            raise SettingsError(
                f"ShortV's authors list no layers for {model!r}; they do for {', '.join(PUBLISHED)}. Find those of "
                "another model: lookaway search --method shortv."
            )
        order = PUBLISHED[model]
        if count is not None and not 1 <= count <= len(order):
            raise SettingsError(f"ShortV's list for {model} has 1 to {len(order)} layers, not {count}.")
        return cls(order[:count])

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        self.holds(num_layers)  # a wrong layer is told wherever the policy is read
        return ()

    def holds(self, num_layers: int) -> tuple[int, ...]:
        layers = tuple(self.frozen)
        if layers[-1] >= num_layers:
            raise SettingsError(
                f"ShortV freezes layers {list(layers)}, but this decoder has {num_layers} (0 to {num_layers - 1})."
            )
        return layers

    def decide(self, view: LayerView) -> Decision:
        return KEEP

    def to_config(self) -> dict[str, Any]:
        return {"frozen": list(self.frozen)}


def least_divergent(divergence: Mapping[int, float], count: int) -> tuple[int, ...]:
    """ShortV's choice of layers: those whose freezing alone changes the next token least.

    Args:
        divergence: layer -> mean KL divergence (nats, over calibration samples) between the next-token distributions
            with that layer's visual tokens frozen and without (the paper's layer contribution, LC).
        count: layers to freeze.

    Returns:
        `count` layers, the least divergent first; of equals the deeper one first.

    Raises:
        SettingsError: there are not so many layers.
    """
    if not 1 <= count <= len(divergence):
        raise SettingsError(f"ShortV can freeze 1 to {len(divergence)} of the measured layers, not {count}.")
    return tuple(sorted(divergence, key=lambda layer: (divergence[layer], -layer))[:count])
