"""`lookaway report`: draw the page of one or several record files, or the leaderboard of many folders."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .common import plain_console


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make report.html from records: self-contained, without a model or a network."""

    folders: tuple[Path, ...] = field(default=(), metadata={"argument": True})
    """Folder of a command's records, such as out/fit: all record files in it are drawn, into report.html there. With
    --board any number of folders."""
    records: tuple[Path, ...] = ()
    """A records.jsonl file; give it once for each file, all of one model and one data set."""
    board: bool = False
    """Draw the leaderboard instead: all policies in folders of lookaway eval and fit, on all data, at their cost."""
    out: Path | None = None
    """The page; default: report.html, in the folder where one is given; of a board: board.html."""


def run(options: Options) -> dict[str, Any]:
    from ..core.errors import DataError
    from ..reports.collect import records_in
    from ..reports.pages.page import write_report

    if options.board:
        return {"report": str(_board(options))}
    if len(options.folders) > 1:
        raise DataError("A report is of one folder. Give --board for the leaderboard of several.")
    folder = options.folders[0] if options.folders else None
    files: list[str | Path] = [*([] if folder is None else records_in(folder)), *options.records]
    if not files:
        raise DataError(
            "No records: give a folder of records or --records FILE (lookaway fit, eval and bench write records.jsonl)."
        )
    page = write_report(files, options.out or (folder or Path()) / "report.html")
    plain_console().print(f"wrote {page}")
    return {"report": str(page)}


def _board(options: Options) -> Path:
    from .. import __version__
    from ..core.errors import DataError
    from ..reports.pages.board import write_board

    if options.records:
        raise DataError(
            "A board is made of folders, not of --records. Name the folders: lookaway report --board out/*."
        )
    if not options.folders:
        raise DataError("No folders: name those of lookaway eval and fit, as in lookaway report --board out/*.")
    page = write_board(options.folders, options.out or Path("board.html"), __version__)
    plain_console().print(f"wrote {page}")
    return page
