"""`lookaway policies`: what there is to attach."""

from __future__ import annotations

from dataclasses import dataclass

from .tables import show_table


@dataclass(frozen=True, kw_only=True)
class Options:
    """List the policies, one line each."""


def run(options: Options) -> dict[str, str]:
    import lookaway as la

    found = la.policies()
    show(found)
    return found


def show(found: dict[str, str]) -> None:
    """One line a policy."""
    show_table(("policy", "what it does"), list(found.items()), texts=("what it does",))
