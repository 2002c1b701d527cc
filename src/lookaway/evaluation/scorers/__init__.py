"""Official scores of public tasks, one file a kind. Each is held to the public scorer's own output by a test."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.errors import DataError
from ...core.record import Sample
from ..scoring import is_right
from .anls import ANLS
from .base import Scorer
from .captions import CIDER
from .exact import EXACT, GQA
from .letters import LETTERS, SCIENCEQA
from .vqa import TEXTVQA, VQA
from .yes_no import MME, POPE

__all__ = ["SCORERS", "Scorer", "right_by_its_scorer", "scorer_for", "scorer_of_single_answers"]

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


def right_by_its_scorer(sample: Sample, answer: str) -> bool | None:
    """Whether an answer has the full score of the scorer that its own data names; by exact match where single answers
    have no score (captions). None without a ground truth.

    Raises:
        DataError: the data names a scorer that there is not, or cannot be scored by it.
    """
    scorer = scorer_for([sample])
    return is_right(answer, sample.answer) if not scorer.alone else scorer.right(sample, answer)


def scorer_of_single_answers(samples: Sequence[Sample], name: str = "auto") -> Scorer:
    """`scorer_for`, for bounds on the loss of single samples.

    Raises:
        DataError: there is no such scorer, or it scores an answer by all others.
    """
    scorer = scorer_for(samples, name)
    if not scorer.alone:
        raise DataError(
            f"The scorer {scorer.name!r} scores an answer by all others, so the loss of a single one is not known and "
            "no bound holds. Take --metric answers."
        )
    return scorer
