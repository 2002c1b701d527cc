"""What can be set when exit gates are trained, and the presets (docs/methods/dyvte.md explains the names)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..core.errors import SettingsError
from ..core.preset_options import PresetOptions

__all__ = ["PRESETS", "GateOptions"]


_PUBLISHED = {
    "width": 2048, "shared": False, "norm": "none", "two_way": True, "monotone": False, "balance": False, "lr": 4e-5,
    "weight_decay": 0.0, "absolute": 0.0, "epochs": 1, "one_random_layer": False,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "light": {
        "width": 128, "shared": True, "norm": "standard", "two_way": False, "monotone": False, "balance": True,
        "lr": 1e-3, "weight_decay": 0.05, "absolute": 0.05, "epochs": 60, "one_random_layer": False,
    },
    "published": _PUBLISHED,
    "one-random-layer": {**_PUBLISHED, "one_random_layer": True},
}  # fmt: skip
"""light: the default (docs/methods/dyvte.md, 'Which gate'). published: the paper's shape, rate and epochs, all layers a
step. one-random-layer: the same, learnt as the official code does."""


@dataclass(frozen=True, kw_only=True)
class GateOptions(PresetOptions):
    """Train exit gates on cached features."""

    presets = PRESETS

    preset: Literal["light", "published", "one-random-layer"] = "light"
    """Values of the options that are not given; explained in docs/methods/dyvte.md."""
    width: int | None = None
    """Hidden units of a gate (light: 128; published: 2048)."""
    shared: bool | None = None
    """One gate for all layers with a learned embedding per layer (light: on), instead of one gate per layer."""
    norm: Literal["none", "layer", "standard"] | None = None
    """How features are normalised (light: standard, fitted on the training features; published: none)."""
    two_way: bool | None = None
    """Two outputs without bias, as published, instead of one."""
    layers: tuple[int, ...] = ()
    """Candidate layers; empty: all of the table's."""
    relative: float = 1.03
    """An exit is good where its loss is at most this times the full model's ..."""
    absolute: float | None = None
    """... plus this (light: 0.05; published: 0): a purely relative bound is too strict where losses are tiny."""
    criterion: Literal["published", "agreement"] = "published"
    """published: same answer tokens and the bound on the loss; agreement: same answer tokens alone."""
    monotone: bool | None = None
    """An exit is good only if every later candidate is good too (off in every preset: it costs accuracy)."""
    balance: bool | None = None
    """Give good and bad exits equal weight at each layer (light: on; published: off)."""
    lr: float | None = None
    """Peak learning rate (light: 1e-3; published: 4e-5)."""
    weight_decay: float | None = None
    """AdamW's weight decay (light: 0.05; published: 0)."""
    epochs: int | None = None
    """Passes over the training samples (light: 60; published: 1)."""
    batch_size: int = 128
    """Samples per step, each with all its layers."""
    one_random_layer: bool | None = None
    """Train on one random candidate layer in each step, as the published code does."""
    patience: int = 10
    """Stop after this many epochs without a better validation loss; 0: never stop early."""
    validation: float = 0.15
    """Share of the samples, chosen by id, that early stopping and the choice of the threshold see; 0: none."""
    agreement: float = 0.99
    """The threshold is the boldest whose answers agree with the full model's this often on the validation samples."""
    min_layer: int = 1
    """No exit before a layer below this one."""
    seed: int = 0
    """Seed of weights, batches and the validation part."""

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1 or not 0 <= self.agreement <= 1:
            raise SettingsError("--validation must be in [0, 1) and --agreement in [0, 1].")
        if self.batch_size < 1 or (self.epochs is not None and self.epochs < 1):
            raise SettingsError("--batch-size and --epochs must be at least 1.")
