"""A twig, trained on answers with the model frozen (TwigVLM, arXiv 2503.14075).

Of each batch the model runs its first K layers, without a gradient; the twig's layers and norm go on from there to the
model's own head, and learn the answer's tokens; there several samples share a row (`engine/twig/packing.py`). Steps,
schedules and checkpoints are transformers' Trainer's; the model is outside of what it sees, so a checkpoint holds the
twig alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..anatomy.base import Anatomy
from ..anatomy.find import anatomy_of
from ..core.errors import DataError, SettingsError
from ..core.preset_options import PresetOptions
from ..core.processes import started
from ..core.record import Sample
from ..core.twig import TwigSpec
from ..engine.replay.teacher_forcing import frozen
from ..engine.twig.growth import LiveTwig, entering, grow
from ..engine.twig.packing import Slots
from ..models.encoding import Encoded
from ..policies.twig import Twig
from .trainer import Progress, check_answered, check_counts, train_on_answers, training_facts

__all__ = ["PRESETS", "TwigOptions", "TwigRun", "cost_in_prefills", "for_each_process", "loss_by_thousand",
           "train_twig", "twig_loss"]  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "published": {"lr": 1e-4, "epochs": 1.0, "warmup": 0.03, "batch_size": 16, "accumulate": 4},
    "small-data": {"lr": 5e-5, "epochs": 3.0, "warmup": 0.1, "batch_size": 8, "accumulate": 1},
}
"""published: the official training (665 000 samples, 64 a step). small-data: for some thousands of samples."""


@dataclass(frozen=True, kw_only=True)
class TwigOptions(PresetOptions):
    """Train a twig."""

    presets = PRESETS

    preset: Literal["published", "small-data"] = "small-data"
    """Values of the options that are not given; explained in docs/methods/twig.md."""
    start: int = 2
    """K: the twig grows behind so many layers (published: 2)."""
    depth: int = 3
    """T: layers of the twig (published: 3)."""
    lr: float | None = None
    """Peak learning rate (published: 1e-4; small-data: 5e-5)."""
    weight_decay: float = 0.0
    """AdamW's weight decay (published: 0)."""
    epochs: float | None = None
    """Passes over the samples (published: 1; small-data: 3)."""
    max_steps: int = -1
    """Stop after this many steps; -1: use --epochs."""
    batch_size: int | None = None
    """Samples that run together (published: 16; small-data: 8)."""
    accumulate: int | None = None
    """Batches of one step, of all processes together (published: 4, for 4 GPUs with 4 samples each; small-data: 1)."""
    warmup: float | None = None
    """Share of the steps in which the learning rate rises (published: 0.03; small-data: 0.1)."""
    pack: bool = True
    """Samples share rows of the twig's layers, each seeing itself alone, so that little is computed for padding."""
    save_steps: int = 200
    """Save a checkpoint every this many steps; the same command continues from the latest."""
    bf16: bool = False
    """Mixed precision in bfloat16."""
    seed: int = 0
    """Seed of the order of samples."""

    def __post_init__(self) -> None:
        check_counts(self, "start", "depth", "save_steps", "batch_size", "accumulate")


@dataclass(frozen=True)
class TwigRun:
    """What training left."""

    policy: Twig
    """With the twig's weights in bfloat16, and the model's fingerprint."""
    history: list[dict[str, float]]
    """The Trainer's log: step, loss, learning_rate, ..."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Options, samples, steps, trained weights, cost: plain values for records and the saved policy."""


def train_twig(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    out: str | Path,
    options: TwigOptions | None = None,
    fresh: bool = False,
    progress: Progress = lambda done, total: None,
) -> TwigRun:
    """Train a twig; `out/checkpoints` lets the same call go on after a kill.

    `fresh` removes the checkpoints first; `progress` gets (steps done, steps of the run) after each. The model is left
    as it was: its weights are frozen meanwhile, and it runs in eval mode.

    Raises:
        DataError: no samples, or one without an answer.
        StaleResults: the checkpoints are of another model, other samples or other options.
        SettingsError, UnsupportedModel: no such twig grows on this model (`engine.twig.growth.grow`); several processes
            cannot deal out the batches of a step (`for_each_process`).
        MissingDependency: accelerate is not installed.
    """
    options = (options or TwigOptions()).filled()
    check_answered(samples, "a twig learns answers")
    each = for_each_process(options, len(samples), started().count)
    anatomy = anatomy_of(model)
    twig = grow(anatomy, TwigSpec(options.start, options.depth))
    facts, identity = training_facts(model, processor, samples, options), anatomy.identity
    twig.requires_grad_(True)
    slots = Slots(options.pack)
    with frozen(anatomy.model):
        done = train_on_answers(
            TwigTask(anatomy, twig, slots), lambda task, batch, _: task(batch), processor, samples,
            Path(out) / "checkpoints", anatomy.model.device, each, facts, fresh, progress,
            weight_decay=options.weight_decay, ddp_find_unused_parameters=False,
        )  # fmt: skip
    batches = done.steps * (options.batch_size or 1) * (options.accumulate or 1)
    summary = {
        "method": "twig",
        "options": asdict(options),
        "samples": len(samples),
        "steps": done.steps,
        "trained_weights": sum(weight.numel() for weight in twig.parameters()),
        "loss_by_thousand": loss_by_thousand(done.history, (options.batch_size or 1) * (options.accumulate or 1)),
        "cost_in_prefills": round(batches * cost_in_prefills(options, anatomy.num_layers), 1),
        "packed_slots": round(slots.ran / slots.padded, 3) if slots.packs and slots.padded else None,
        "resumed_from": done.resumed_from,
    }
    weights = {name: value.detach().cpu().to(torch.bfloat16) for name, value in twig.state_dict().items()}
    policy = Twig(
        start=options.start, depth=options.depth, final=_final(options, anatomy.num_layers), training=summary,
        weights=weights,
    )  # fmt: skip
    return TwigRun(policy.with_base(identity), done.history, summary)


def for_each_process(options: TwigOptions, samples: int, processes: int) -> TwigOptions:
    """The options of each of several processes: they deal out the batches of every step, so that the steps, and but for
    rounding the weights, are those of one process.

    Raises:
        SettingsError: the batches of a step, or the samples of an epoch, cannot be dealt out evenly.
    """
    if processes == 1:
        return options
    size, batches = options.batch_size or 1, options.accumulate or 1
    if batches % processes:
        raise SettingsError(
            f"{processes} processes deal out the {batches} batches of a step (--accumulate), and each needs as many. "
            f"Give a multiple: --accumulate {processes} --batch-size {max(1, size * batches // processes)}."
        )
    if rest := samples % (size * batches):
        whole = samples - rest
        cure = f"--limit {whole}" if whole else f"--batch-size {max(1, samples // batches)}"
        raise SettingsError(
            f"{samples} samples do not fill whole steps of {size} x {batches}, and {processes} processes would fill "
            f"the last one otherwise than one does. Give {cure}."
        )
    return replace(options, accumulate=batches // processes)


def cost_in_prefills(options: TwigOptions, num_layers: int) -> float:
    """Decoder layers that one sample takes, as a share of a prefill: K once, and T three times (a backward pass costs
    two forward ones). The vision tower, which runs once a sample, is not counted."""
    return (options.start + 3 * options.depth) / num_layers


def loss_by_thousand(history: Sequence[Mapping[str, float]], samples_a_step: int) -> list[float]:
    """Mean loss on answers in each thousand samples that were seen: what one more thousand teaches.

    Args:
        history: the Trainer's log; entries of steps have `step` and `loss`.
    """
    found: dict[int, list[float]] = {}
    for entry in history:
        if "loss" in entry:
            found.setdefault(int((entry["step"] - 1) * samples_a_step) // 1000, []).append(entry["loss"])
    return [round(sum(losses) / len(losses), 4) for _, losses in sorted(found.items())]


def _final(options: TwigOptions, num_layers: int) -> int | None:
    """K_f at three quarters of the depth, as published (24 of 32), and behind K in any case; None where K is the last
    layer's place, so that none is behind it."""
    final = min(max(round(0.75 * num_layers), options.start + 1), num_layers - 1)
    return final if final > options.start else None


def twig_loss(anatomy: Anatomy, twig: LiveTwig, batch: Encoded, slots: Slots | None = None) -> Tensor:
    """Mean cross-entropy of the answer tokens under the twig, its norm and the model's head.

    Args:
        slots: how the twig runs over the batch; None: padded. The loss is the same.

    Raises:
        DataError: the batch has no answers.
    """
    if batch.answer_mask is None:
        raise DataError("There are no encoded answers: encode(processor, samples, device, answers=[...]).")
    inputs = anatomy.with_positions(batch.inputs)
    call = entering(anatomy, twig.start, inputs)
    states = (slots or Slots()).run(twig, call, batch.inputs["attention_mask"].bool())
    answers = batch.answer_mask[:, 1:]
    logits = anatomy.head_logits(twig.norm(states[:, :-1][answers]))
    return torch.nn.functional.cross_entropy(logits.float(), batch.inputs["input_ids"][:, 1:][answers])


class TwigTask(nn.Module):
    """Batch -> mean cross-entropy of its answers; its parameters are the twig's alone, the model is no part of it."""

    def __init__(self, anatomy: Anatomy, twig: LiveTwig, slots: Slots) -> None:
        super().__init__()
        self.twig = twig
        self._anatomy, self._slots = (anatomy,), slots

    def forward(self, batch: Encoded) -> Tensor:
        return twig_loss(self._anatomy[0], self.twig, batch, self._slots)
