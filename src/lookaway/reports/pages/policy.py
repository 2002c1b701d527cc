"""Which figures the records of a policy allow, with their captions."""

from __future__ import annotations

from ..collect import ReportData, changed_work, shows_exits, skip_search
from ..figures.gates import calibration, labels
from ..figures.policy import exit_curves, exit_histogram, front, keep_map, speed
from ..figures.search import cost_front, found_schedule, schedule_map, schedules, trials
from ..figures.skips import skip_rows, skip_scores, skip_sets
from ..policy_tables import keep_grid, schedule_grid, trial_points

__all__ = ["policy_figures"]

Drawn = list[tuple[str, str]]
"""(SVG, caption) each."""


def policy_figures(data: ReportData) -> Drawn:
    """Figures of eval, search, bench, calibrate and train, in the order of the page."""
    return [*_evaluation(data), *_search(data), *_skips(data), *_speed(data), *_gates(data)]


def _evaluation(data: ReportData) -> Drawn:
    found = []
    if "all" in data.curves:
        words = "Accuracy against cost; left and up is better. Above the line of fixed exits: it knows its samples."
        found.append((front(data), words))
        words = "Accuracy if all questions' visual tokens leave before the same layer. Flat: the image has been read."
        found.append((exit_curves(data), words))
    for variant in data.summaries:
        if not keep_grid(data, variant).shares.size:
            continue
        if shows_exits(data, variant):
            words = f"Before which layer all visual tokens of a question left ({variant})."
            found.append((exit_histogram(data, variant), words))
        words = f"Share of the visual tokens that each layer still processed ({variant}), by family of questions."
        found.append((keep_map(data, variant), words))
    return found


def _search(data: ReportData) -> Drawn:
    found = []
    if any(row["method"] != "full" for row in data.equal_costs):
        words = "Accuracy at equal prefill FLOPs; left and up is better. Bars are 95 % intervals."
        found.append((cost_front(data), words))
        found.append((schedules(data), "How many visual tokens each layer keeps, at the middle budget."))
    if any(row.get("rates") for row in data.searches):
        words = "What each layer keeps. Dotted: what the authors of G-Search found for LLaVA-1.5-7B."
        found.append((found_schedule(data), words))
    if len(schedule_grid(data).rows) > 1:
        found.append((schedule_map(data), "Share of the visual tokens kept in each layer, for each schedule found."))
    if trial_points(data):
        words = "Everything the search tried, judged on its own calibration samples. Dotted: the full model."
        found.append((trials(data), words))
    return found


def _skips(data: ReportData) -> Drawn:
    found = []
    if data.skip_updates and skip_search(data):
        found.append((skip_scores(data), "What the search thought of each attention. Grey ones stay."))
    if skip_rows(data):
        found.append((skip_sets(data), "The searched set beside sets of the same size that cost little to find."))
    return found


def _speed(data: ReportData) -> Drawn:
    if not any(t["part"] == "decoder" and t["implied"] is not None and changed_work(t) for t in data.timings):
        return []
    return [(speed(data), "Is saved work saved time? On the dashed line all of it is. Bars are quartiles.")]


def _gates(data: ReportData) -> Drawn:
    found = []
    for place, training in enumerate(data.trainings):
        if training.get("good_share"):
            words = "What the gates were taught: how often an exit would do no harm, on the training samples."
            found.append((labels(data, place), words))
    for place, one in enumerate(data.calibrations):
        if one.get("tested"):
            words = (
                "Calibration: thresholds are tested from safe to bold, and the last whose bound is allowed is taken."
            )
            found.append((calibration(data, place), words))
    return found
