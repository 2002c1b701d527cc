"""What can be set in the default model's recipe (the defaults made the shipped weights). Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RecipeOptions"]


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Train lookaway-mini: tower, projector, five plain phases (the plain variant), then an exit-aware one."""

    seed: int = 0
    """Seed of all weights, pictures and questions."""
    projector_steps: int = 250
    """Steps of the projector's regression onto word embeddings."""
    common_schedule: int = 770
    """Length of the first phase's learning-rate schedule and curriculum."""
    common_steps: int = 348
    """Steps of the first phase that are run: questions of all families."""
    binding_schedule: int = 530
    """Length of the second phase's learning-rate schedule and curriculum."""
    binding_steps: int = 251
    """Second phase: descriptions are mixed in and names in questions predicted, to learn what belongs together."""
    described: float = 0.4
    """Share of descriptions in the second phase."""
    binding_easy: float = 0.15
    """Share of easy-VQA pictures in the second phase."""
    pairs_schedule: int = 300
    """Length of the third phase's learning-rate schedule and curriculum."""
    pairs_steps: int = 160
    """Third phase: more questions about two objects, and about where an object is."""
    order_steps: int = 220
    """Fourth phase: 'smaller', 'right of' and 'below' are left out at first and come back by its end."""
    pairs: float = 2.0
    """Factor on the weights of relation, hop and comparison in the third phase."""
    pairs_easy: float = 0.1
    """Share of easy-VQA pictures in the third phase."""
    pairs_described: float = 0.3
    """Share of descriptions in the third phase."""
    branch_pairs: float = 1.5
    """Factor on the weights of relation, hop and comparison in the last two phases."""
    branch_described: float = 0.15
    """Share of descriptions in the last two phases."""
    plain_steps: int = 450
    """Steps of the last plain phase; it ends with the plain variant."""
    exit_steps: int = 350
    """Steps of the exit-aware phase, which goes on from the plain variant."""
    images: int = 3
    """Images per step, each with about 15 questions."""
    columns: int = 170
    """Text tokens per image, at most."""
    easy: float = 0.25
    """Share of easy-VQA pictures; the others are scenes."""
    rank: int = 16
    """Rank of LoRA on every linear of the language model."""
    alpha: int = 32
    """LoRA's scale is alpha / rank."""
    lr: float = 8e-4
    """Peak learning rate of LoRA in the common phase."""
    branch_lr: float = 6e-4
    """Peak learning rate of LoRA in the last two phases."""
    exit_share: float = 0.7
    """Exit-aware phase: share of steps in which the visual tokens leave before a random layer."""
    exit_first: int = 2
    """The first layer before which they may leave."""
    exit_last: int = 29
    """The last layer before which they may leave."""
    judge_scenes: int = 60
    """Test scenes in the final evaluation, ten questions each; a third of them for the accuracy by exit layer."""
    judge_easy: int = 60
    """easy-VQA test pictures in the final evaluation with all their questions; a third of them by exit layer."""
