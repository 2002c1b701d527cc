"""What a ranking is: a pure function from what a policy sees to one score a slot; higher is kept longer."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...core.attention_inputs import AttentionInputs
from ...core.decision import LayerView
from ...core.errors import LookawayError, SettingsError

__all__ = ["RANKINGS", "Ranking", "Wanted", "attention_inputs_of", "keep_best", "ranking", "ranking_named"]


@dataclass(frozen=True)
class Wanted:
    """What the scores are for."""

    counts: tuple[int, ...]
    """[B]: visual tokens of each row that will be kept. Selections (diversity, uniform) need it; scores ignore it."""
    seed: int = 0
    """For rankings that draw."""


Score = Callable[[LayerView, Wanted], Tensor]
"""(view, wanted) -> scores [B, S] over the view's slots. Only the order of a row's visual slots counts; what stands at
other slots is ignored. It changes nothing, uses no global random state, and gives the same for the same row whatever
else is in the batch."""


@dataclass(frozen=True)
class Ranking:
    """One way to say which visual tokens matter most."""

    name: str
    line: str
    """What it does, in one line."""
    score: Score
    looks: bool = False
    """It needs the queries and keys of the layer before (`view.attended`)."""


RANKINGS: dict[str, Ranking] = {}
"""All rankings by name."""


def ranking(name: str, line: str, looks: bool = False) -> Callable[[Score], Score]:
    """Decorator: this function is the ranking `name`."""

    def add(score: Score) -> Score:
        RANKINGS[name] = Ranking(name, line, score, looks)
        return score

    return add


def ranking_named(name: str) -> Ranking:
    """The ranking of this name.

    Raises:
        SettingsError: there is none; the text names the near misses and all that there are.
    """
    if name not in RANKINGS:
        near = difflib.get_close_matches(str(name), RANKINGS, n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
        raise SettingsError(f"No ranking named {name!r}.{hint} Known: {', '.join(sorted(RANKINGS))}.")
    return RANKINGS[name]


def keep_best(view: LayerView, scores: Tensor, counts: Tensor) -> Tensor:
    """Text and, of each row, the `counts` visual tokens of highest score; of equal ones the first.

    Args:
        scores: [B, S]. counts: int64 [B]; where a row has fewer visual tokens it keeps them all.

    Returns:
        bool [B, S].
    """
    visual = view.layout.visual
    # A score that is no number still is a visual token's: it must not hide behind the text.
    scores = scores.float().nan_to_num(nan=-3e38, posinf=3e38, neginf=-3e38).masked_fill(~visual, -float("inf"))
    place = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return ~visual | (place < counts[:, None])


def attention_inputs_of(view: LayerView) -> AttentionInputs:
    """What the layer before saw.

    Raises:
        LookawayError: a policy that ranks by attention must name the layer in `needs_attention`.
    """
    if view.attention_inputs is None:
        raise LookawayError(
            f"This ranking needs the queries and keys of layer {view.layer - 1}, but the policy did not ask for them. "
            "Name the layer in the policy's needs_attention()."
        )
    return view.attention_inputs
