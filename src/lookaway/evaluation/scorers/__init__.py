"""Official scores of public tasks, one file a kind. Each is held to the public scorer's own output by a test."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.errors import DataError
from ...core.record import Sample
from .anls import ANLS
from .base import Scorer
from .captions import CIDER
from .exact import EXACT, GQA
from .letters import LETTERS, SCIENCEQA
from .vqa import TEXTVQA, VQA
from .yes_no import MME, POPE

__all__ = ["SCORERS", "Scorer", "scorer_for"]

SCORERS = {s.name: s for s in (EXACT, LETTERS, GQA, VQA, TEXTVQA, POPE, MME, SCIENCEQA, ANLS, CIDER)}
"""Name -> scorer."""


def scorer_for(samples: Sequence[Sample], name: str = "auto") -> Scorer:
    """The scorer of this name; 'auto': the one that the data's reader named (`meta["scorer"]`), or 'exact'.

    Raises:
        DataError: no such scorer, or the samples ask for different ones.
    """
    if name == "auto":
        wanted = {str(sample.meta.get("scorer", "exact")) for sample in samples}
        if len(wanted) > 1:
            names = ", ".join(sorted(wanted))
            raise DataError(f"The samples ask for several scorers ({names}). Choose one: --score NAME.")
        name = wanted.pop() if wanted else "exact"
    if name not in SCORERS:
        raise DataError(f"No scorer {name!r}; there are {', '.join(SCORERS)}.")
    return SCORERS[name]
