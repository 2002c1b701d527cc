"""Adapters for skipped attentions (EAS), trained on answers with the base model frozen.

Steps, schedules and checkpoints are transformers' Trainer's; the base model is outside of what it sees, so a checkpoint
holds adapters alone. What an adapter knows of a prompt never comes from the teacher-forced answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ..anatomy.find import anatomy_of
from ..core.errors import SettingsError
from ..core.preset_options import PresetOptions
from ..core.random_state import seeded
from ..core.record import Sample
from ..engine.api import attach
from ..engine.handle import Handle
from ..engine.replay.teacher_forcing import attached_loss, frozen
from ..models.encoding import Encoded
from ..modules.adapters import AdapterShape, SkipAdapters, preset_shape
from ..policies.attention_skip import AttentionSkip
from .trainer import Progress, check_answered, check_counts, train_on_answers, training_facts

__all__ = ["PRESETS", "AdapterOptions", "AdapterRun", "train_adapters"]


PRESETS: dict[str, dict[str, Any]] = {
    "recommended": {
        "width": 64, "pool": "text", "once": True, "lr": 1e-3, "weight_decay": 0.0, "beta2": 0.999, "epochs": 1.0,
        "warmup": 0.03, "batch_size": 4, "accumulate": 1,
    },
    "published-llava": {
        "width": 256, "pool": "all", "once": False, "lr": 4e-4, "weight_decay": 0.0, "beta2": 0.999, "epochs": 20.0,
        "warmup": 0.03, "batch_size": 16, "accumulate": 4,
    },
    "published-lavin": {
        "width": 32, "pool": "all", "once": False, "lr": 1.125e-3, "weight_decay": 0.02, "beta2": 0.95, "epochs": 20.0,
        "warmup": 0.1, "batch_size": 4, "accumulate": 8,
    },
}  # fmt: skip
"""recommended: ours (docs/methods/eas.md says why). published-*: shape and rates of the official training."""


@dataclass(frozen=True, kw_only=True)
class AdapterOptions(PresetOptions):
    """Train adapters that replace skipped attentions."""

    presets = PRESETS

    preset: Literal["recommended", "published-llava", "published-lavin"] = "recommended"
    """Values of the options that are not given; explained in docs/methods/eas.md."""
    skip: tuple[int, ...] = ()
    """Layers whose attention is skipped (0-based); from `lookaway search --method eas`, or your own choice."""
    width: int | None = None
    """Hidden units of an adapter (recommended: 64; LLaVA: 256; LaVIN: 32)."""
    pool: Literal["text", "all", "none"] | None = None
    """What an adapter knows of the prompt: the mean of its text (recommended), of all (published), or nothing."""
    once: bool | None = None
    """Compute that mean once per series of skipped layers (recommended) instead of at each layer (published)."""
    lr: float | None = None
    """Peak learning rate (recommended: 1e-3; LLaVA: 4e-4; LaVIN: 1.125e-3)."""
    weight_decay: float | None = None
    """AdamW's weight decay (LaVIN: 0.02; others: 0)."""
    beta2: float | None = None
    """AdamW's second beta (LaVIN: 0.95; others: 0.999)."""
    epochs: float | None = None
    """Passes over the samples (recommended: 1; published: 20)."""
    warmup: float | None = None
    """Share of the steps in which the learning rate rises (LaVIN: 0.1, its 2 of 20 epochs; others: 0.03)."""
    batch_size: int | None = None
    """Samples per forward pass (recommended and LaVIN: 4; LLaVA: 16)."""
    accumulate: int | None = None
    """Batches whose gradients are accumulated for one step (LLaVA: 4, LaVIN: 8 on one device, as on their 4 and 2)."""
    max_steps: int = -1
    """Stop after this many steps; -1: use --epochs."""
    save_steps: int = 200
    """Save a checkpoint every this many steps; the same command continues from the latest."""
    checkpointing: bool = False
    """Gradient checkpointing: less memory, more time."""
    bf16: bool = False
    """Mixed precision in bfloat16."""
    seed: int = 0
    """Seed of the adapters, their dropout and the order of samples."""

    def __post_init__(self) -> None:
        check_counts(self, "batch_size", "accumulate", "save_steps", "width")

    def shape(self) -> AdapterShape:
        """The form of the adapters."""
        o = self.filled()
        assert o.width is not None
        assert o.pool is not None
        assert o.once is not None
        return replace(preset_shape(o.preset, o.width), pool=o.pool, once=o.once)


@dataclass(frozen=True)
class AdapterRun:
    """Trained adapters and how they came about."""

    policy: AttentionSkip
    history: list[dict[str, float]]
    """The Trainer's log: step, loss, learning_rate, ..."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Options, samples, steps, trained weights: plain values for records and the saved policy."""


def train_adapters(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    out: str | Path,
    options: AdapterOptions | None = None,
    fresh: bool = False,
    progress: Progress = lambda done, total: None,
) -> AdapterRun:
    """Train the adapters of a skip set; `out/checkpoints` lets the same call go on after a kill.

    `fresh` removes the checkpoints first; `progress` gets (steps done, steps of the run) after each.

    The model is left as it was: its weights are frozen meanwhile and run in eval mode.

    Raises:
        DataError: no samples, or one without an answer.
        StaleResults: the checkpoints are of another model, other samples or other options.
        SettingsError: no layers to skip, or layers that the model does not have.
        MissingDependency: accelerate is not installed.
    """
    options = (options or AdapterOptions()).filled()
    check_answered(samples, "adapters learn answers")
    if not options.skip:
        raise SettingsError("Give the layers to skip: --skip 19 --skip 21 ..., or search them (docs/methods/eas.md).")
    anatomy = anatomy_of(model)
    anatomy.require_inside("Training adapters for skipped attentions")
    AttentionSkip(options.skip).skips(anatomy.num_layers)
    with seeded(options.seed):
        adapters = SkipAdapters(anatomy.shape.hidden_size, options.skip, options.shape())
    facts, identity = training_facts(model, processor, samples, options), anatomy.identity
    device = next(anatomy.model.parameters()).device
    adapters.to(device).train()
    policy = AttentionSkip(options.skip, adapters)
    with frozen(anatomy.model, options.checkpointing), attach(model, policy) as attached:  # through backward passes too
        done = train_on_answers(
            AdapterTask(model, attached, adapters), lambda task, batch, _: task(batch), processor, samples,
            Path(out) / "checkpoints", device, options, facts, fresh, progress,
            weight_decay=options.weight_decay, adam_beta2=options.beta2,
        )  # fmt: skip
    summary = {
        "method": "eas",
        "options": asdict(options),
        "skipped": list(options.skip),
        "samples": len(samples),
        "steps": done.steps,
        "trained_weights": sum(weight.numel() for weight in adapters.parameters()),
        "resumed_from": done.resumed_from,
    }
    trained = AttentionSkip(options.skip, adapters.cpu().eval(), identity, summary)
    return AdapterRun(trained, done.history, summary)


class AdapterTask(nn.Module):
    """Batch -> mean cross-entropy of its answers; its parameters are the adapters' alone, the base model is no part."""

    def __init__(self, base: Any, attached: Handle, adapters: SkipAdapters) -> None:
        super().__init__()
        self.adapters = adapters
        self._base = (base, attached)

    def forward(self, batch: Encoded) -> Tensor:
        return attached_loss(*self._base, batch)
