"""What `lookaway bench` timed -> tables of the page. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .collect import ReportData
from .formatting import share

__all__ = ["energy_source", "energy_tables", "looks_timed", "timing_tables"]


def looks_timed(data: ReportData) -> bool:
    """Whether second looks with set numbers of rows that look again are among what was timed."""
    return any(timing["variant"].endswith(" again") for timing in data.timings)


def timing_tables(data: ReportData) -> list[tuple[str, list[str], list[list[str]]]]:
    """One table a part, size of the batch and length of the answer: title, headers, and a line of cells a variant.
    Columns that say nothing of a part are left out, so that the table fits a page."""
    tables = []
    for part, timed in _by_part(data.timings).items():
        columns = {
            "variant": [t["variant"] for t in timed],
            "visual tokens per layer": [_timed_tokens(t) for t in timed],
            "time": [_milliseconds(t["seconds"]) for t in timed],
            "speed-up (quartiles)": [
                "{:.2f} × ({:.2f} to {:.2f})".format(t["speedup"], *t["speedup_quartiles"]) for t in timed
            ],
            "implied": [_times(t["implied"]) for t in timed],
            "measured / implied": [share(t["efficiency"], 0) for t in timed],
            "implied by FLOPs alone": [_times(t["implied_flops"]) for t in timed],
            "tokens a second": [_rate(t.get("tokens_per_second")) for t in timed],
            "guesses accepted": [_accepted(t) for t in timed],
            "limit of the machine": [_milliseconds(t.get("limit")) for t in timed],
            "a token after the first": [_milliseconds(t.get("per_token"), 1) for t in timed],
            "KV cache": [_megabytes(t.get("kv_bytes")) for t in timed],
        }
        rate = timed[0].get("baseline_tokens_per_second")
        title = f"{part}: {_milliseconds(timed[0]['baseline_seconds'])} without a policy"
        title += f", {_rate(rate)} tokens a second" if rate else ""
        tables.append(_table(title, columns))
    return tables


def energy_tables(data: ReportData) -> list[tuple[str, list[str], list[list[str]]]]:
    """The same of energies."""
    tables = []
    for part, found in _by_part(data.energies).items():
        columns = {
            "variant": [e["variant"] for e in found],
            "energy": [_joules(e["joules"]) for e in found],
            "without a policy / with it": [_times(e["ratio"]) for e in found],
            "time": [_milliseconds(e["seconds"]) for e in found],
            "a token after the first": [_joules(e["per_token"]) for e in found],
            "a token without a policy": [_joules(e["baseline_per_token"]) for e in found],
            "GPU alone": [_joules(e["gpu_joules"] or None) for e in found],
        }
        title = f"energy, {part}: {_joules(found[0]['baseline_joules'])} without a policy"
        tables.append(_table(title, columns))
    return tables


def energy_source(data: ReportData) -> str:
    """How the energies were got, in a sentence; '' where there are none."""
    if not data.energies:
        return ""
    found = data.energies[-1]
    if found["measured"]:
        return f"Energy was measured ({found['source']}), of the whole machine while each variant ran, without memory."
    return (
        f"Energy was not measured: codecarbon estimates it from the time ({found['source']}), so it tells nothing that "
        "the seconds do not."
    )


def _by_part(records: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Part, size of the batch and length of the answer in words -> its records."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(_timed_part(record), []).append(record)
    return groups


def _table(title: str, columns: Mapping[str, list[str]]) -> tuple[str, list[str], list[list[str]]]:
    """A table without the columns that say nothing."""
    told = {name: cells for name, cells in columns.items() if set(cells) != {"–"}}
    return title, list(told), [list(cells) for cells in zip(*told.values(), strict=True)]


def _joules(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g} J"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} ×"


def _timed_part(timing: dict[str, Any]) -> str:
    """'decode, 32 tokens, batch of 8'; what is 1, or not known to older records, is not said."""
    length, size = timing.get("new_tokens", 1), timing.get("batch_size", 1)
    return timing["part"] + (f", {length} tokens" if length > 1 else "") + (f", batch of {size}" if size > 1 else "")


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _accepted(timing: dict[str, Any]) -> str:
    """'12 of 20 (60 %)': guessed tokens that the model accepted; '–' where nothing guesses."""
    if timing.get("draft") is None:
        return "–"
    if timing["acceptance"] is None:
        return "none guessed"
    return f"{timing['accepted']} of {timing['drafted']} ({share(timing['acceptance'], 0)})"


def _milliseconds(seconds: float | None, digits: int = 0) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.{digits}f} ms"


def _megabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:.1f} MB"


def _timed_tokens(timing: dict[str, Any]) -> str:
    """'73 of 196'; records of 0.1 do not know."""
    whole = timing.get("full_visual_tokens")
    return f"{timing['visual_tokens']:.0f} of {whole:.0f}" if whole else "–"
