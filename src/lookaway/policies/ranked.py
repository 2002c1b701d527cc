"""The common half of all policies that keep, before each layer, a set number of visual tokens: those that rank best."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from ..core.decision import KEEP, Decision, LayerView
from ..core.errors import SettingsError
from .ranking import Ranking, Wanted, keep_best
from .settings_policy import SettingsPolicy, check_positions

__all__ = [
    "Keep",
    "OneStepPolicy",
    "RankedPolicy",
    "changes",
    "check_entries",
    "check_some",
    "count_of",
    "one_step",
    "originals",
    "steps_to_entries",
]

Keep = int | float
"""Visual tokens that a layer keeps: an int is a count, a float a share (0.0 to 1.0) of the row's original number."""


@dataclass(frozen=True, kw_only=True)
class RankedPolicy(SettingsPolicy):
    """Base of methods that keep the best-ranked visual tokens, layer by layer. Dropped tokens are gone for good."""

    positions: str = "original"
    """'original': the tokens that stay keep the positions that they had in the whole prompt. 'renumber': they are
    numbered anew, as in a prompt that never had the others; before the decoder (layer 0) alone.
    One by one; where the decoder counts time, row and column (Qwen-VL, GLM-4V), each keeps its row and column in its
    picture, and the text behind goes on from the largest that was kept."""

    def __post_init__(self) -> None:
        check_positions(self.positions)

    def renumbers(self) -> bool:
        return self.positions == "renumber"

    @abstractmethod
    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        """What each decoder layer keeps, one entry a layer (`check_entries` says what is allowed)."""

    @abstractmethod
    def order(self) -> Ranking:
        """The ranking that says which tokens stay."""

    def wanted_seed(self) -> int:
        """Seed for rankings that draw."""
        return 0

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        entries = self.entries(num_layers)
        who = self.name or type(self).__name__
        if len(entries) != num_layers:
            raise SettingsError(
                f"{who} has {len(entries)} entries, but the model has {num_layers} decoder layers: give one entry a "
                "layer (KeepSchedule.from_steps(steps, num_layers) fills the layers between)."
            )
        asked = changes(entries)
        early = [layer for layer in asked if 0 < layer < first_prunable]
        if early:
            raise SettingsError(
                f"{who} drops visual tokens before layer {early[0]} (it keeps {entries[early[0]]}), but this model "
                f"allows that before the decoder (layer 0) and from layer {first_prunable} on. Give layers 0 to "
                f"{first_prunable - 1} the same entry."
            )
        if self.renumbers() and any(asked):
            raise SettingsError(
                f"{who} drops visual tokens before layer {max(asked)}, and inside the decoder tokens cannot be "
                "numbered anew: the keys that earlier layers hold have their positions already. Use "
                "positions='original', and say so beside the numbers of a paper that renumbers."
            )
        if 0 in asked and entries[0] != 0 and self.order().looks:
            raise SettingsError(
                f"{who} drops visual tokens before the decoder, by the ranking {self.order().name!r}, which needs the "
                f"attention of the layer before: there is none. Begin at layer {max(first_prunable, 1)}, or choose a "
                "ranking by states: 'diversity', 'conditional-diversity', 'text-similarity', 'uniform', 'random'."
            )
        return asked

    def can_exit(self, num_layers: int) -> bool:
        return 0 in self.entries(num_layers)

    def needs_attention(self, num_layers: int) -> frozenset[int]:
        if not self.order().looks:
            return frozenset()
        entries = self.entries(num_layers)
        return frozenset(layer for layer in changes(entries) if layer and entries[layer] != 0)

    @torch.no_grad()
    def decide(self, view: LayerView) -> Decision:
        entries = self.entries(view.num_layers)
        totals = originals(view)
        counts = tuple(count_of(entries[view.layer], total) for total in totals)
        before = tuple(count_of(entries[view.layer - 1], total) for total in totals) if view.layer else totals
        if counts == before:
            return KEEP
        if not any(counts):
            return Decision.drop_visual(view, view.has_visual_tokens)
        scores = self.order().score(view, Wanted(counts, self.wanted_seed()))
        return Decision(keep=keep_best(view, scores, torch.tensor(counts, device=scores.device)))


@dataclass(frozen=True)
class OneStepPolicy(RankedPolicy):
    """Base of methods that drop visual tokens once. A method redeclares a field that has a default."""

    keep: Keep
    """What stays: a share of the row's visual tokens (float, above 0.0) or a count (int, from 1 on)."""
    layer: int
    """Before it tokens leave."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_some(self.keep, type(self).__name__)

    def entries(self, num_layers: int) -> tuple[Keep, ...]:
        return one_step(self.layer, self.keep, num_layers, type(self).__name__)


def count_of(entry: Keep, total: int) -> int:
    """Visual tokens that an entry keeps of a row that had `total`: an int as it is, at most all; a share rounded."""
    return min(entry, total) if isinstance(entry, int) else min(round(entry * total), total)


def check_entries(entries: Sequence[Any], who: str) -> tuple[Keep, ...]:
    """The entries of a schedule as a tuple, each an int (count) or a float (share).

    Raises:
        SettingsError: an entry is no number in range; the first is 0 (a later one may be: then all have left); counts
            and shares are mixed (but for 1.0 and 0); one grows.
    """
    checked: list[Keep] = []
    for layer, entry in enumerate(entries):
        if isinstance(entry, bool) or not isinstance(entry, int | float) or entry < 0 or entry != entry:
            raise SettingsError(f"{who}: layer {layer} keeps {entry!r}; give a count (int) or a share (0.0 to 1.0).")
        if isinstance(entry, float) and entry > 1:
            raise SettingsError(
                f"{who}: layer {layer} keeps {entry}, which is a share above 1. Give a share from 0.0 to 1.0, or a "
                f"count as an int ({round(entry)})."
            )
        checked.append(entry)
    if checked and checked[0] == 0:
        raise SettingsError(
            f"{who} was told to keep {checked[0]!r} from the start, which is no visual token at all. Give a share "
            "(0.25) or a count (144); la.ExitAt(layer) removes them all, la.ExitAt(0) before the decoder."
        )
    partial = [entry for entry in checked if not is_all(entry) and entry != 0]
    if len({type(entry) for entry in partial}) > 1:
        raise SettingsError(f"{who} mixes counts (int) and shares (float): {partial}. Use one of them (1.0 is all).")
    for layer, (before, after) in enumerate(pairwise(checked), 1):
        grows = is_all(after) if not is_all(before) else False
        if grows or (type(before) is type(after) and after > before) or (before == 0 and after != 0):
            raise SettingsError(
                f"{who} keeps {before} before layer {layer - 1} and {after} before layer {layer}, but dropped tokens "
                "never come back: entries must not grow with depth."
            )
    return tuple(checked)


def check_some(keep: Any, who: str) -> None:
    """Raise SettingsError unless `keep` is a share above 0.0 and up to 1.0, or a count from 1 on."""
    check_entries([keep], who)


def is_all(entry: Keep) -> bool:
    """The share 1.0; the int 1 is one token."""
    return isinstance(entry, float) and entry == 1.0


def one_step(layer: int, keep: Keep, num_layers: int, who: str) -> tuple[Keep, ...]:
    """All tokens up to a layer, `keep` from it on."""
    return steps_to_entries({layer: keep}, num_layers, who)


def steps_to_entries(steps: Mapping[int, Keep], num_layers: int, who: str) -> tuple[Keep, ...]:
    """`{layer: keep from it on}` as one entry a layer; all tokens before the first step.

    Raises:
        SettingsError: a layer that this decoder does not have, or what `check_entries` refuses.
    """
    for layer in steps:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < num_layers:
            raise SettingsError(
                f"{who} has a step before layer {layer!r}, but the model has layers 0 to {num_layers - 1}. Choose a "
                "layer in that range."
            )
    entries: list[Any] = []
    for layer in range(num_layers):
        entries.append(steps.get(layer, entries[-1] if entries else 1.0))
    return check_entries(entries, who)


def changes(entries: Sequence[Keep]) -> tuple[int, ...]:
    """Layers whose entry is another than that of the layer before; before layer 0 there is everything."""
    return tuple(layer for layer, pair in enumerate(pairwise((1.0, *entries))) if _differ(*pair))


def _differ(before: Keep, after: Keep) -> bool:
    return type(before) is not type(after) or before != after


def originals(view: LayerView) -> tuple[int, ...]:
    """Visual tokens that each row had at first; known on the host, so nothing waits for the GPU."""
    if view.layout.spans:
        return tuple(sum(span.length for span in row) for row in view.layout.spans)
    return tuple(view.initial_visual.tolist())
