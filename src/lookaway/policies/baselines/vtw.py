"""VTW (arXiv 2405.05803): all visual tokens leave before one layer, the same for all inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...core.decision import Decision, LayerView, Policy
from ...core.errors import SettingsError
from ...core.registry import register
from ..fixed import check_layers

__all__ = ["VTW", "withdrawal_layer"]


@register("vtw")
@dataclass(frozen=True)
class VTW(Policy):
    """All visual tokens leave before layer K, found once a model from KL divergences (VTW).

    As published: half the depth for LLaVA-1.5-7B (K = 16 of 32). The same removal as `ExitAt(K)`; what is VTW's own is
    how K is found (`withdrawal_layer`).
    """

    layer: int
    """K: so many layers see the image."""

    def __post_init__(self) -> None:
        if isinstance(self.layer, bool) or not isinstance(self.layer, int):
            raise SettingsError(f"VTW takes one layer (int), not {self.layer!r}.")

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        if self.layer == num_layers:
            return ()
        check_layers([self.layer], num_layers, first_prunable, "VTW")
        return (self.layer,)

    def can_exit(self, num_layers: int) -> bool:
        return self.layer != num_layers

    def decide(self, view: LayerView) -> Decision:
        return Decision.drop_visual(view, view.has_visual_tokens)

    def to_config(self) -> dict[str, Any]:
        return {"layer": self.layer}


def withdrawal_layer(divergence: Mapping[int, float], threshold: float) -> int | None:
    """VTW's choice of K from measured divergences.

    Args:
        divergence: layer k -> mean KL divergence (nats, over calibration samples) of the next-token distribution with
            all visual tokens leaving before k from that of the full model.
        threshold: largest divergence that is let pass.

    Returns:
        The first layer whose divergence is below the threshold; None where none is.

    Raises:
        SettingsError: no layer was measured, or the threshold is not above 0.
    """
    if not divergence or not threshold > 0:
        raise SettingsError(f"VTW needs divergences of some layers and a threshold above 0, not {threshold}.")
    return next((layer for layer in sorted(divergence) if divergence[layer] < threshold), None)
