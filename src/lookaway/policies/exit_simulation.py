"""Where exit gates let rows exit, told from a table of their features without running the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import DataError, SettingsError
from ..core.exit_table import ExitTable
from ..modules.gates import ExitGates

__all__ = ["Threshold", "exit_probabilities", "reading_layers", "simulate", "threshold_row"]

Threshold = float | Sequence[float] | None


def reading_layers(candidates: Sequence[int], read_every: int) -> dict[int, int]:
    """For each candidate layer, ascending, the one at which its gate's decision is read and carried out.

    Args:
        read_every: candidates in a group; the last of each is where it is read.

    Raises:
        SettingsError: a group of less than one layer.
    """
    if isinstance(read_every, bool) or not isinstance(read_every, int) or read_every < 1:
        raise SettingsError(f"read_every is a number of candidate layers, at least 1, not {read_every!r}.")
    last = len(candidates) - 1
    return {k: candidates[min(i - i % read_every + read_every - 1, last)] for i, k in enumerate(candidates)}


def threshold_row(gates: ExitGates, threshold: Threshold) -> tuple[float, ...] | None:
    """One threshold for each of the gates' layers; None where the policy never exits."""
    if threshold is None:
        return None
    many = isinstance(threshold, Sequence)
    row = tuple(float(t) for t in threshold) if many else (float(threshold),) * len(gates.layers)  # type: ignore
    if len(row) != len(gates.layers):
        raise SettingsError(f"{len(row)} thresholds for {len(gates.layers)} gates: give one, or one a gate.")
    for value in row:
        if not 0 <= value <= 1:
            raise SettingsError(f"A threshold is a probability from 0 to 1 (1: never exit), not {value}.")
    return row


@torch.no_grad()
def exit_probabilities(gates: ExitGates, table: ExitTable) -> Tensor:
    """Probability of exit at each of the table's layers, float32 [N, C]; 0 at layers without a gate.

    Raises:
        DataError: the table has none of the gates' layers, or states of another size.
    """
    if table.features.shape[-1] != 2 * gates.hidden_size:
        raise DataError(
            f"The table's features have {table.features.shape[-1]} numbers, the gates read {2 * gates.hidden_size}: "
            "they are of different models."
        )
    known = [c for c, layer in enumerate(table.layers) if layer in gates.layers]
    if not known:
        raise DataError(f"The table has layers {list(table.layers)}, the gates {list(gates.layers)}: none in common.")
    found = torch.zeros(len(table), len(table.layers))
    for c in known:
        found[:, c] = gates(table.features[:, c].to(gates.w1.device), table.layers[c]).sigmoid().cpu()
    return found


@torch.no_grad()
def simulate(
    gates: ExitGates,
    table: ExitTable,
    threshold: Threshold,
    min_layer: int = 1,
    layers: Sequence[int] | None = None,
    probabilities: Tensor | None = None,
    read_every: int = 1,
) -> Tensor:
    """Where the policy would exit on each sample of a table, without running the model.

    Args:
        gates, threshold, min_layer, layers, read_every: as for VisualExit.
        table: exit table of the samples.
        probabilities: `exit_probabilities(gates, table)`, where it is known already.

    Returns:
        int64 [N]: index into `table.layers` of the first candidate whose gate fires, or of the last one of its group;
        `len(table.layers)` = never.

    Raises:
        DataError: (with groups) the table lacks the layer at which a group exits.
    """
    row = threshold_row(gates, threshold)
    never = len(table.layers)
    if row is None:
        return torch.full((len(table),), never)
    p = exit_probabilities(gates, table) if probabilities is None else probabilities
    usable = [k in gates.layers and k >= min_layer and (layers is None or k in layers) for k in table.layers]
    # A layer that may not be used gets a threshold that no probability is above.
    limits = torch.tensor(
        [row[gates.place(k)] if ok else 2.0 for k, ok in zip(table.layers, usable, strict=True)], dtype=p.dtype
    )
    fires = p > limits  # [N, C]
    first = torch.where(fires.any(1), fires.int().argmax(1), never)
    if read_every == 1:
        return first
    read_at = reading_layers(sorted(k for k in layers or gates.layers if k >= min_layer), read_every)
    ends = [read_at[k] if ok else k for k, ok in zip(table.layers, usable, strict=True)]
    if missing := sorted(set(ends) - set(table.layers)):
        raise DataError(
            f"These gates are read in groups of {read_every} and exit at layers {missing}, which the table lacks. Make "
            "it with all of the gates' layers."
        )
    return torch.tensor([*(table.layers.index(k) for k in ends), never])[first]
