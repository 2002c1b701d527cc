"""Records -> the plain data that tables and figures need. No drawing here, so all of it is tested without a plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.record import read_records
from .one_page import check_name, check_runs

__all__ = ["ReportData", "changed_work", "collect", "histograms", "records_in", "saved_work", "shows_exits",
           "skip_search", "visual_tokens_of_prompt"]  # fmt: skip


@dataclass
class ReportData:
    """Everything that one report shows; each part may be empty."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Of policies; those of what stands beside them are in its summaries alone."""
    pictures: dict[str, str] = field(default_factory=dict)
    """Sample id -> base64 PNG."""
    summaries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Variant -> rows."""
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> the summary of what stands beside the policy at its cost."""
    hard: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """(policy, baseline) -> the questions that the baseline cannot answer and the full model can."""
    can_exit: dict[str, bool] = field(default_factory=dict)
    """Variant -> whether its policy may remove all visual tokens of a sample; not in records of 0.1."""
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Family -> curve."""
    fronts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Variant -> points by threshold."""
    comparisons: dict[str, dict[str, Any]] = field(default_factory=dict)
    timings: list[dict[str, Any]] = field(default_factory=list)
    energies: list[dict[str, Any]] = field(default_factory=list)
    """What `lookaway bench --energy` found, one a variant and part."""
    calibrations: list[dict[str, Any]] = field(default_factory=list)
    trainings: list[dict[str, Any]] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    skip_updates: list[dict[str, Any]] = field(default_factory=list)
    """Updates of a skip search, in order."""
    trials: list[dict[str, Any]] = field(default_factory=list)
    """What searches tried, in the order of their logs."""
    equal_costs: list[dict[str, Any]] = field(default_factory=list)
    """One a method and budget; the full model first."""
    fits: list[dict[str, Any]] = field(default_factory=list)
    """Results of `lookaway fit`; the last is the one that is drawn."""
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> what stands beside a fitted policy on held-out samples, the policy itself first."""
    no_beside: dict[str, Any] = field(default_factory=dict)
    """Why nothing stands beside it, and whose pictures are shown instead of held-out ones; empty: something does."""
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Sample id -> picture, and how long each of its visual tokens stayed."""
    findings: dict[str, Any] = field(default_factory=dict)
    """Name -> table of a study (`lookaway analyze`); None where the records did not allow it."""
    studies: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Sample id -> what probes measured."""
    looks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Sample id -> picture and reasons of the samples that a study shows."""

    @property
    def run(self) -> dict[str, Any]:
        """The latest run's header."""
        return self.runs[-1]

    @property
    def num_layers(self) -> int:
        return int(self.run["base_model"]["num_layers"])


def collect(paths: str | Path | Iterable[str | Path]) -> ReportData:
    """Read record files into one report's data; of several records for the same thing the last counts.

    Raises:
        DataError: there is no 'run' header (a report that cannot name its run is not drawn), the runs are of different
            models or data, or a file is missing or damaged.
    """
    data = ReportData()
    samples: dict[tuple[str, str], dict[str, Any]] = {}
    timings: dict[tuple[Any, ...], dict[str, Any]] = {}
    energies: dict[tuple[Any, ...], dict[str, Any]] = {}
    costs: dict[tuple[str, float], dict[str, Any]] = {}
    beside: dict[tuple[str, str], dict[str, Any]] = {}
    policies: dict[str, Any] = {}
    for record in read_records(paths):
        kind = record["kind"]
        if kind == "run":
            if lacking := [name for name in ("command", "model", "data") if name not in record]:
                raise DataError(f"A 'run' header of these records lacks {lacking[0]!r}: they are damaged.")
            data.runs.append(record)
            if record["command"] == "analyze":
                data.looks.clear()  # a run that goes on chooses anew
        elif kind == "sample":
            samples[record["variant"], record["id"]] = record
        elif kind == "picture":
            data.pictures[record["id"]] = record["png"]
        elif kind == "summary" and record.get("beside"):
            beside[record["beside"], record["variant"]] = record
        elif kind == "hard" and "beside" in record:  # of an older version: beside uniform tokens
            data.hard[record["variant"], record["beside"]] = record
        elif kind == "summary":
            check_name(record["variant"], data.runs, policies)
            data.summaries[record["variant"]] = record["rows"]
            data.can_exit[record["variant"]] = record.get("can_exit", False)
        elif kind == "curve":
            data.curves[record["family"]] = record
        elif kind == "front":
            data.fronts[record["variant"]] = record["points"]
        elif kind == "comparison":
            data.comparisons[record["variant"]] = record
        elif kind == "timing":
            timed = (record["variant"], record["part"], record.get("batch_size"), record.get("new_tokens"))
            timings[timed] = record
        elif kind == "energy":
            energies[record["variant"], record["part"], record["batch_size"], record["new_tokens"]] = record
        elif kind == "calibration":
            data.calibrations.append(record)
        elif kind == "training":
            data.trainings.append(record)
        elif kind == "search":
            data.searches.append(record)
        elif kind == "skip-search":
            data.skip_updates.append(record)
        elif kind == "trial":
            data.trials.append(record)
        elif kind == "equal-cost":
            costs[record["method"], record["budget"]] = record
        elif kind == "fit":
            data.fits.append(record)
        elif kind == "beside":
            data.beside[record["name"]] = record
        elif kind == "no-beside":
            data.no_beside = record
        elif kind == "kept":
            data.kept[record["id"]] = record
        elif kind == "finding":
            data.findings[record["name"]] = record["table"]
        elif kind == "study":
            data.studies[record["id"]] = record
        elif kind == "look":
            data.looks[record["id"]] = record
    several = len({name for name, _ in beside}) > 1
    data.baselines = {f"{v}, at the cost of {name}" if several else v: found for (name, v), found in beside.items()}
    not_policies = {variant for _, variant in beside}
    data.samples = [sample for (variant, _), sample in samples.items() if variant not in not_policies]
    data.timings, data.energies = list(timings.values()), list(energies.values())
    data.equal_costs = list(costs.values())
    check_runs(data.runs)
    return data


def records_in(folder: Path) -> list[Path]:
    """The files of records in a folder: records.jsonl first, then the others by name.

    Raises:
        DataError: there is none.
    """
    found = sorted(folder.glob("*.jsonl"), key=lambda path: (path.name != "records.jsonl", path.name))
    if not found:
        raise DataError(f"{folder} holds no records (*.jsonl). Name folders that a command wrote with --out.")
    return found


def skip_search(data: ReportData) -> dict[str, Any] | None:
    """The latest search of attentions to skip; None where there was none."""
    return next((found for found in reversed(data.searches) if found["method"] == "eas"), None)


def visual_tokens_of_prompt(sample: Mapping[str, Any]) -> int:
    """Visual tokens of a sample's prompt, those included that never entered the decoder."""
    known = sample.get("prompt_visual_tokens")  # not in records of 0.1, where nothing left before layer 1
    return int(sample["visual_tokens"][0] if known is None else known)


def shows_exits(data: ReportData, variant: str) -> bool:
    """Whether a page speaks of this variant's exit layers: its policy can exit, or some sample did."""
    rows = data.summaries.get(variant, [])
    exited = any(row["never_exits"] is not None and row["never_exits"] < 1 for row in rows)
    return data.can_exit.get(variant, False) or exited


def saved_work(timing: Mapping[str, Any]) -> bool:
    """Whether visual tokens left the timed sample's decoder, by what was counted."""
    return (timing["implied_flops"] or 1.0) > 1.0


def changed_work(timing: Mapping[str, Any]) -> bool:
    """Whether the timed sample's decoder did less than the full model, or more (a second look), by what was counted."""
    return abs((timing["implied_flops"] or 1.0) - 1) > 1e-9


def histograms(data: ReportData, variant: str) -> dict[str, list[int]]:
    """Family -> number of samples for each exit layer 0 .. L (L: never), samples with an image only; 'all' first."""
    depth = data.num_layers
    counts: dict[str, list[int]] = {"all": [0] * (depth + 1)}
    for sample in data.samples:
        if sample["variant"] != variant or not visual_tokens_of_prompt(sample):
            continue
        layer = depth if sample["exit_layer"] is None else sample["exit_layer"]
        for family in ("all", sample["family"]):
            if family is not None:
                counts.setdefault(family, [0] * (depth + 1))[layer] += 1
    return {"all": counts.pop("all"), **dict(sorted(counts.items()))}
