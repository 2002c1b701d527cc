"""Random and uniform tokens at a policy's cost: what any choice of tokens must be better than.

A method that is not held beside random tokens proves nothing (UniPruneBench), and a question that a shrunk picture
answers as well does not show what a policy keeps: VTC-Bench judges on those that downsampling cannot answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..core.cost import DecoderShape
from ..policies.keep_schedule import KeepSchedule
from .runner import PairedResult
from .scores import PairedScores
from .statistics import Estimate, share_interval

__all__ = ["NAMES", "equal_share", "hard_questions", "prompt_tokens", "token_baselines"]

NAMES = {"random": "random tokens", "uniform": "uniform tokens"}
"""Ranking -> name of the variant in tables."""


def equal_share(results: Sequence[PairedResult], shape: DecoderShape, first_layer: int) -> float | None:
    """The share of the visual tokens that a constant schedule keeps from `first_layer` on, at the policy's own FLOPs
    or, since tokens are whole, just above.

    Counted prefill FLOPs, summed over the samples; what a second look spends twice counts. None where there is no
    image, where the policy saved nothing, or where the layers before `first_layer`, which see all tokens, cost more
    than the policy does.
    """
    seen = [result for result in results if result.initial_visual_tokens]
    spent = sum(result.flops for result in seen)

    def cost(share: float) -> int:
        total = 0
        for result in seen:
            visual, prompt = result.initial_visual_tokens, prompt_tokens(result, shape)
            left = prompt - visual + round(share * visual)
            total += shape.flops_between(prompt, 0, first_layer) + shape.flops_between(left, first_layer)
        return total

    if not seen or spent >= cost(1.0) or spent < cost(0.0):
        return None
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) >= spent else (middle, high)
    return high


def prompt_tokens(result: PairedResult, shape: DecoderShape) -> int:
    """Visual and text tokens of the prompt: the unpruned KV cache holds each of them in every layer."""
    return result.full_kv_bytes // shape.slot_bytes()


def token_baselines(
    results: Sequence[PairedResult], shape: DecoderShape, first_layer: int, seed: int = 0
) -> dict[str, KeepSchedule]:
    """Random and uniform tokens at the cost of these results, by the variant's name; empty where `equal_share` has
    none."""
    share = equal_share(results, shape, first_layer)
    if share is None:
        return {}
    keep = [1.0] * first_layer + [share] * (results[0].num_layers - first_layer)
    return {name: KeepSchedule(keep, ranking=ranking, seed=seed) for ranking, name in NAMES.items()}


def hard_questions(
    results: Sequence[PairedResult], scores: PairedScores, baseline: PairedScores
) -> tuple[int, Estimate] | None:
    """How the policy does where a baseline is not enough: the full model scores, the baseline scores less.

    Args:
        baseline: scores of downsampling or of uniform tokens, on the same questions.

    Returns:
        The number of such questions, and the policy's mean score there as a share of the full model's, clustered by
        image; None where there is no such question.
    """
    images, kept = list[str](), list[float]()
    rows = zip(results, scores.without, scores.with_policy, baseline.with_policy, strict=True)
    for result, full, score, low in rows:
        if full is not None and score is not None and low is not None and low < full:
            images.append(result.id if result.image is None else result.image)
            kept.append(min(1.0, score / full))
    return (len(kept), share_interval(kept, images)) if kept else None
