"""A twig as a value: a few decoder layers and a norm of their own, grown behind an early layer of a frozen model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["TwigSpec"]


@dataclass(frozen=True, eq=False)
class TwigSpec:
    """Where a twig grows and what it weighs (TwigVLM, arXiv 2503.14075). Engine and policies meet only here."""

    start: int
    """K: the twig reads the states that enter decoder layer K; so many layers of the model lie under it."""
    depth: int
    """T: its decoder layers, copies of layers K to K + T - 1 at first."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Trained weights, `layers.<i>.<name>` and `norm.<name>`; empty: not trained, those of the model's own layers."""
    ranks: bool = False
    """Its last layer's attention ranks the visual tokens before layer K (`LayerView.twig`)."""
