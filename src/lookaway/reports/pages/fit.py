"""The page of `lookaway fit`: what was chosen, what it costs, what is shown about it, and what else was there."""

from __future__ import annotations

from typing import Any

from ..collect import ReportData
from ..figures.fit import beside, by_family, fit_front
from ..fit_tables import (
    beside_rows,
    certificate_text,
    chosen_words,
    family_rows,
    fit_of,
    fit_tiles,
    found_points,
    possible_text,
    seconds_rows,
    speed_texts,
    tested_rows,
    timed_of,
    unit_of,
)
from ..formatting import share
from ..timing_tables import energy_source, energy_tables, looks_timed, timing_tables
from .kept_pictures import kept_cards

__all__ = ["fit_page"]


def fit_page(data: ReportData) -> dict[str, Any]:
    """What `fit.html` needs of the records."""
    found = fit_of(data)
    own = next(iter(data.beside.values()), None)
    certified = found["certificate"] is not None
    counted = len(found_points(found))
    timed = found["unit"] == "seconds" and timed_of(found)
    all_of = f"The {counted} policies that were timed," if timed else f"All {counted} policies"
    return {
        "data": data,
        "title": "The cheapest policy that keeps the answers" if certified else "No policy was certified",
        "chosen": chosen_words(data) if certified else "",
        "certificate": certificate_text(data),
        "certified": certified,
        "possible": possible_text(data),
        "speed": speed_texts(data),
        "prompts": found.get("generic_prompts") or [],
        "tiles": fit_tiles(data),
        "front": (
            fit_front(data),
            f"{all_of} on the search split, and those that were tested on other samples, with exact 95 % "
            "intervals; up and left is better. On the samples that chose, the best look better than they are: only the "
            "tested ones are evidence.",
        ),
        "unit": unit_of(found),
        "beside_figures": _beside_figures(data),
        "beside_rows": beside_rows(data) if own else [],
        "own": own,
        "families": (by_family(data), family_rows(data)) if own and len(own["families"]) > 1 else None,
        "kept": kept_cards(data),
        "tested": tested_rows(data),
        "timings": timing_tables(data),
        "energies": energy_tables(data),
        "energy_source": energy_source(data),
        "second_looks": looks_timed(data),
        "seconds": seconds_rows(data),
        "epsilon": share(found["options"]["epsilon"]),
    }


def _beside_figures(data: ReportData) -> list[tuple[str, str]]:
    if not data.beside:
        return []
    found = [
        (
            beside(data, "agreement"),
            "Held-out samples, 95 % intervals. Filled: the policy's FLOPs or slightly more. Hollow: at its "
            "own cost, since its settings are fixed.",
        )
    ]
    if next(iter(data.beside.values()))["accuracy"] is not None:
        found.append((beside(data, "accuracy"), "The same runs by the task's own score. Dotted: the full model."))
    return found
