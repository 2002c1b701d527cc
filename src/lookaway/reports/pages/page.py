"""One self-contained HTML page from records: no network, no script, light and dark, readable on a phone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.errors import DataError, MissingDependency
from ...core.files import write_text
from ..collect import ReportData, collect, skip_search
from ..figures.skips import skip_rows
from ..formatting import (
    baseline_rows,
    comparison_rows,
    equal_cost_rows,
    guarantee_text,
    hard_words,
    sample_cards,
    search_words,
    summary_table,
    tiles,
)
from ..timing_tables import energy_source, energy_tables, looks_timed, timing_tables
from .findings import sections
from .findings_text import study_tiles
from .fit import fit_page
from .policy import policy_figures
from .sample_cards import look_cards

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
    environment = Environment(loader=PackageLoader("lookaway.reports"), autoescape=True)
    if data.fits:
        return environment.get_template("fit.html").render(**_marked(fit_page(data), Markup))
    results = (data.summaries, data.curves, data.timings, data.equal_costs, data.findings, data.searches,
               data.trainings, data.calibrations, skip_search(data))  # fmt: skip
    if not any(results):
        raise DataError(
            "These records hold no results yet (no summary, curve, timing, search, training, calibration or finding), "
            "so there is nothing to draw."
        )
    return environment.get_template("report.html").render(
        data=data,
        tiles=tiles(data) or study_tiles(data),
        comparisons=[
            (f"{variant}, at equal cost", *comparison_rows(found)) for variant, found in data.comparisons.items()
        ],
        figures=[(Markup(svg), words) for svg, words in policy_figures(data)],
        tables=[(variant, *summary_table(data, variant)) for variant in data.summaries],
        baselines=baseline_rows(data) if data.baselines else [],
        hard=hard_words(data),
        equal_costs=equal_cost_rows(data),
        skips=skip_rows(data),
        timings=timing_tables(data),
        energies=energy_tables(data),
        energy_source=energy_source(data),
        second_looks=looks_timed(data),
        searches=[line for found in data.searches for line in search_words(found)],
        guarantees=[guarantee_text(found) for found in data.calibrations],
        samples=sample_cards(data),
        sections=[section.marked(Markup) for section in sections(data)],
        looks=look_cards(data),
    )


def _marked(page: dict[str, Any], markup: Callable[[str], str]) -> dict[str, Any]:
    """The same with its SVG elements marked as safe; everything else is escaped."""
    front, families = page["front"], page["families"]
    return {
        **page,
        "front": (markup(front[0]), front[1]),
        "beside_figures": [(markup(svg), words) for svg, words in page["beside_figures"]],
        "families": families and (markup(families[0]), families[1]),
    }
