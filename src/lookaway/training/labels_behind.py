"""Exit tables of a model on which another policy stays: gates that come after a fixed skip set or keep schedule.

The tape that makes labels cheap (`engine/replay/exit_table.py`) replays an unmodified decoder. Behind another policy
every candidate exit is a run of its own, so a sample costs about half a prefill a candidate instead of two in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..anatomy.find import anatomy_of
from ..core.decision import KEEP, Decision, LayerView, Policy
from ..core.errors import SettingsError
from ..core.exit_table import ExitTable
from ..core.features import text_features
from ..core.greedy import GreedyRule
from ..core.provenance import provenance
from ..core.record import Sample
from ..engine.api import attach
from ..engine.replay.exit_table import cached_tables
from ..engine.replay.teacher_forcing import answer_logits
from ..models.encoding import Encoded, encode
from ..policies.compose import chain
from ..policies.fixed import ExitAt

__all__ = ["check_comes_first", "exits_behind", "tables_behind"]


def check_comes_first(after: Policy | None) -> None:
    """Raise SettingsError where gates cannot come behind `after`: it looks twice, and no chain can hold it."""
    if after is not None and after.retry() is not None:
        raise SettingsError(
            f"Gates cannot come behind a second look ({after!r}): its rows have run to the end before they look again. "
            "Train or calibrate the gates by themselves, and look again where they are unsure: "
            "la.SecondLook(gates, dearer)."
        )


def tables_behind(
    model: Any,
    processor: Any,
    after: Policy,
    batches: Iterable[Encoded],
    layers: Sequence[int],
    target: str,
    cache_dir: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
    dtype: torch.dtype = torch.float16,
) -> ExitTable:
    """The exit table of `la.chain(after, exit)`; its 'full run' is the model under `after` alone.

    Args:
        model, processor: no policy attached.
        after: stays on; gates see what it leaves.
        batches, target, cache_dir, progress, dtype: as for `engine.exit_table.collect_exit_table`.
        layers: candidate exits (`exits_behind` knows those that can be).

    Raises:
        SettingsError: behind `after`, a candidate layer has nothing to exit from.
    """
    candidates = tuple(layers)

    def make(batch: Any) -> ExitTable:
        return _table(model, processor, after, batch, candidates, target, dtype)

    def depends() -> dict[str, Any]:
        return provenance(model=model, policy=after)

    return cached_tables(batches, make, (candidates, target, dtype), depends, cache_dir, progress)


def exits_behind(model: Any, processor: Any, after: Policy, samples: Sequence[Sample]) -> tuple[int, ...]:
    """The layers before which there is still something to exit from behind `after`, found on some samples."""
    anatomy = anatomy_of(model)
    anatomy.require_inside("An exit")
    every = tuple(range(anatomy.first_prunable_layer, anatomy.num_layers))
    return tuple(sorted(_what_gates_see(model, processor, after, samples, every)))


class _Recorder(Policy):
    """Drops nothing, and keeps what a gate would see."""

    name = "recorder"

    def __init__(self, asked: tuple[int, ...]) -> None:
        self.asked = asked
        self.seen: dict[int, Tensor] = {}

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        return self.asked

    def decide(self, view: LayerView) -> Decision:
        if bool(view.layout.visual.any()):
            self.seen[view.layer] = text_features(view.hidden, view.layout)
        return KEEP


@torch.no_grad()
def _what_gates_see(
    model: Any, processor: Any, after: Policy, samples: Sequence[Sample], layers: tuple[int, ...]
) -> dict[int, Tensor]:
    """Features [B, 2D] of the prompts, as in a live run, at those of `layers` where an exit is still decided."""
    recorder = _Recorder(layers)
    with attach(model, chain(after, recorder)):
        model(**encode(processor, samples, model.device).inputs, use_cache=False, logits_to_keep=1)
    return recorder.seen


@torch.no_grad()
def _table(
    model: Any,
    processor: Any,
    after: Policy,
    batch: Encoded,
    layers: tuple[int, ...],
    target: str,
    dtype: torch.dtype,
) -> ExitTable:
    seen = _what_gates_see(model, processor, after, batch.samples, layers)
    if missing := [layer for layer in layers if layer not in seen]:
        raise SettingsError(
            f"Behind {after!r} there is nothing to exit from before layer {missing[0]}: no visual token is left there, "
            f"or no attention. Leave --layers {missing[0]} out."
        )
    assert batch.answer_mask is not None
    answers, rule = batch.answer_mask, GreedyRule.of(model)
    counts = answers.sum(1).tolist()

    def evaluate(policy: Policy) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss [B], and greedy tokens and targets of all answer tokens, row after row."""
        with attach(model, policy) as attached:
            logits, wanted = answer_logits(model, attached, batch)
        losses = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none")
        said = rule.flat(logits.float(), batch.inputs["input_ids"], answers, batch.inputs["attention_mask"].bool())
        return torch.stack([part.mean() for part in losses.split(counts)]), said, wanted

    def rows(same: Tensor) -> Tensor:
        return torch.stack([part.all() for part in same.split(counts)])

    full_loss, full_said, wanted = evaluate(after)
    found = [evaluate(chain(after, ExitAt(layer))) for layer in layers]
    return ExitTable(
        layers=layers,
        ids=tuple(str(sample.id) for sample in batch.samples),
        features=torch.stack([seen[layer] for layer in layers], 1).to(dtype).cpu(),
        loss=torch.stack([loss for loss, _, _ in found], 1).float().cpu(),
        full_loss=full_loss.float().cpu(),
        match=torch.stack([rows(said == wanted) for _, said, _ in found], 1).cpu(),
        full_match=rows(full_said == wanted).cpu(),
        agree=torch.stack([rows(said == full_said) for _, said, _ in found], 1).cpu(),
        target=target,
    )
