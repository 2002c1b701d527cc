"""The one way in which commands print a table: it fits the terminal, and no number or word is ever cut.

Where the columns are too wide together, headers are stacked word by word; where that is not enough, the columns go into
several tables, each with the first column; and where that is not enough either, each row becomes a block of lines.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .common import plain_console

__all__ = ["show_facts", "show_table"]

GAP = 2
"""Spaces between two columns."""
NARROWEST = 24
"""Characters below which a column of texts is not squeezed: one word a line is hard to read."""


def show_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    texts: Collection[str] = (),
    console: Console | None = None,
) -> None:
    """Print a table.

    Args:
        columns: headers, no two alike.
        rows: cells, as many as columns.
        texts: headers of columns that hold sentences or names of any length, which may wrap.
        console: default: stdout.

    Raises:
        ValueError: two columns are called the same.
    """
    if len(set(columns)) != len(columns):
        raise ValueError(f"Two columns of one name: {list(columns)}")
    console = console or plain_console()
    cells = [max((cell_len(row[place]) for row in rows), default=0) for place in range(len(columns))]
    if title:
        console.print(Text(title, style="bold"))
    whole = [max(cell_len(name), width) for name, width in zip(columns, cells, strict=True)]
    stacked = [
        max(_longest_word(name), min(width, NARROWEST) if name in texts else width)
        for name, width in zip(columns, cells, strict=True)
    ]
    if _total(whole) <= console.width:
        _print(console, columns, rows, whole, stack=False)
    elif _total(stacked) <= console.width:
        spare, widths = console.width - _total(stacked), list(stacked)
        for place, name in enumerate(columns):
            if name in texts:
                more = min(spare, max(0, whole[place] - widths[place]))
                widths[place], spare = widths[place] + more, spare - more
        _print(console, columns, rows, widths, stack=True)
    elif parts := _parts(stacked, console.width):
        for number, part in enumerate(parts):
            if number:
                console.print()
            names, widths = [columns[place] for place in part], [stacked[place] for place in part]
            _print(console, names, [[row[place] for place in part] for row in rows], widths, stack=True)
    else:
        for row in rows:
            _print_block(console, columns, row)


def _parts(widths: Sequence[int], most: int) -> list[list[int]]:
    """The columns over as few tables as fit, each with the first column; none where two columns do not fit."""
    parts = [[0]]
    for place in range(1, len(widths)):
        if _total([widths[at] for at in (*parts[-1], place)]) > most:
            parts.append([0])
        parts[-1].append(place)
    return parts if all(_total([widths[at] for at in part]) <= most for part in parts) else []


def show_facts(facts: Mapping[str, str], console: Console | None = None) -> None:
    """Print names and what they are, one a line; long texts wrap beside their name."""
    console = console or plain_console()
    table = Table(box=None, show_header=False, padding=(0, GAP, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    console.print(table)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _longest_word(text: str) -> int:
    return max((cell_len(word) for word in text.split()), default=0)


def _print(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], stack: bool
) -> None:
    heads = [_stacked(name, width) if stack else name for name, width in zip(columns, widths, strict=True)]
    lines = max(head.count("\n") for head in heads)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
    for head, width in zip(heads, widths, strict=True):
        table.add_column("\n" * (lines - head.count("\n")) + head, width=width, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _stacked(name: str, width: int) -> str:
    """The header's words over as few lines as the width allows."""
    lines = [""]
    for word in name.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if cell_len(longer) <= width else [*lines, word]
    return "\n".join(line for line in lines if line)


def _print_block(console: Console, columns: Sequence[str], row: Sequence[str]) -> None:
    """The first cell, and below it what the others say."""
    console.print(Text(f"{columns[0]}: {row[0]}", style="bold"), overflow="fold")
    for name, cell in zip(columns[1:], row[1:], strict=True):
        console.print(f"  {name}: {cell}", overflow="fold")
