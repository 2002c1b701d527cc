"""Which records may stand on one page: those of one model and one data set, each policy by a name of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import DataError

__all__ = ["check_name", "check_runs"]


def check_name(variant: str, runs: Sequence[dict[str, Any]], policies: dict[str, Any]) -> None:
    """Refuse one name for two policies: the page would show the later one's numbers for both.

    Args:
        policies: name -> digest of what had it so far.
    """
    digest = (runs[-1].get("provenance") or {}).get("policy", {}).get("digest") if runs else None
    if digest is not None and policies.setdefault(variant, digest) != digest:
        raise DataError(
            f"Two different policies are called {variant!r} in these records. Run lookaway eval again with another "
            "--name for one of them, or draw one report for each."
        )


def check_runs(runs: list[dict[str, Any]]) -> None:
    if not runs:
        raise DataError(
            "These records have no 'run' header, so nobody could tell what they measured. Draw complete files."
        )
    first = runs[0]
    for run in runs[1:]:
        for name, part in (("model", "model"), ("data", "samples")):
            content = run.get("provenance", {}).get(part)
            if run[name] != first[name] and (content is None or content != first.get("provenance", {}).get(part)):
                raise DataError(
                    f"Records of different {'models' if name == 'model' else 'data'} are mixed: {first[name]!r} and "
                    f"{run[name]!r}. Draw one report for each."
                )
        if changed := _changed(first, run):
            raise DataError(
                f"These records are of {run['model']!r} and {run['data']!r} before and after {changed} were changed. "
                "Draw one report for each, or run the older command again."
            )


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What is another content under the same names; '' where nothing is, or where records do not tell."""
    mine, theirs = (run.get("provenance", {}) for run in (one, other))
    weights = [facts.get("model", {}).get("weights") for facts in (mine, theirs)]
    if None not in weights and weights[0] != weights[1] and one.get("dtype") == other.get("dtype"):
        return "the weights"
    samples = [facts.get("samples", {}) for facts in (mine, theirs)]
    if samples[0].get("questions") == samples[1].get("questions"):  # else they are other samples of the data
        for part in ("pictures", "answers"):
            if samples[0].get(part) != samples[1].get(part):
                return f"the {part}"
    return ""
