"""The leaderboard: every policy on every task at its cost. One file, whose script filters and sorts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import MissingDependency
from ...core.files import write_text
from ..board import BoardRow, Group, collect_board, on_front
from ..formatting import number, share

__all__ = ["render_board", "write_board"]

HEAD = ("policy", "prefill FLOPs", "KV cache", "visual tokens a layer", "same answer (95\N{NO-BREAK SPACE}%)",
        "score with", "score without", "retention (95\N{NO-BREAK SPACE}%)", "questions")  # fmt: skip


def write_board(folders: Iterable[str | Path], target: str | Path, version: str) -> Path:
    """Draw the board of these folders' records and write it atomically.

    Raises:
        DataError: see `collect_board`.
        MissingDependency: jinja2 is missing.
    """
    return write_text(target, render_board(collect_board(folders, version)))


def render_board(groups: Sequence[Group]) -> str:
    """The page as text."""
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError:
        raise MissingDependency.of("jinja2", "report") from None
    shown = [_shown(group, groups) for group in groups]
    return (
        Environment(loader=PackageLoader("lookaway.reports"), autoescape=True)
        .get_template("board.html")
        .render(
            groups=shown,
            head=HEAD,
            models=sorted({group["model"] for group in shown}),
            data=sorted({group["data"] for group in shown}),
            methods=sorted({row.method for group in groups for row in group.rows}),
            count=sum(len(group.rows) for group in groups),
        )
    )


def _shown(group: Group, groups: Sequence[Group]) -> dict[str, Any]:
    first = group.rows[0].numbers
    models = (name for other in groups if other.weights == group.weights for name in other.models)
    data = (name for other in groups if other.samples == group.samples for name in other.data)
    return {
        "model": f"{' / '.join(dict.fromkeys(models))} [{group.weights[:6]}]",  # one name for one model in the filter
        "data": f"{' / '.join(dict.fromkeys(data))} [{group.samples.split(' ')[-1][:6]}]",
        "counts": f"{first['samples']} questions about {first['images']} different pictures",
        "scorer": group.scorer,
        "facts": group.facts,
        "full": [share(value) for value in group.without] or ["–"],
        "rows": [_cells(row, group) for row in group.rows],
    }


def _cells(row: BoardRow, group: Group) -> dict[str, Any]:
    """(text, what it is sorted by) of each cell; a number that is not known sorts last."""
    found = row.numbers
    scored = found["scored"] if found["accuracy_with"] is not None else 0
    with_answers = "" if scored in (0, found["samples"]) else f" ({scored} scored)"
    accuracy = share(found["accuracy_with"]) if row.accuracy is None else _interval(row.accuracy)
    cells = [
        (share(found["flops_share"]), found["flops_share"]),
        (share(found["kv_share"]), found["kv_share"]),
        (f"{number(found['visual_tokens'], 0)} of {number(found['full_visual_tokens'], 0)}", found["visual_tokens"]),
        (_interval(found["agreement"]), found["agreement"][0]),
        (accuracy, found["accuracy_with"]),
        (share(found["accuracy_without"]), found["accuracy_without"]),
        (_interval(found["retention"]), (found["retention"] or [None])[0]),
        (f"{found['samples']}{with_answers}", found["samples"]),
    ]
    return {
        "method": row.method,
        "words": row.words[0].upper() + row.words[1:],
        "meta": " · ".join(filter(None, (row.note, row.source))),
        "front": len(group.rows) > 1 and on_front(row, group.rows),
        "cost": found["flops_share"],
        "cells": [(text, "" if value is None else value) for text, value in cells],
    }


def _interval(found: Sequence[float] | None) -> str:
    return "–" if found is None else f"{share(found[0])} ({100 * found[1]:.1f} to {100 * found[2]:.1f})"
