"""Energy of a prefill and of an output token, with a policy and without, in turns in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from ..core.decision import Policy
from .decoder_alone import DecoderAlone
from .energy_meter import EnergyMeter, Reading
from .timed_runs import timed_parts, timed_policies, variants_of_run

__all__ = ["ROUNDS", "EnergyRow", "measure_energy"]

ROUNDS = 3
LEAST = 1.0
"""Seconds for which a run is repeated: counters are too coarse for one prefill."""


@dataclass(frozen=True)
class EnergyRow:
    """One variant's energy against the unpruned model's. Medians over rounds."""

    variant: str
    part: str
    """As in `SpeedRow`: 'decoder', 'first token' or 'decode'."""
    batch_size: int
    new_tokens: int
    joules: float
    """Of one run: CPU and GPU of the whole machine while it ran, idle draw included, memory not."""
    baseline_joules: float
    ratio: float
    """Median over rounds of baseline / variant."""
    gpu_joules: float
    """The GPUs' part of `joules`."""
    seconds: float
    """Of one run, in the same rounds."""
    baseline_seconds: float
    source: str
    """How the numbers were got, in words."""
    measured: bool
    """By counters of the hardware; False: estimated from time."""
    per_token: float | None = None
    """Joules of an output token after the first ('decode' only): (joules - those of 'first token') / their number;
    None where noise makes that negative."""
    baseline_per_token: float | None = None


def measure_energy(
    model: Any,
    inputs: Mapping[str, Any],
    meter: EnergyMeter,
    *,
    exits: Sequence[int],
    policies: Mapping[str, Policy],
    new_tokens: Sequence[int],
    rounds: int = ROUNDS,
    least: float | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> list[EnergyRow]:
    """Energy of what `measure_speed` times, each variant in turns with the bare model.

    Args:
        inputs: keyword arguments of the model's forward, on its device, with `input_ids` int64 [B, S].
        least: seconds for which each variant is repeated in each round; default: `LEAST`.
        progress: called with 1 after each round of each part.

    Raises:
        LookawayError: the meter gives no number on this machine.
    """
    batch_size, rows = len(inputs["input_ids"]), list[EnergyRow]()
    timed = timed_policies(exits, policies, batch_size)
    for part, length, run in timed_parts(model, inputs, new_tokens, DecoderAlone(model, dict(inputs))):
        variants = variants_of_run(model, timed, run)
        found: dict[str, list[Reading]] = {name: [] for name in variants}
        with torch.no_grad():
            for variant in variants.values():
                variant()  # warms up
            for round_ in range(rounds):
                for name in variants if round_ % 2 else reversed(variants):
                    found[name].append(meter.read(variants[name], LEAST if least is None else least, model.device))
                progress(1)
        source, measured = meter.source
        bare = found.pop("bare")
        for name, own in found.items():
            row = EnergyRow(
                name, part, batch_size, length, median(r.joules for r in own), median(r.joules for r in bare),
                median(b.joules / r.joules for b, r in zip(bare, own, strict=True)),
                median(r.gpu_joules for r in own), median(r.seconds for r in own), median(r.seconds for r in bare),
                source, measured,
            )  # fmt: skip
            rows.append(_with_tokens(row, rows))
    return rows


def _with_tokens(row: EnergyRow, rows: Sequence[EnergyRow]) -> EnergyRow:
    """The row with joules of an output token after the first, where it is of an answer."""
    steps = row.new_tokens - 1
    if not steps:
        return row
    first = next(one for one in rows if one.part == "first token" and one.variant == row.variant)
    own, bare = row.joules - first.joules, row.baseline_joules - first.baseline_joules
    each = [joules / steps if joules > 0 else None for joules in (own, bare)]
    return replace(row, per_token=each[0], baseline_per_token=each[1])
