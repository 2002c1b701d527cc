"""Policies that look at no state: keep everything, leave at a set layer, leave at a random one. The baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.decision import KEEP, Decision, LayerView, Policy
from ..core.errors import SettingsError
from ..core.registry import register

__all__ = ["ExitAt", "KeepAll", "RandomExit"]


@register("keep-all")
@dataclass(frozen=True)
class KeepAll(Policy):
    """Nothing leaves: the unpruned model, attached."""

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        return ()

    def decide(self, view: LayerView) -> Decision:
        return KEEP

    def to_config(self) -> dict[str, Any]:
        return {}


@register("exit-at")
@dataclass(frozen=True)
class ExitAt(Policy):
    """All visual tokens leave before one set layer, the same for all rows or one a row.

    With one layer for all rows this is the fixed exit of VTW (arXiv 2405.05803).
    """

    layer: int | Sequence[int | None] | None
    """The layer before which they leave; a sequence has one entry a row of the batch; None or the model's number of
    layers: never."""

    def __post_init__(self) -> None:
        entries = [self.layer] if isinstance(self.layer, int) or self.layer is None else tuple(self.layer)
        for entry in entries:
            if entry is not None and (isinstance(entry, bool) or not isinstance(entry, int)):
                raise SettingsError(f"ExitAt takes a layer (int), None, or one of these a row, not {entry!r}.")
        if isinstance(entries, tuple):
            object.__setattr__(self, "layer", entries)  # hashable

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        entries = self.layer if isinstance(self.layer, Sequence) else (self.layer,)
        asked = sorted({entry for entry in entries if entry is not None and entry != num_layers})
        check_layers(asked, num_layers, first_prunable, "ExitAt")
        return tuple(asked)

    def can_exit(self, num_layers: int) -> bool:
        entries = self.layer if isinstance(self.layer, Sequence) else (self.layer,)
        return any(entry is not None and entry != num_layers for entry in entries)

    def decide(self, view: LayerView) -> Decision:
        if not isinstance(self.layer, Sequence):
            return Decision.drop_visual(view, view.has_visual_tokens)
        if len(self.layer) != len(view.hidden):
            raise SettingsError(
                f"ExitAt was given {len(self.layer)} layers, one a row, but the batch has {len(view.hidden)} rows. "
                "Give as many entries as rows (beams count as rows), or one int for all."
            )
        leaves = [entry == view.layer for entry in self.layer]
        return Decision.drop_visual(view, torch.tensor(leaves, device=view.hidden.device))

    def to_config(self) -> dict[str, Any]:
        return {"layer": list(self.layer) if isinstance(self.layer, Sequence) else self.layer}


@register("random-exit")
@dataclass(frozen=True)
class RandomExit(Policy):
    """All visual tokens leave before a random layer: what a gate is worth must show beside this.

    Nothing is remembered between layers: a row that still waits before layer k leaves with the probability that the
    draw is k given that it is at least k. The random number is a hash of the seed, the layer and the row's mean state,
    so the same prompt gives the same layer on every run (in fp32 also in another batch, but for rare ties), and similar
    prompts may draw alike.
    """

    exits: Sequence[int]
    """Layers to draw from, ascending; the model's number of layers stands for 'never'."""
    probabilities: Sequence[float] | None = None
    """One a layer, together 1; None: all alike."""
    seed: int = 0

    def __post_init__(self) -> None:
        exits = tuple(self.exits)
        weights = (
            tuple(self.probabilities) if self.probabilities is not None else (1 / max(len(exits), 1),) * len(exits)
        )
        if not exits or list(exits) != sorted(set(exits)):
            raise SettingsError(f"RandomExit draws from ascending layers, each once, not from {list(exits)}.")
        if len(weights) != len(exits) or min(weights) < 0 or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
            raise SettingsError(
                f"RandomExit needs one probability a layer, together 1: {len(exits)} layers, {len(weights)} "
                f"probabilities with sum {sum(weights):.4g}."
            )
        object.__setattr__(self, "exits", exits)
        object.__setattr__(self, "probabilities", weights)

    @classmethod
    def with_mean(cls, mean: float, num_layers: int, first: int = 1, seed: int = 0) -> RandomExit:
        """Draws from `first` to `num_layers` (never) with this mean, and otherwise as evenly as can be (the
        distribution of greatest entropy)."""
        if not first <= mean <= num_layers:
            raise SettingsError(f"No draw from {first} to {num_layers} has the mean {mean}.")
        exits = range(first, num_layers + 1)
        return cls(tuple(exits), even_weights(exits, mean), seed)

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        asked = [layer for layer in self.exits if layer != num_layers]
        check_layers(asked, num_layers, first_prunable, "RandomExit")
        return tuple(asked)

    def can_exit(self, num_layers: int) -> bool:
        return True

    def decide(self, view: LayerView) -> Decision:
        assert self.probabilities is not None
        at = list(self.exits).index(view.layer)
        left = sum(self.probabilities[at:])
        hazard = self.probabilities[at] / left if left > 1e-12 else 1.0
        return Decision.drop_visual(view, view.has_visual_tokens & (self._uniform(view) < hazard))

    def _uniform(self, view: LayerView) -> Tensor:
        """A number in [0, 1) a row, [B]: the mean state along a random direction, far behind its decimal point."""
        real = ~view.layout.padding[:, :, None]
        mean = view.hidden.float().masked_fill(~real, 0.0).sum(1) / real.sum(1)  # [B, D]
        draw = torch.Generator().manual_seed(1_000_003 * self.seed + view.layer)
        direction = torch.randn(mean.shape[1], generator=draw).to(mean.device)
        return (1000 * (mean @ direction) / mean.norm(dim=1).clamp(min=1e-12)) % 1

    def to_config(self) -> dict[str, Any]:
        assert self.probabilities is not None
        return {"exits": list(self.exits), "probabilities": list(self.probabilities), "seed": self.seed}


def even_weights(layers: Sequence[int], mean: float) -> tuple[float, ...]:
    """The distribution over ascending `layers` of greatest entropy with this mean (between their ends)."""
    places = torch.tensor(list(layers), dtype=torch.float64)
    low, high = -50.0, 50.0
    weights = places.new_full((len(places),), 1 / len(places))
    for _ in range(100):
        middle = (low + high) / 2
        weights = (middle * places).softmax(0)
        low, high = (middle, high) if float(weights @ places) < mean else (low, middle)
    return tuple(weights.tolist())


def check_layers(layers: Sequence[int], num_layers: int, first_prunable: int, who: str) -> None:
    """Raise SettingsError unless each of `layers` is one before which this decoder's visual tokens may leave."""
    for layer in layers:
        if not first_prunable <= layer < num_layers:
            raise SettingsError(
                f"{who} asks to remove the visual tokens before layer {layer}, but this model allows "
                f"{first_prunable} to {num_layers - 1} (its first {first_prunable} "
                f"{'layer' if first_prunable == 1 else 'layers'} must see the image; {num_layers} = never). "
                "Choose a layer in that range."
            )
