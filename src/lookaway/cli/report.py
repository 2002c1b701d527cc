"""`lookaway report`: draw the page of one or several record files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .common import plain_console


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make report.html from records: self-contained, without a model or a network."""

    records: tuple[Path, ...] = ()
    """A records.jsonl file; give it once for each file, all of one model and one data set."""
    out: Path = Path("report.html")
    """The page."""


def run(options: Options) -> dict[str, Any]:
    from ..core.errors import DataError
    from ..reports.pages.page import write_report

    if not options.records:
        raise DataError("No records: give --records FILE (lookaway eval, bench and demo write records.jsonl).")
    page = write_report(list(options.records), options.out)
    plain_console().print(f"wrote {page}")
    return {"report": str(page)}
