"""`lookaway policies`: what there is to attach."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from .common import plain_console


@dataclass(frozen=True, kw_only=True)
class Options:
    """List the policies, one line each."""


def run(options: Options) -> dict[str, str]:
    import lookaway as la

    found = la.policies()
    table = Table("policy", "what it does", box=None)
    for name, line in found.items():
        table.add_row(name, line)
    plain_console().print(table)
    return found
