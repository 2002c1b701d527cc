"""What else could be had at a policy's cost: the baselines that stand beside it, and each one's row of a table.

They are judged on samples that chose neither the policy nor them. Each gets at least the policy's FLOPs where its
settings allow that, so that none loses by being given less; what is shown at its own cost says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..anatomy.base import Anatomy
from ..core.decision import Policy
from ..policies.baselines.fastv import FastV
from ..policies.before_decoder.downsample import Downsample, cell_count
from ..policies.fixed import ExitAt
from .runner import PairedResult
from .scorers import SCORERS
from .statistics import share_interval
from .token_baselines import NAMES, prompt_tokens, token_baselines

__all__ = ["Baseline", "at_cost", "baselines_for", "beside_row", "shows_what_is_hard"]

DOWNSAMPLING, FIXED_EXIT = "downsampling", "fixed exit"
DOWNSAMPLE = (2, 3, 4, 5, 6, 8)
"""Factors of downsampling that are tried: 2 keeps a quarter of the tokens."""


@dataclass(frozen=True)
class Baseline:
    """One policy that stands beside."""

    name: str
    policy: Policy
    own_cost: bool = False
    """Its cost is its own: as published, or the nearest that its settings allow."""

    @property
    def kind(self) -> str:
        """The name without its numbers: what tasks of different costs have in common."""
        kinds = (DOWNSAMPLING, FIXED_EXIT)
        return next((kind for kind in kinds if self.name.startswith(kind)), self.name)


def at_cost(results: Sequence[PairedResult], anatomy: Anatomy, seed: int = 0) -> list[Baseline]:
    """Random and uniform tokens, downsampling and a fixed exit at the cost of these results, those that there are.

    Args:
        results: of the policy, on the samples that the baselines will be run on.
        seed: of the random tokens.
    """
    seen = [result for result in results if result.initial_visual_tokens]
    if not seen:
        return []
    layers, shape = anatomy.num_layers, anatomy.shape
    first = 0 if anatomy.only_before else anatomy.first_prunable_layer  # random and uniform tokens leave before it
    found = [Baseline(n, p) for n, p in token_baselines(results, shape, first, seed).items()]
    spent = sum(result.flops for result in seen)
    sizes = [(prompt_tokens(result, shape), result.initial_visual_tokens) for result in seen]

    def total(cost: Callable[[int, int], int]) -> int:
        return sum(cost(prompt, visual) for prompt, visual in sizes)

    def downsampled(factor: int) -> Callable[[int, int], int]:
        return lambda prompt, visual: shape.flops_between(prompt - visual + cells(visual, anatomy.grid, factor))

    def exited(layer: int) -> Callable[[int, int], int]:
        return lambda prompt, visual: (
            shape.flops_between(prompt, 0, layer) + shape.flops_between(prompt - visual, layer)
        )

    enough = [factor for factor in DOWNSAMPLE if total(downsampled(factor)) >= spent]
    factor = enough[-1] if enough else DOWNSAMPLE[0]
    found.append(Baseline(f"{DOWNSAMPLING} {factor} x {factor}", Downsample(factor), not enough))
    exits = [] if anatomy.only_before else [n for n in range(first, layers) if total(exited(n)) >= spent]
    if exits:
        found.append(Baseline(f"{FIXED_EXIT} before layer {exits[0]}", ExitAt(exits[0])))
    return found


def baselines_for(
    results: Sequence[PairedResult], anatomy: Anatomy, gates: Mapping[str, Policy],
    at_cost_too: Mapping[str, tuple[Policy, bool]] | None = None, seed: int = 0,
) -> list[Baseline]:  # fmt: skip
    """What stands at the policy's cost, gates alone among it, then at their own FastV as published and these gates.

    Args:
        gates: exit gates to show as they are, by name.
        at_cost_too: the same with the threshold moved to the policy's cost, and whether they reach it
            (`gates_at_cost`).
    """
    found = at_cost(results, anatomy, seed)
    if not found or anatomy.only_before:
        return found
    for name, (policy, reached) in (at_cost_too or {}).items():
        words = f"threshold {policy.threshold:.3g}{'' if reached else ', the nearest'}"  # type: ignore[attr-defined]
        found.append(Baseline(f"gates alone ({name}), {words}", policy, not reached))
    found.append(Baseline("FastV as published", FastV(), True))
    return [*found, *(Baseline(f"gates alone ({name})", policy, True) for name, policy in gates.items())]


def shows_what_is_hard(name: str) -> bool:
    """Whether questions that this baseline cannot answer are reported apart: VTC-Bench's downsampling, and uniform
    tokens, which there are where a family gives no grid."""
    return name == NAMES["uniform"] or name.startswith(DOWNSAMPLING)


def cells(visual: int, grid: tuple[int, int] | None, factor: int) -> int:
    """Tokens that downsampling leaves of `visual` ones, in pictures of `grid` (rows, columns) where it is known."""
    if grid is None or visual % (grid[0] * grid[1]):
        return -(-visual // factor**2)
    return visual // (grid[0] * grid[1]) * cell_count(grid, factor)


def beside_row(name: str, results: Sequence[PairedResult], own_cost: bool, scores: Any = None) -> dict[str, Any]:
    """Values of a 'beside' record: costs, same answers and accuracy with their 95 % intervals clustered by image.

    Args:
        scores: `PairedScores` of these results; None: there are no answers, and accuracies are null.
    """
    images = [result.id if result.image is None else result.image for result in results]
    most = 1.0 if scores is None else SCORERS[scores.scorer].most
    full, spent = sum(result.full_flops for result in results), sum(result.flops for result in results)
    return {
        "name": name,
        "own_cost": own_cost,
        "samples": len(results),
        "images": len(set(images)),
        "flops_share": spent / full,
        "kv_share": sum(result.kv_bytes for result in results) / sum(result.full_kv_bytes for result in results),
        "same": sum(result.agree for result in results),
        "agreement": share_interval([result.agree for result in results], images),
        "accuracy": None if scores is None else share_interval(scores.with_policy, images, most=most),
        "accuracy_without": None if scores is None else share_interval(scores.without, images, most=most),
    }
