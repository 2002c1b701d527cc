"""The settings of a search for attentions to skip, with the published constants as presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ...core.errors import SettingsError
from ...core.preset_options import PresetOptions
from ...modules.adapters import AdapterShape, preset_shape

__all__ = ["PRESETS", "SkipSearchOptions"]


PRESETS: dict[str, dict[str, Any]] = {
    "recommended": {"gate": "sigmoid", "subsets": 5, "turn": 5, "score_lr": 1.0, "warm": 0.3, "grow": False,
                    "width": 64, "lr": 1e-3},
    "published-llava": {"gate": "sigmoid", "subsets": 5, "turn": 3, "score_lr": 1.0, "warm": 0.75, "grow": True,
                        "width": 256, "lr": 2e-4},
    "published-lavin": {"gate": "softmax", "subsets": 3, "turn": 10, "score_lr": 2.0, "warm": 0.5, "grow": False,
                        "width": 32, "lr": 1.125e-3},
    "published-meter": {"gate": "sigmoid", "subsets": 3, "turn": 10, "score_lr": 1.0, "warm": 0.1, "grow": False,
                        "width": 144, "lr": 1.25e-4},
}  # fmt: skip
"""The published constants of the bandit; warm-up as a share of the published searches' steps."""


@dataclass(frozen=True, kw_only=True)
class SkipSearchOptions(PresetOptions):
    """Search the attentions that your data needs least (EAS)."""

    presets = PRESETS

    preset: Literal["recommended", "published-llava", "published-lavin", "published-meter"] = "recommended"
    """Values of the options that are not given; explained in docs/methods/eas.md."""
    skip: int = 4
    """How many attentions to skip."""
    arms: tuple[int, ...] = ()
    """Layers that may be skipped; empty: all."""
    train: bool = True
    """Train shared adapters meanwhile (a supernet), as published; off: evaluate plain skipping, train nothing."""
    steps: int = 1000
    """Training steps (without training: updates of the scores)."""
    gate: Literal["sigmoid", "softmax"] | None = None
    """Score -> probability (LaVIN: softmax of 10 x score; others: sigmoid)."""
    subsets: int | None = None
    """Subsets that are compared in one update of the scores (LLaVA: 5; LaVIN, METER: 3)."""
    turn: int | None = None
    """Steps between two updates (LLaVA: 3; LaVIN, METER: 10)."""
    score_lr: float | None = None
    """Step of the scores (LaVIN: 2; others: 1)."""
    warm: float | None = None
    """Share of the steps before the first update (LaVIN: 0.5; LLaVA: 0.75; METER: 0.1)."""
    grow: bool | None = None
    """Skip 1, 2, ... attentions in the first half of that time, as the LLaVA search does, instead of all at once."""
    width: int | None = None
    """Hidden units of an adapter (recommended: 64; LLaVA: 256; LaVIN: 32; METER: 144)."""
    lr: float | None = None
    """Peak learning rate of the adapters (recommended: 1e-3; LLaVA: 2e-4; LaVIN: 1.125e-3; METER: 1.25e-4)."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    batch_size: int = 4
    """Samples per training step and process."""
    reward_batch: int = 16
    """Held-out samples per process on which one update compares its subsets."""
    held_out: float = 0.2
    """Share of the samples, chosen by id, that rewards come from and nothing is trained on."""
    save_steps: int = 100
    """Save the state every this many steps; the same command continues from there."""
    seed: int = 0
    """Seed of adapters, draws and batches."""

    def __post_init__(self) -> None:
        if min(self.skip, self.steps, self.batch_size, self.reward_batch, self.save_steps) < 1:
            raise SettingsError("--skip, --steps, --batch-size, --reward-batch and --save-steps must be at least 1.")
        if not 0 < self.held_out < 1:
            raise SettingsError(f"--held-out is a share of the samples between 0 and 1, not {self.held_out}.")

    def shape(self) -> AdapterShape:
        """The form of the supernet's adapters."""
        o = self.filled()
        assert o.width is not None
        return preset_shape(o.preset, o.width)
