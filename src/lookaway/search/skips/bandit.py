"""Which k of n arms harm least when skipped: scores that random subsets move (EAS, arXiv 2403.15226). No model here.

An arm's score rises with the reward of the subsets that it was part of. Nothing else is learnt: no critic, no entropy
term, no running baseline. Draws depend on a seed and the step alone, so that all ranks of a distributed run draw alike
and a run that was killed goes on as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.errors import DataError, SettingsError

__all__ = ["Bandit", "Gate"]

Gate = Literal["sigmoid", "softmax"]


class Bandit:
    """Scores of arms, and subsets drawn by them.

    Args:
        arms: names of the arms (decoder layers), each once.
        size: k, arms in a subset.
        gate: score -> probability: 'sigmoid' (LLaVA, METER), or 'softmax' of 10 x score (LaVIN).
        lr: step of the scores.
        seed: of all draws.

    Raises:
        SettingsError: there are fewer arms than a subset takes, or none would be left.
    """

    def __init__(self, arms: Sequence[int], size: int, gate: Gate = "sigmoid", lr: float = 1.0, seed: int = 0) -> None:
        if len(set(arms)) != len(arms) or not arms:
            raise SettingsError(f"Arms must be given once each, not {list(arms)}.")
        if not 1 <= size < len(arms):
            raise SettingsError(
                f"{size} attentions to skip of {len(arms)} that may be: ask for 1 to {len(arms) - 1}, one must stay."
            )
        if gate not in ("sigmoid", "softmax"):
            raise SettingsError(f"gate must be 'sigmoid' or 'softmax', not {gate!r}.")
        self.arms, self.size, self.gate, self.lr, self.seed = tuple(arms), size, gate, lr, seed
        self.scores = torch.zeros(len(arms), dtype=torch.float64)

    def probabilities(self) -> Tensor:
        """Of each arm, fp64 [n]."""
        return self.scores.sigmoid() if self.gate == "sigmoid" else (10 * self.scores).softmax(0)

    def draw(self, step: int, size: int | None = None) -> tuple[int, ...]:
        """One subset for a training step, ascending; `size`: another k (a warm-up grows it)."""
        return self._drawn(self._generator(step, 0), self.size if size is None else size)

    def subsets(self, step: int, count: int) -> list[tuple[int, ...]]:
        """`count` different subsets to be judged on one batch.

        Raises:
            SettingsError: there are not so many.
        """
        possible = math.comb(len(self.arms), self.size)
        if possible < count:
            raise SettingsError(
                f"{count} different subsets were asked for, but {self.size} of {len(self.arms)} attentions make only "
                f"{possible}. Ask for fewer subsets, or another number of attentions."
            )
        draw = self._generator(step, 1)
        found: list[tuple[int, ...]] = []
        misses = 0
        while len(found) < count:
            subset = self._drawn(draw, self.size)
            while subset in found and misses >= 100:  # scores are so sharp that draws repeat: change one arm
                inside = subset[int(torch.randint(len(subset), (), generator=draw))]
                others = [arm for arm in self.arms if arm not in subset]
                new = others[int(torch.randint(len(others), (), generator=draw))]
                subset = tuple(sorted({*subset, new} - {inside}))
            if subset in found:
                misses += 1
            else:
                found.append(subset)
        return found

    def update(self, subsets: Sequence[Sequence[int]], rewards: Sequence[float]) -> None:
        """s_i += lr (r_k - mean r) p_i (1 - p_i) for each arm i of each subset k; p is that from before the update."""
        p = self.probabilities()
        mean = sum(rewards) / len(rewards)
        for subset, reward in zip(subsets, rewards, strict=True):
            places = [self.arms.index(arm) for arm in subset]
            self.scores[places] += self.lr * (reward - mean) * p[places] * (1 - p[places])

    def best(self) -> tuple[int, ...]:
        """The k arms of highest score, ascending; of equal ones the later arm (deeper layers harm less)."""
        order = sorted(range(len(self.arms)), key=lambda i: (float(self.scores[i]), i), reverse=True)
        return tuple(sorted(self.arms[i] for i in order[: self.size]))

    def state(self) -> dict[str, Any]:
        """Plain values; `load` takes them back."""
        return {"arms": list(self.arms), "size": self.size, "gate": self.gate, "lr": self.lr, "seed": self.seed,
                "scores": self.scores.tolist()}  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            DataError: it is of another search; the text names what differs.
        """
        ours = self.state()
        differs = [name for name in ours if name != "scores" and ours[name] != state.get(name)]
        if differs or len(state.get("scores", ())) != len(self.arms):
            raise DataError(
                f"The saved search differs in {', '.join(differs) or 'the number of scores'}. Give another --out, or "
                "go on with the same options."
            )
        self.scores = torch.tensor(state["scores"], dtype=torch.float64)

    def _drawn(self, draw: torch.Generator, size: int) -> tuple[int, ...]:
        # a floor, so that k arms can always be drawn
        chosen = torch.multinomial(self.probabilities().clamp(min=1e-12), size, generator=draw)
        return tuple(sorted(self.arms[i] for i in chosen.tolist()))

    def _generator(self, step: int, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1_000_003 + step) * 2 + purpose)
