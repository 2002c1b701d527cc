"""From outcomes of all exits to the records that figures are drawn from: curves, fronts, comparison at equal cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..core.decision import Policy
from ..core.exit_table import ExitTable
from ..core.record import RecordWriter
from ..policies.exit_simulation import exit_probabilities
from ..policies.fixed import ExitAt
from ..policies.visual_exit import VisualExit
from .curves import ExitOutcomes, Outcome

__all__ = ["compare", "gate_front", "write_curves", "write_gates"]


def write_curves(
    writer: RecordWriter,
    variant: str,
    policy: Policy,
    table: ExitTable,
    outcomes: ExitOutcomes,
    families: Sequence[str | None],
) -> None:
    """Write a 'curve' record for all samples and for each family, and what `write_gates` writes of the policy."""
    names = np.array([family or "" for family in families])
    for family in ["all", *sorted({name for name in names.tolist() if name})]:
        part = outcomes if family == "all" else outcomes.subset(names == family)
        writer.write("curve", family=family, samples=len(part), layers=list(part.layers),
                     fixed=[asdict(o) for o in part.fixed()], oracle=asdict(part.oracle()),
                     random=[asdict(part.random(mean)) for mean in part.layers])  # fmt: skip
    write_gates(writer, variant, policy, table, outcomes)


def write_gates(
    writer: RecordWriter, variant: str, policy: Policy, table: ExitTable, outcomes: ExitOutcomes
) -> dict[str, Any] | None:
    """Write 'front' (gates at all thresholds) and 'comparison' (at the policy's own cost) records.

    Returns:
        The comparison; None for policies that cannot be simulated on a table.
    """
    if isinstance(policy, VisualExit):
        writer.write("front", variant=variant, points=gate_front(policy, table, outcomes))
        columns = policy.simulated(table, None, policy.threshold).numpy()
    elif isinstance(policy, ExitAt) and isinstance(policy.layer, int):
        columns = outcomes.columns_of([policy.layer] * len(outcomes))
    else:
        return None
    found = compare(outcomes, outcomes.of(columns))
    writer.write("comparison", variant=variant, **found)
    return found


def gate_front(policy: VisualExit, table: ExitTable, outcomes: ExitOutcomes, points: int = 40) -> list[dict[str, Any]]:
    """What the gates reach at thresholds from 0 (exit at once) to 1 (never), spaced by quantiles of their answers."""
    probabilities = exit_probabilities(policy.gates, table)
    quantiles = np.quantile(probabilities.numpy(), np.linspace(0, 1, points))
    found = []
    for threshold in sorted({0.0, *(float(q) for q in quantiles), 1.0}):
        columns = policy.simulated(table, probabilities, threshold).numpy()
        found.append({"threshold": threshold, **asdict(outcomes.of(columns))})
    return found


def compare(outcomes: ExitOutcomes, policy: Outcome) -> dict[str, Any]:
    """The policy beside what fixed exits reach at its cost, random exits at its mean, the oracle, and never."""
    return {
        "policy": asdict(policy),
        "best_fixed": asdict(outcomes.best_fixed_at(policy.flops_share)),
        "random": asdict(outcomes.random(policy.mean_exit)),
        "oracle": asdict(outcomes.oracle()),
        "full": asdict(outcomes.fixed()[-1]),
    }
