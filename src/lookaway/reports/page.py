"""One self-contained HTML page from records: no network, no script, light and dark, readable on a phone."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import DataError, MissingDependency
from ..core.files import write_text
<<<<<<< HEAD
from . import figures
from .collect import ReportData, collect, skip_search
from .findings_page import sections
from .findings_words import study_tiles
from .looks import look_cards
from .skips import skip_rows, skip_scores, skip_sets
from .words import comparison_rows, equal_cost_rows, promise_words, sample_cards, summary_rows, tiles, timing_rows
=======
from .collect import ReportData, collect
from .findings_page import sections
from .findings_words import study_tiles
from .looks import look_cards
from .policy_page import policy_figures
from .words import (
    comparison_rows,
    equal_cost_rows,
    promise_words,
    sample_cards,
    search_words,
    summary_rows,
    tiles,
    timing_rows,
)
>>>>>>> analysis

__all__ = ["render", "write_report"]


def write_report(records: str | Path | list[str | Path], target: str | Path) -> Path:
    """Draw the page of these record files and write it atomically.

    Raises:
        DataError: the records cannot be drawn (see `collect`).
        MissingDependency: jinja2 or matplotlib is missing.
    """
    return write_text(target, render(collect(records)))


def render(data: ReportData) -> str:
    """The page as text."""
    try:
        from jinja2 import Environment, PackageLoader
        from markupsafe import Markup
    except ImportError:
        raise MissingDependency.of("jinja2", "report") from None
<<<<<<< HEAD
    if not (data.summaries or data.curves or data.timings or data.equal_costs or data.findings or skip_search(data)):
        raise DataError(
            "These records hold no results yet (no summary, curve, timing, search of skips, comparison at equal cost "
            "or finding), so there is nothing to draw."
=======
    results = (data.summaries, data.curves, data.timings, data.equal_costs, data.findings, data.searches,
               data.trainings, data.calibrations)  # fmt: skip
    if not any(results):
        raise DataError(
            "These records hold no results yet (no summary, curve, timing, search, training, calibration or finding), "
            "so there is nothing to draw."
>>>>>>> analysis
        )
    environment = Environment(loader=PackageLoader("lookaway.reports"), autoescape=True)
    return environment.get_template("report.html").render(
        data=data,
        tiles=tiles(data) or study_tiles(data),
        comparisons=[
            (f"{variant}, at equal cost", *comparison_rows(found)) for variant, found in data.comparisons.items()
        ],
        figures=[(Markup(svg), words) for svg, words in policy_figures(data)],
        tables=[(variant, summary_rows(rows)) for variant, rows in data.summaries.items()],
        equal_costs=equal_cost_rows(data),
        skips=skip_rows(data),
        timings=timing_rows(data),
        searches=[line for found in data.searches for line in search_words(found)],
        promises=[promise_words(found) for found in data.calibrations],
        samples=sample_cards(data),
        sections=[section.marked(Markup) for section in sections(data)],
        looks=look_cards(data),
    )
<<<<<<< HEAD


def _figures(data: ReportData) -> list[tuple[str, str]]:
    """(SVG, caption) of each figure that the records allow."""
    found: list[tuple[str, Any]] = []
    if "all" in data.curves:
        words = "Accuracy against cost; left and up is better. Above the line of fixed exits: it knows its samples."
        found.append((figures.front(data), words))
        words = "Accuracy if all questions' visual tokens leave before the same layer. Flat: the image has been read."
        found.append((figures.exit_curves(data), words))
    for variant in data.summaries:
        found.append((figures.exit_histogram(data, variant), f"Where the questions looked away ({variant})."))
    if any(row["method"] != "full" for row in data.equal_costs):
        words = "Accuracy at equal prefill FLOPs; left and up is better. Bars are 95 % intervals."
        found.append((figures.cost_front(data), words))
        found.append((figures.schedules(data), "How many visual tokens each layer keeps, at the middle budget."))
    if data.skip_updates and skip_search(data):
        found.append((skip_scores(data), "What the search thought of each attention. Grey ones stay."))
    if skip_rows(data):
        found.append((skip_sets(data), "The searched set beside sets of the same size that cost little to find."))
    if any(t["part"] == "decoder" and t["exit_layer"] is not None for t in data.timings):
        found.append(
            (figures.speed(data), "Is saved work saved time? On the dashed line all of it is. Bars are quartiles.")
        )
    return found
=======
>>>>>>> analysis
