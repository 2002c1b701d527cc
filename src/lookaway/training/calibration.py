"""A threshold with a guarantee: at most epsilon of the answers change, with confidence 1 - delta.

Thresholds are tested from the safest to the boldest, in an order fixed before looking, each with the exact one-sided
binomial (Clopper-Pearson) bound at level delta; the first that fails ends it and the last that passed is taken. This
needs no correction for the number of thresholds (fixed-sequence testing; Angelopoulos et al., Learn then Test, arXiv
2110.01052): a wrong guarantee needs the first wrong threshold of the order to pass, which has probability <= delta.

What it assumes: calibration samples were used for nothing else and are drawn like the inputs to come, one by one.
Questions of one image are no independent draws, so one of each image is taken (`one_per_image`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from ..core.bounds import samples_needed, upper_bound
from ..core.errors import DataError, SettingsError
from ..core.exit_table import ExitTable
from ..policies.exit_simulation import exit_probabilities
from ..policies.visual_exit import VisualExit
from .gate_training import what_happens

__all__ = [
    "Calibration",
    "CalibrationOptions",
    "calibrate",
    "calibrated",
    "default_thresholds",
    "one_per_image",
]


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Choose the threshold that keeps a guarantee about changed answers."""

    epsilon: float = 0.02
    """At most this share of the answers may differ from the full model's ..."""
    delta: float = 0.05
    """... with confidence 1 - delta over the draw of the calibration samples."""
    min_layer: int | None = None
    """No exit before a layer below this one; default: the policy's own."""
    read_every: int | None = None
    """Read the gates' decisions once for so many candidate layers, so that a GPU waits less often; a row then exits at
    the last layer of the group in which its gate fired. Default: the policy's own, which is 1 as trained."""
    one_per_image: bool = True
    """Count only one question of each image, because questions about one image are not independent."""

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1 or not 0 < self.delta < 1:
            raise SettingsError(f"epsilon and delta must lie between 0 and 1, not {self.epsilon} and {self.delta}.")
        if self.read_every is not None and self.read_every < 1:
            raise SettingsError(f"read_every is a number of candidate layers, at least 1, not {self.read_every}.")


_OF_THE_POLICY = ("tested", "threshold", "min_layer", "read_every")
"""What a calibration found that the policy itself says, or that is only of its record."""


@dataclass(frozen=True)
class Calibration:
    """The guarantee that was found, or why there is none."""

    threshold: float | None
    """The boldest threshold that passed; None: none did, and the policy must never exit."""
    epsilon: float
    delta: float
    samples: int
    changed: int
    """Calibration answers that differ from the full model's at this threshold."""
    bound: float
    """Upper bound of the share of changed answers, at confidence 1 - delta."""
    mean_exit: float
    """Mean exit layer on the calibration samples; 'never' counts as one layer behind the last candidate."""
    min_layer: int
    reason: str
    """In words."""
    tested: list[dict[str, float]]
    """Every threshold tested, in order: threshold, changed, bound, mean_exit."""
    read_every: int = 1
    """Candidate layers whose decisions are read together."""

    def guarantee(self) -> dict[str, Any]:
        """What a saved policy keeps of it."""
        return {name: value for name, value in asdict(self).items() if name not in _OF_THE_POLICY}

    def record(self) -> dict[str, Any]:
        """Payload of a record of kind 'calibration' (docs/records.md)."""
        return asdict(self)


@lru_cache(maxsize=4096)  # scipy finds it in some milliseconds, and thresholds that change as many answers ask again
def default_thresholds() -> tuple[float, ...]:
    """From safe to bold: 0.999 to 0.02, evenly in log-odds, so that both ends are fine."""
    odds = torch.linspace(6.9, -3.9, 55)
    return tuple(round(p, 4) for p in odds.sigmoid().tolist())


def calibrate(
    policy: VisualExit,
    table: ExitTable,
    options: CalibrationOptions | None = None,
    images: Mapping[str, str] | None = None,
    thresholds: Sequence[float] | None = None,
) -> Calibration:
    """Find the boldest threshold that keeps the guarantee, for exactly the policy that `calibrated` gives.

    Args:
        policy: trained gates with their layers; the table must not be the one they were trained on.
        table: exit table of the calibration samples, of the same model.
        images: sample id -> name of its image (`exit_labels.image_names`); None: each sample has its own.
        thresholds: in the order of testing, descending; it must not depend on the table.

    Raises:
        DataError: the table is empty, or lacks a layer at which the policy may exit.
        SettingsError: thresholds that do not descend.
    """
    options = options or CalibrationOptions()
    order = tuple(thresholds) if thresholds is not None else default_thresholds()
    if list(order) != sorted(set(order), reverse=True) or not order:
        raise SettingsError("Thresholds must descend, each once: the safest is tested first.")
    if images is not None and options.one_per_image:
        table = one_per_image(table, images)
    n = len(table)
    if n == 0:
        raise DataError("The calibration table is empty. Give more --data.")
    probabilities = exit_probabilities(policy.gates, table)
    tested: list[dict[str, float]] = []
    passed: dict[str, float] | None = None
    for threshold in order:
        candidate = policy.with_threshold(threshold, None, options.min_layer, options.read_every)
        found = what_happens(table, candidate.exits(table, probabilities))
        changed = round(n * (1 - found["agreement"]))
        row = {
            "threshold": threshold,
            "changed": changed,
            "bound": upper_bound(changed, n, options.delta),
            "mean_exit": found["mean_exit"],
        }
        tested.append(row)
        if row["bound"] > options.epsilon:
            break
        passed = row
    chosen = passed or tested[0]
    return Calibration(
        threshold=passed["threshold"] if passed else None,
        epsilon=options.epsilon,
        delta=options.delta,
        samples=n,
        changed=int(chosen["changed"]),
        bound=chosen["bound"],
        mean_exit=chosen["mean_exit"],
        min_layer=policy.min_layer if options.min_layer is None else options.min_layer,
        reason=_reason(passed, tested[0], n, options),
        tested=tested,
        read_every=policy.read_every if options.read_every is None else options.read_every,
    )


def calibrated(policy: VisualExit, calibration: Calibration) -> VisualExit:
    """The policy at the calibrated threshold; the guarantee kept with it holds a digest of what was certified."""
    found = policy.with_threshold(calibration.threshold, None, calibration.min_layer, calibration.read_every)
    guarantee = {**calibration.guarantee(), "policy": found.certified_digest()}
    return found.with_threshold(calibration.threshold, guarantee)


def one_per_image(table: ExitTable, images: Mapping[str, str]) -> ExitTable:
    """One sample of each image, chosen by a hash of its id: the results have no say."""
    chosen: dict[str, tuple[str, int]] = {}
    for row, name in enumerate(table.ids):
        rank = (hashlib.sha256(name.encode()).hexdigest(), row)
        image = images.get(name, name)
        chosen[image] = min(rank, chosen.get(image, rank))
    return table.subset(sorted(row for _, row in chosen.values()))


def _reason(passed: dict[str, float] | None, first: dict[str, float], n: int, o: CalibrationOptions) -> str:
    if passed is not None:
        return f"The boldest threshold whose upper bound {passed['bound']:.4f} is at most {o.epsilon}."
    needed = samples_needed(o.epsilon, o.delta)
    if n < needed:
        return (
            f"No threshold qualifies: {n} samples cannot show {o.epsilon:.1%} at confidence {1 - o.delta:.0%} even if "
            f"no answer changes; that takes at least {needed}."
        )
    return (
        f"No threshold qualifies: already the safest, {first['threshold']}, changed {int(first['changed'])} of {n} "
        f"answers (upper bound {first['bound']:.4f}, allowed {o.epsilon}). Train gates on more data, or allow more."
    )
