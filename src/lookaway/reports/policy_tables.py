"""Records of eval, search, calibrate, train -> the data under their figures. Pure, tested without a plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .collect import ReportData, visual_tokens_of_prompt

__all__ = ["CalibrationCurve", "Grid", "Trial", "calibration_curve", "good_shares", "keep_grid", "schedule_grid",
           "trial_points"]  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A share for each row and layer."""

    rows: list[str]
    shares: NDArray[np.float64]  # [rows, L]

    def mean(self) -> float:
        """Of the first row."""
        return float(self.shares[0].mean())


@dataclass(frozen=True)
class CalibrationCurve:
    """What the thresholds did to the calibration samples, from the safest to the boldest that was tested."""

    thresholds: list[float]
    changed: list[float]
    """Share of the answers that differ from the full model's."""
    bounds: list[float]
    """Its exact upper bound."""
    mean_exits: list[float]
    allowed: float
    chosen: int | None
    """Place of the threshold that was taken; None: none qualified."""


@dataclass(frozen=True)
class Trial:
    """One schedule that a search tried."""

    cost: float
    """Share of the unpruned prefill FLOPs."""
    effectiveness: float
    complete: bool


def keep_grid(data: ReportData, variant: str) -> Grid:
    """Mean share of a sample's visual tokens that each layer processed: all samples, then each family.

    Samples without an image have none that could leave and do not count.
    """
    rows: dict[str, list[list[float]]] = {"all": []}
    for sample in data.samples:
        counts, whole = sample["visual_tokens"], visual_tokens_of_prompt(sample)
        if sample["variant"] != variant or not whole:
            continue
        for family in ("all", sample["family"]):
            if family is not None:
                rows.setdefault(family, []).append([count / whole for count in counts])
    names = ["all", *sorted(name for name in rows if name != "all")]
    return Grid(names, np.array([np.mean(rows[name], axis=0) for name in names]) if rows["all"] else np.zeros((1, 0)))


def schedule_grid(data: ReportData) -> Grid:
    """Keep rates of all schedules that were searched or compared, by budget, then by method."""
    found = {
        (row["budget"], row["method"]): row["rates"]
        for row in [*data.equal_costs, *data.searches]
        if row.get("rates") and row.get("budget") is not None
    }
    keys = sorted(found)
    return Grid([f"{method}, {budget:.0%}" for budget, method in keys], np.array([found[key] for key in keys]))


def trial_points(data: ReportData) -> list[Trial]:
    """All trials that were judged by effectiveness, in the order of the log."""
    return [
        Trial(row["flops_share"], row["effectiveness"], row.get("complete", True))
        for row in data.trials
        if row.get("effectiveness") is not None and row.get("flops_share") is not None
    ]


def calibration_curve(found: dict[str, Any]) -> CalibrationCurve:
    """The curve of a 'calibration' record that has its `tested` thresholds."""
    tested = found["tested"]
    thresholds = [row["threshold"] for row in tested]
    return CalibrationCurve(
        thresholds=thresholds,
        changed=[row["changed"] / found["samples"] for row in tested],
        bounds=[row["bound"] for row in tested],
        mean_exits=[row["mean_exit"] for row in tested],
        allowed=found["epsilon"],
        chosen=None if found["threshold"] is None else thresholds.index(found["threshold"]),
    )


def good_shares(found: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Gated layers of a 'training' record, ascending, and the share of samples for which an exit there is good."""
    shares = {int(layer): share for layer, share in found["good_share"].items()}
    layers = sorted(shares)
    return layers, [shares[layer] for layer in layers]
