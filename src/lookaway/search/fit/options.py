"""Options of `lookaway fit` that do not concern files: the space of policies, the guarantee, and the cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...core.errors import SettingsError

__all__ = ["BEFORE", "BEFORE_DECODER", "DEFAULT_METHODS", "METHODS", "CostUnit", "FitOptions", "Metric", "Space"]

CostUnit = Literal["flops", "kv", "seconds"]
Metric = Literal["answers", "score"]
BEFORE_DECODER = "before-decoder"
"""The method that is left where a decoder cannot be shortened inside."""
DEFAULT_METHODS = (BEFORE_DECODER, "reduction", "two-reductions", "shapes", "exit", "second-look")
METHODS = (*DEFAULT_METHODS, "gates-behind")
BEFORE = ("cdpruner", "divprune", "visionzip", "dart", "uniform", "downsample")


@dataclass(frozen=True, kw_only=True)
class Space:
    """The policies that are tried. A YAML file of these keys says a whole space (`--space`)."""

    methods: tuple[str, ...] = DEFAULT_METHODS
    """Kinds of policies that are tried: before-decoder, reduction, two-reductions, shapes, exit, second-look; on
    request gates-behind (exit gates trained on the search split, behind a reduction)."""
    before_decoder: tuple[str, ...] = BEFORE
    """What chooses before the decoder: cdpruner, divprune, visionzip, dart, uniform, downsample."""
    before_shares: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.3, 0.45)
    """Shares of the visual tokens that these keep (downsample keeps 1/4, 1/9 and 1/16)."""
    rankings: tuple[str, ...] = ("last-token",)
    """Which visual tokens a reduction inside the decoder keeps: names of rankings."""
    reduce_before: tuple[int, ...] = (2,)
    """Decoder layers before which a reduction takes place."""
    shares: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
    """Shares of the visual tokens that a reduction keeps."""
    thresholds: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
    """Confidences below which a row looks again: the ones that are tried."""
    confidence: str = "probability"
    """How confidence is measured: probability, margin or entropy of the first answer token."""
    gates_behind_shares: tuple[float, ...] = (0.15, 0.4)
    """Shares kept by the reductions behind which exit gates are trained (methods: gates-behind)."""

    def __post_init__(self) -> None:
        _only("methods", self.methods, METHODS)
        _only("before_decoder", self.before_decoder, BEFORE)
        for name in ("before_shares", "rankings", "reduce_before", "shares", "thresholds", "gates_behind_shares"):
            if not getattr(self, name):
                raise SettingsError(f"{name} is empty: name at least one, or leave it out for the default.")
        if wrong := [threshold for threshold in self.thresholds if not 0 < threshold <= 1]:
            raise SettingsError(
                f"A row looks again where its confidence is below a threshold above 0 and at most 1, not {wrong[0]} "
                "(thresholds)."
            )
        for name in ("shares", "before_shares", "gates_behind_shares"):
            wrong = [share for share in getattr(self, name) if not 0 < share < 1]
            if wrong:
                raise SettingsError(
                    f"A reduction keeps a share above 0 and below 1 of the visual tokens, not {wrong[0]} ({name}); "
                    "fixed exits, which keep none, and the full model are tried anyway."
                )


def _only(name: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown or not given:
        raise SettingsError(f"{name.capitalize()} {unknown or 'none'}: choose among {', '.join(known)}.")


@dataclass(frozen=True, kw_only=True)
class FitOptions(Space):
    """Find the cheapest policy that keeps the answers, and certify it."""

    epsilon: float = 0.03
    """At most this share of the answers may differ from the full model's (or, with --metric score, the mean score may
    fall by this much) ..."""
    delta: float = 0.05
    """... with confidence 1 - delta over the draw of the certification samples."""
    metric: Metric = "answers"
    """What is kept: the full model's answers, or the task's own score on samples that have answers."""
    score: str = "auto"
    """The scorer of --metric score; auto: the one of the data (exact, letters, gqa, vqa, textvqa, pope, mme, scienceqa,
    anls)."""
    cost: CostUnit = "flops"
    """What is minimised: counted FLOPs of the decoder's prefill (flops), entries of its KV cache (kv), or seconds
    measured on this machine (seconds)."""
    answer_tokens: int = 1
    """Tokens of a timed answer; 1: the time to the first token."""
    speedup: float | None = None
    """How many times faster than the full model the policy must be, in measured seconds (--cost seconds)."""
    halvings: int = 3
    """So often only the better half of the policies goes on to twice the samples; 0: all run on all samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epsilon < 1 or not 0 < self.delta < 1:
            raise SettingsError(f"epsilon and delta must lie between 0 and 1, not {self.epsilon} and {self.delta}.")
        if self.answer_tokens < 1 or self.halvings < 0:
            raise SettingsError(
                f"An answer has at least 1 token and halvings are at least 0, not {self.answer_tokens} and "
                f"{self.halvings}."
            )
        if self.speedup is not None and not self.speedup > 1:
            raise SettingsError(f"A speed-up is above 1 (2: twice as fast), not {self.speedup}.")
        if self.speedup is not None and self.cost == "kv":
            raise SettingsError("A speed-up is of measured seconds, and --cost kv minimises cache entries: give one.")
        if self.answer_tokens > 1 and self.minimised != "seconds":
            raise SettingsError(
                f"Answers of {self.answer_tokens} tokens are timed with --cost seconds or --speedup only. Give one of "
                "them, or leave --answer-tokens out."
            )
        if self.score != "auto" and self.metric == "answers":
            raise SettingsError(
                f"--score {self.score} says how --metric score counts, and --metric answers needs no scorer. Give "
                "--metric score, or leave --score out."
            )

    @property
    def minimised(self) -> CostUnit:
        """`cost`, or seconds where a speed-up is asked for."""
        return "seconds" if self.speedup is not None else self.cost
