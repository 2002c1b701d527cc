"""What can be set in the default model's recipe (the defaults made the shipped weights). Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RecipeOptions"]


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Train lookaway-mini: tower, projector, a plain phase, and from there an exit-aware and a plain branch."""

    seed: int = 0
    """Seed of all weights, pictures and questions."""
    projector_steps: int = 250
    """Steps of the projector's regression onto word embeddings."""
    common_steps: int = 520
    """Plain alignment steps that both variants share."""
    branch_steps: int = 250
    """Alignment steps of each branch after that."""
    images: int = 3
    """Pictures a step, each with about 15 questions."""
    columns: int = 170
    """Text tokens a picture at most."""
    easy: float = 0.25
    """Share of easy-VQA pictures; the others are scenes."""
    rank: int = 16
    """Rank of LoRA on every linear of the language model."""
    alpha: int = 32
    """LoRA's scale is alpha / rank."""
    lr: float = 8e-4
    """Peak learning rate of LoRA in the common phase."""
    branch_lr: float = 6e-4
    """Peak learning rate of LoRA in the branches."""
    exit_share: float = 0.5
    """Exit-aware branch: share of steps in which the visual tokens really leave before a random layer."""
    exit_first: int = 2
    """The first layer before which they may leave."""
    exit_last: int = 29
    """The last layer before which they may leave."""
    judge_questions: int = 2000
    """Held-out questions of each source (scenes, easy-VQA) in the final judgement."""
    judge_exit_questions: int = 600
    """Held-out questions of each source for the accuracy by exit layer."""
    variants: tuple[str, ...] = ("exit-aware", "plain")
    """Branches to train, in this order."""
