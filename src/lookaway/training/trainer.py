"""transformers' Trainer for what learns from answered samples; the same call goes on after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.earlier_results import claim
from ..core.errors import DataError, MissingDependency, SettingsError
from ..core.provenance import provenance
from ..core.record import Sample
from ..models.encoding import Encoded, encode

__all__ = [
    "Progress",
    "Trained",
    "check_answered",
    "check_counts",
    "claim_in_turn",
    "latest_checkpoint",
    "train_on_answers",
    "training_facts",
]

Loss = Callable[[Any, Encoded, int], Any]
"""(model, batch, number of the batch) -> scalar loss. The number is the same in a resumed run."""

Progress = Callable[[int, int], object]
"""(steps done, steps of the whole run)."""


@dataclass(frozen=True)
class Trained:
    """What a training run did."""

    steps: int
    """Optimiser's steps, those before a resume included."""
    history: list[dict[str, float]]
    """The Trainer's log: step, loss, learning_rate, ..."""
    resumed_from: str | None
    """Name of the checkpoint that it went on from."""


def check_answered(samples: Sequence[Sample], what: str) -> None:
    """`what` learns from every sample's answer.

    Raises:
        DataError: no samples, or one without an answer.
        MissingDependency: accelerate, which the Trainer needs, is not installed.
    """
    missing = [sample.id for sample in samples if sample.answer is None]
    if not samples or missing:
        why = f"{len(missing)} samples have no answer (the first: {missing[0]!r})" if missing else "There is no sample"
        raise DataError(f"{why}: {what}, give samples that have one.")
    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise MissingDependency.of("accelerate", "train") from None


def train_on_answers(
    model: Any, loss: Loss, processor: Any, samples: Sequence[Sample], folder: Path, device: Any, options: Any,
    facts: Mapping[str, Any], fresh: bool = False, progress: Progress = lambda done, total: None, **more: Any,
) -> Trained:  # fmt: skip
    """Train `model`'s parameters; the same call goes on from the latest whole checkpoint in `folder`.

    A run that was finished is not trained further: its last checkpoint is loaded.

    Args:
        model: the module whose parameters are trained and checkpointed.
        loss: of one batch.
        processor: encodes the samples, their answers as targets.
        samples: with answers.
        folder: of the checkpoints.
        device: the batches' device.
        options: with lr, epochs, max_steps, batch_size, accumulate, warmup, save_steps, bf16 and seed.
        facts: what the checkpoints depend on (`training_facts`); those of another run are refused.
        fresh: remove them instead.
        progress: called after each of the optimiser's steps with the number done and that of all.
        more: further TrainingArguments.

    Raises:
        StaleResults: `folder` holds checkpoints that depend on something else.
        SettingsError: this process sees several GPUs.
    """
    from transformers import Trainer, TrainerState, TrainingArguments

    class AnswerTrainer(Trainer):
        micro_step = 0

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            number = self.state.global_step * options.accumulate + self.micro_step % options.accumulate
            self.micro_step += 1
            value = loss(model, inputs["batch"], number)
            return (value, None) if return_outputs else value

        def floating_point_ops(self, inputs: Any) -> int:
            return 0  # would look for tensors that our batches hold one level deeper

    arguments = TrainingArguments(
        output_dir=str(folder),
        learning_rate=options.lr,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulate,
        warmup_steps=options.warmup,
        lr_scheduler_type="cosine",
        save_steps=options.save_steps,
        save_total_limit=2,
        logging_steps=1,
        bf16=options.bf16,
        seed=options.seed,
        data_seed=options.seed,
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=False,
        **more,
    )

    check_one_process_a_gpu(arguments.n_gpu)
    claim_in_turn(folder, facts, fresh, lambda: sorted(folder.glob("checkpoint-*")), device.type == "cpu")

    def collate(batch: list[Sample]) -> dict[str, Encoded]:
        return {"batch": encode(processor, batch, device, [str(sample.answer) for sample in batch])}

    collator: Any = collate
    trainer = AnswerTrainer(model=model, args=arguments, train_dataset=list(samples), data_collator=collator)
    trainer.add_callback(_told(progress))
    trainer.model_accepts_loss_kwargs = False  # the Trainer divides by `accumulate`
    checkpoint = latest_checkpoint(folder)
    if checkpoint is not None and _finished(checkpoint):
        trainer._load_from_checkpoint(str(checkpoint))
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    history = [{k: float(v) for k, v in row.items()} for row in trainer.state.log_history]
    return Trained(trainer.state.global_step, history, checkpoint.name if checkpoint else None)


def claim_in_turn(
    folder: Path, facts: Mapping[str, Any], fresh: bool, leftovers: Callable[[], Sequence[Path]], cpu: bool
) -> Any:
    """`core.earlier_results.claim` by the first process of a distributed run, then by the others, which remove nothing.

    Returns:
        accelerate's `PartialState`, which knows who is first.

    Raises:
        StaleResults: as `claim` does, in all processes.
    """
    from accelerate import PartialState

    state = PartialState(cpu=cpu)
    with state.main_process_first():
        claim(folder, facts, fresh and state.is_main_process, leftovers())
    return state


def check_counts(options: Any, *names: str) -> None:
    """Refuse settings that count something and are below 1; None stands for a default.

    Raises:
        SettingsError: names the option and its value.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise SettingsError(f"--{name.replace('_', '-')} must be at least 1, not {value}.")


def training_facts(model: Any, processor: Any, samples: Sequence[Sample], options: Any) -> dict[str, Any]:
    """What a training run's checkpoints depend on; take it before anything is added to the model."""
    return provenance(
        model=model, processor=processor, samples=samples, options=options, free=("save_steps", "checkpointing")
    )


def _told(progress: Progress) -> Any:
    """A callback of the Trainer's that passes its steps on."""
    from transformers import TrainerCallback

    class Told(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            progress(state.global_step, state.max_steps)

    return Told()


def _finished(checkpoint: Path) -> bool:
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"] > 0)


def check_one_process_a_gpu(gpus: int) -> None:
    """Refuse a process that would share one model, and what is attached to it, among several GPUs.

    Raises:
        SettingsError: `gpus`, those of this process, are several: transformers' Trainer would run nn.DataParallel.
    """
    if gpus > 1:
        raise SettingsError(
            f"{gpus} GPUs are visible, and one process cannot share a model with a policy attached among them. Start "
            f"one process a GPU: torchrun --nproc-per-node {gpus} -m lookaway train ...; or use one of them: "
            "CUDA_VISIBLE_DEVICES=0 lookaway train ..."
        )


def latest_checkpoint(folder: Path) -> Path | None:
    """The latest whole checkpoint; one that a kill cut short has no state file and is left out."""
    found = [p for p in folder.glob("checkpoint-*") if (p / "trainer_state.json").exists()]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)
