"""`lookaway report`: draw the page of one or several record files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .common import plain_console


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make report.html from records: self-contained, without a model or a network."""

    folder: Path | None = field(default=None, metadata={"argument": True})
    """Folder of a command's records, such as out/fit: all record files in it are drawn, into report.html there."""
    records: tuple[Path, ...] = ()
    """A records.jsonl file; give it once for each file, all of one model and one data set."""
    out: Path | None = None
    """The page; default: report.html, in the folder where one is given."""


def run(options: Options) -> dict[str, Any]:
    from ..core.errors import DataError
    from ..reports.pages.page import write_report

    files: list[str | Path] = [*([] if options.folder is None else records_in(options.folder)), *options.records]
    if not files:
        raise DataError(
            "No records: give a folder of records or --records FILE (lookaway fit, eval and bench write records.jsonl)."
        )
    page = write_report(files, options.out or (options.folder or Path()) / "report.html")
    plain_console().print(f"wrote {page}")
    return {"report": str(page)}


def records_in(folder: Path) -> list[Path]:
    """The files of records in a folder: records.jsonl first, then the others by name.

    Raises:
        DataError: there is none.
    """
    from ..core.errors import DataError

    found = sorted(folder.glob("*.jsonl"), key=lambda path: (path.name != "records.jsonl", path.name))
    if not found:
        raise DataError(f"{folder} holds no records (*.jsonl). Name the folder that a command wrote with --out.")
    return found
