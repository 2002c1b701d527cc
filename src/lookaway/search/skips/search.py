"""The search of EAS: which k attentions a task needs least, by a bandit over a supernet that shares its adapters.

Every step trains the adapters with a random subset skipped; every `turn` steps a few different subsets are scored by
exp(-loss) on one held-out batch, and the scores move (`bandit.py`). Scoring comes after the step's backward pass and
leaves nothing behind: no skip, no mode, no gradient, no random state. Under torchrun all ranks draw the same subsets,
train on their own batches with averaged gradients, and judge on their own held-out batches with averaged rewards.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...anatomy.find import anatomy_of
from ...core.errors import DataError, SettingsError
from ...core.provenance import provenance
from ...core.record import RecordWriter, Sample
from ...engine.replay.teacher_forcing import answer_loss, frozen
from ...models.encoding import Encoded, encode
from ...modules.adapters import SkipAdapters
from ...policies.attention_skip import AttentionSkip
from .bandit import Bandit
from .options import PRESETS, SkipSearchOptions
from .state import forget_state, load_state, save_state
from .supernet import Supernet, processes

__all__ = ["PRESETS", "SkipSearchOptions", "SkipSearchRun", "search_skips", "subset_rewards"]


@dataclass(frozen=True)
class SkipSearchRun:
    """What a search found."""

    layers: tuple[int, ...]
    """The attentions to skip, ascending."""
    bandit: Bandit
    adapters: SkipAdapters | None
    """The supernet's adapters of these layers: a warm start, to be trained on with the set fixed."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Per update: step, subsets, losses, rewards, scores, best."""
    summary: dict[str, Any] = field(default_factory=dict)


def search_skips(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    out: str | Path,
    options: SkipSearchOptions | None = None,
    writer: RecordWriter | None = None,
    progress: Callable[[int], object] = lambda steps: None,
    fresh: bool = False,
) -> SkipSearchRun:
    """Search a skip set; the state in `out` lets the same call go on after a kill, as if it had not been.

    Args:
        model: frozen meanwhile, in eval mode, and left as it was.
        samples: with answers; `options.held_out` of them are kept apart for the rewards.
        writer: gets one 'skip-search' record an update (docs/records.md); of rank 0.
        progress: called after each step.
        fresh: remove the state that an earlier search left in `out`.

    Raises:
        DataError: too few samples, or one without an answer.
        StaleResults: the state in `out` is of another search.
        SettingsError: more skips than attentions, or fewer different subsets than asked for.
        MissingDependency: accelerate is not installed.
    """
    options = (options or SkipSearchOptions()).filled()
    assert options.gate is not None
    assert options.score_lr is not None
    anatomy, ranks, out = anatomy_of(model), processes(), Path(out)
    train, held = split_samples(samples, options)
    arms = options.arms or tuple(range(anatomy.num_layers))
    if arms and max(arms) >= anatomy.num_layers:
        raise SettingsError(f"Arms {list(arms)} of a decoder with {anatomy.num_layers} layers.")
    if options.skip >= anatomy.num_layers or options.skip > len(arms):
        raise SettingsError(
            f"{options.skip} attentions to skip of {len(arms)} that may be, in a decoder of {anatomy.num_layers}: at "
            "least one must stay."
        )
    bandit = Bandit(arms, options.skip, options.gate, options.score_lr, options.seed)
    _ = bandit.subsets(0, options.subsets or 1)  # refuses before anything runs
    supernet = Supernet(anatomy, arms, options) if options.train else None
    facts = provenance(
        model=model, processor=processor, samples=samples, options=options, free=("save_steps",),
        ranks=ranks.num_processes,
    )  # fmt: skip
    if fresh and ranks.is_main_process:
        forget_state(out)
    ranks.wait_for_everyone()  # nobody reads what is being removed
    step, history = load_state(out, facts, bandit, supernet)
    encoder = _Encoder(processor, anatomy.model.device)
    with frozen(anatomy.model):
        while step < options.steps:
            if supernet is not None:
                supernet.step(step, encoder(_batch(train, step, options.batch_size, ranks, options.seed)), bandit)
            step += 1
            if _due(step, options):
                batch = encoder(_batch(held, step, options.reward_batch, ranks, options.seed + 1))
                adapters = supernet.adapters if supernet else None
                history.append(_update(model, batch, step, bandit, adapters, options))
                if writer is not None and ranks.is_main_process:
                    writer.write("skip-search", **history[-1])
            if ranks.is_main_process and (step % options.save_steps == 0 or step == options.steps):
                save_state(out, facts, step, history, bandit, supernet)
            progress(1)
    best = bandit.best()
    adapters = supernet.adapters.only(best).eval() if supernet else None
    summary = {
        "method": "eas", "options": asdict(options), "steps": step, "updates": len(history), "skipped": list(best),
        "scores": dict(zip(map(str, bandit.arms), bandit.scores.tolist(), strict=True)),
        "training_samples": len(train), "held_out_samples": len(held), "held_out_ids": sorted(s.id for s in held),
    }  # fmt: skip
    return SkipSearchRun(best, bandit, adapters, history, summary)


def subset_rewards(
    model: Any, batch: Encoded, subsets: Sequence[Sequence[int]], adapters: SkipAdapters | None
) -> tuple[list[float], list[float]]:
    """(losses, rewards exp(-loss)) of skip sets on one batch.

    Nothing is left behind: no skip, no mode, no gradient, no random state.
    """
    training = adapters.training if adapters is not None else False
    try:
        if adapters is not None:
            adapters.eval()
        with torch.random.fork_rng(), torch.no_grad():
            losses = [float(answer_loss(model, batch, AttentionSkip(subset, adapters))) for subset in subsets]
    finally:
        if adapters is not None:
            adapters.train(training)
    return losses, [math.exp(-loss) for loss in losses]


def split_samples(samples: Sequence[Sample], options: SkipSearchOptions) -> tuple[list[Sample], list[Sample]]:
    """(samples to train on, samples for rewards), apart by a stable hash of their ids.

    Raises:
        DataError: a sample has no answer, or one of the parts is empty.
    """
    missing = [sample.id for sample in samples if sample.answer is None]
    if missing:
        raise DataError(
            f"{len(missing)} samples have no answer (the first: {missing[0]!r}): rewards come from answers."
        )

    def held(sample: Sample) -> bool:
        digest = hashlib.sha256(f"skip-search:{options.seed}:{sample.id}".encode()).digest()
        return int.from_bytes(digest[:4], "big") / 2**32 < options.held_out

    train, kept = [s for s in samples if not held(s)], [s for s in samples if held(s)]
    if not kept or not train:
        raise DataError(
            f"{len(samples)} samples are too few to hold {options.held_out:.0%} of them back for rewards. Give more."
        )
    return train, kept


def _update(
    model: Any, batch: Encoded, step: int, bandit: Bandit, adapters: SkipAdapters | None, o: SkipSearchOptions
) -> dict[str, Any]:  # fmt: skip
    from accelerate.utils import broadcast_object_list, gather_object

    assert o.subsets is not None
    (subsets,) = broadcast_object_list([bandit.subsets(step, o.subsets)])
    losses, rewards = subset_rewards(model, batch, subsets, adapters)
    if not all(map(math.isfinite, losses)):
        raise DataError(f"The loss of a subset at step {step} is {losses}. Lower --lr, or load the model in fp32.")
    losses, rewards = (
        [sum(column) / len(column) for column in zip(*gather_object([own]), strict=True)] for own in (losses, rewards)
    )  # the mean over the processes, the same bits in each
    bandit.update(subsets, rewards)
    return {
        "step": step, "subsets": [list(subset) for subset in subsets], "losses": losses, "rewards": rewards,
        "scores": bandit.scores.tolist(), "best": list(bandit.best()),
    }  # fmt: skip


def _due(step: int, o: SkipSearchOptions) -> bool:
    assert o.turn is not None
    assert o.warm is not None
    if not o.train:
        return True
    return step > o.warm * o.steps and step % o.turn == 0


def _batch(samples: Sequence[Sample], step: int, size: int, ranks: Any, seed: int) -> list[Sample]:
    """The samples of one step and rank: passes over all of them, each in an order of its own."""
    chosen = []
    first = (step * ranks.num_processes + ranks.process_index) * size
    for place in range(first, first + size):
        epoch, at = divmod(place, len(samples))
        order = list(range(len(samples)))
        random.Random(f"{seed}:{epoch}").shuffle(order)
        chosen.append(samples[order[at]])
    return chosen


class _Encoder:
    def __init__(self, processor: Any, device: Any) -> None:
        self.processor, self.device = processor, device

    def __call__(self, samples: Sequence[Sample]) -> Encoded:
        return encode(self.processor, samples, self.device, [str(sample.answer) for sample in samples])
