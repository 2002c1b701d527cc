"""Exit-aware tuning: a model learns to read its image early, by losing it early in a share of the training steps.

In such a step the visual tokens really leave before a random layer (the engine's removal, not a mask), and the answer
is learnt from what the text has taken up by then; in the other steps the model is trained whole, so that it also stays
what it was. LoRA on the decoder's linear layers through peft, steps and checkpoints through transformers' Trainer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..anatomy.base import Anatomy
from ..anatomy.find import anatomy_of
from ..core.errors import LookawayError, MissingDependency, SettingsError
from ..core.files import atomic_directory
from ..core.record import Sample
from ..engine.replay.teacher_forcing import answer_loss as policy_loss
from ..models.encoding import Encoded
from ..policies.fixed import ExitAt
from .trainer import Progress, check_answered, check_counts, claim_in_turn, train_on_answers, training_facts

__all__ = ["TuneOptions", "TuneRun", "answer_loss", "exit_for_step", "tune"]


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Teach a model to read its image early (LoRA)."""

    exit_aware: bool = True
    """Let the visual tokens leave in a share of the steps; off: ordinary tuning, for comparison."""
    exit_share: float = 0.5
    """Share of steps in which they leave ..."""
    exit_first: int | None = None
    """... before a layer drawn from this one (default: the first prunable) ..."""
    exit_last: int | None = None
    """... to this one (default: the last)."""
    rank: int = 16
    """Rank of LoRA on every linear of the decoder's layers."""
    alpha: int = 32
    """LoRA's scale is alpha / rank."""
    lr: float = 2e-4
    """Peak learning rate."""
    epochs: float = 1.0
    """Passes over the samples."""
    max_steps: int = -1
    """Stop after this many steps; -1: use --epochs."""
    batch_size: int = 4
    """Samples per step."""
    accumulate: int = 1
    """Batches whose gradients are accumulated for one step."""
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises."""
    save_steps: int = 200
    """Save a checkpoint every this many steps; the same command continues from the latest."""
    save: Literal["adapter", "merged"] = "adapter"
    """adapter: a peft folder; merged: a whole model folder, ready for every other command."""
    bf16: bool = False
    """Mixed precision in bfloat16."""
    seed: int = 0
    """Seed of the adapter, the order of samples and the exits."""

    def __post_init__(self) -> None:
        if not 0 <= self.exit_share <= 1:
            raise SettingsError(f"--exit-share is a share of the steps from 0 to 1, not {self.exit_share}.")
        check_counts(self, "rank", "batch_size", "accumulate", "save_steps")


@dataclass(frozen=True)
class TuneRun:
    """What tuning left."""

    folder: Path
    """The adapter's or the merged model's folder."""
    history: list[dict[str, float]]
    """The Trainer's log: step, loss, learning_rate, ..."""
    summary: dict[str, Any]
    """Options, samples, steps, trained weights: plain values for records."""


def tune(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    out: str | Path,
    options: TuneOptions | None = None,
    fresh: bool = False,
    progress: Progress = lambda done, total: None,
) -> TuneRun:
    """Tune a model on samples with answers; `out/checkpoints` lets the same call go on after a kill.

    The model is changed in place (its layers get LoRA). The result lies in `out/adapter` or `out/merged`.
    `fresh` removes what an earlier run left there; `progress` gets (steps done, steps of the run) after each.

    Raises:
        DataError: no samples, or one without an answer.
        StaleResults: `out` holds a run of another model, other samples or other options.
        LookawayError: this very run is finished.
        SettingsError: the exits do not fit the model's depth.
        MissingDependency: peft or accelerate is not installed.
    """
    options = options or TuneOptions()
    check_answered(samples, "tuning learns answers")
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingDependency.of("peft", "train") from None
    from transformers import set_seed

    anatomy = anatomy_of(model)
    anatomy.require_inside("Exit-aware tuning")
    exits = exit_range(anatomy, options)
    out = Path(out)
    folder = out / options.save
    facts = training_facts(model, processor, samples, options)
    leftovers = [out / "checkpoints", out / "adapter", out / "merged"]
    state = claim_in_turn(out, facts, fresh, lambda: leftovers, anatomy.model.device.type == "cpu")
    if folder.exists():
        raise LookawayError(
            f"{folder} exists already: this run is finished. Give another --out, or --fresh, to tune again."
        )
    set_seed(options.seed)

    # 1. LoRA on the decoder alone: what reads the image late is the decoder.
    targets = _linears(model, anatomy)
    lora = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=targets, lora_dropout=0.0)
    tuned = get_peft_model(model, lora)
    tuned.enable_input_require_grads()

    # 2. The Trainer does steps, logs, checkpoints and resuming.
    def loss(model: Any, batch: Encoded, number: int) -> Tensor:
        return answer_loss(model, batch, exit_for_step(number, options, exits))

    done = train_on_answers(
        tuned, loss, processor, samples, out / "checkpoints", anatomy.model.device, options, facts, progress=progress
    )

    # 3. Save, atomically.
    tuned.eval()
    result = tuned.merge_and_unload() if options.save == "merged" else tuned
    if state.is_main_process:
        with atomic_directory(folder) as parts:
            result.save_pretrained(parts)
            processor.save_pretrained(parts)
    summary = {
        "options": asdict(options),
        "samples": len(samples),
        "steps": done.steps,
        "exit_layers": [exits.start, exits.stop - 1],
        "trained_weights": sum(p.numel() for n, p in tuned.named_parameters() if "lora_" in n),
        "resumed_from": done.resumed_from,
    }
    return TuneRun(folder, done.history, summary)


def exit_range(anatomy: Anatomy, options: TuneOptions) -> range:
    """Layers before which the tokens may leave.

    Raises:
        SettingsError: they do not fit the model.
    """
    first = anatomy.first_prunable_layer if options.exit_first is None else options.exit_first
    last = anatomy.num_layers - 1 if options.exit_last is None else options.exit_last
    if not anatomy.first_prunable_layer <= first <= last < anatomy.num_layers:
        raise SettingsError(
            f"Exits from layer {first} to {last} do not fit this model: choose --exit-first and --exit-last from "
            f"{anatomy.first_prunable_layer} to {anatomy.num_layers - 1}."
        )
    return range(first, last + 1)


def exit_for_step(step: int, options: TuneOptions, exits: range) -> int | None:
    """The exit layer of one batch, from the seed and the step alone, so that a resumed run draws as it would have."""
    draw = random.Random(f"{options.seed}:{step}")
    if not options.exit_aware or draw.random() >= options.exit_share:
        return None
    return draw.choice(exits)


def answer_loss(model: Any, batch: Encoded, exit_layer: int | None) -> Tensor:
    """Mean cross-entropy of the answer tokens, had the visual tokens left before `exit_layer` (None: never)."""
    return policy_loss(model, batch, ExitAt(exit_layer))


def _linears(model: Any, anatomy: Anatomy) -> list[str]:
    """Full names of all linears inside the decoder's layers."""
    inside = {id(module) for layer in anatomy.layers for module in layer.modules()}
    return [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and id(m) in inside]
