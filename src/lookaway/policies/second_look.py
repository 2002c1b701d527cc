"""The second look: a cheap policy for every row, and a dearer one for the rows whose first answer is unsure.

After the prefill under the cheap policy the model has already said how sure it is of its first answer token. Rows below
a threshold go on again, from the states before the first removal, under the dearer policy; the others are done. Nothing
is trained, and a row's answer is exactly that of the policy it ended with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from ..core.base_model import BaseModel
from ..core.decision import Decision, LayerView, Policy, Retry
from ..core.errors import DataError, SettingsError
from ..core.registry import register
from ..core.twig import TwigSpec
from .building import build_policy

__all__ = ["CONFIDENCES", "SecondLook", "confidence"]


def _probability(logits: Tensor) -> Tensor:
    return logits.softmax(-1).amax(-1)


def _margin(logits: Tensor) -> Tensor:
    best = logits.softmax(-1).topk(2, -1).values
    return best[..., 0] - best[..., 1]


def _entropy(logits: Tensor) -> Tensor:
    spread = torch.special.entr(logits.softmax(-1)).sum(-1)  # 0 for a token that is ruled out, whose logit is -inf
    return 1 - spread / torch.log(torch.tensor(float(logits.shape[-1]), device=logits.device))


CONFIDENCES = {"probability": _probability, "margin": _margin, "entropy": _entropy}
"""Name -> logits [B, vocabulary] -> confidence [B] in [0, 1]: the best token's probability, its lead over the second
best, and one minus the entropy as a share of the largest possible."""


def confidence(logits: Tensor, kind: str = "probability") -> Tensor:
    """How sure the model is of its next token, fp32 [B] in [0, 1], from logits [B, vocabulary].

    Raises:
        SettingsError: there is no measure `kind`.
    """
    if kind not in CONFIDENCES:
        raise SettingsError(f"No confidence {kind!r}; there are {', '.join(CONFIDENCES)}.")
    return CONFIDENCES[kind](logits.float())


@register("second-look")
@dataclass(frozen=True)
class SecondLook(Policy):
    """A cheap policy first; rows that are unsure of their first answer token go on again under a dearer one."""

    first: Policy
    """What every row runs under."""
    then: Policy
    """What unsure rows run under, in place of `first`."""
    threshold: float = 0.9
    """Rows whose confidence is below this look again."""
    confidence: str = "probability"
    """How confidence is measured: a name in `CONFIDENCES`."""

    def __post_init__(self) -> None:
        for part, policy in (("first", self.first), ("then", self.then)):
            if not isinstance(policy, Policy):
                raise SettingsError(f"SecondLook's {part!r} must be a policy, not {policy!r}. la.load(path) reads one.")
            if policy.retry() is not None:
                raise SettingsError(f"SecondLook's {part!r} is a second look itself; give a policy of one pass.")
        if self.then.needs_vision():
            raise SettingsError(
                "SecondLook's 'then' ranks by the vision tower's attention, which is gone when rows look again. Let "
                "'first' be that policy, or choose another one."
            )
        if self.first.renumbers() or self.then.renumbers():
            raise SettingsError(
                "SecondLook cannot number positions anew: its rows would stand at those of two passes. Give both of "
                "its policies positions='original'."
            )
        if self.then.twig() is not None:
            raise SettingsError(
                "SecondLook's 'then' has a twig, which runs in the first pass alone. Let 'first' be that policy."
            )
        number = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
        if not number or not 0 <= self.threshold <= 1:
            raise SettingsError(f"The threshold of a second look is a confidence from 0 to 1, not {self.threshold!r}.")
        if self.confidence not in CONFIDENCES:
            raise SettingsError(f"No confidence {self.confidence!r}; there are {', '.join(CONFIDENCES)}.")
        bases = [part.base for part in (self.first, self.then) if part.base is not None]
        for base in bases[1:]:
            bases[0].check(base)
        known = [base for base in bases if base.weights] or bases
        object.__setattr__(self, "base", known[0] if known else None)

    @property
    def inert(self) -> str:
        return self.first.inert

    @property
    def unproven(self) -> str:
        return self.first.unproven or self.then.unproven

    def confirmed(self, where: str) -> SecondLook:
        first, then = self.first.confirmed(f"{where}, first"), self.then.confirmed(f"{where}, then")
        other = replace(self, first=first, then=then)
        object.__setattr__(other, "base", self.base)
        return other

    def with_base(self, base: BaseModel | None) -> SecondLook:
        first, then = (p if p.base is None else p.with_base(base) for p in (self.first, self.then))
        other = replace(self, first=first, then=then)
        object.__setattr__(other, "base", base)
        return other

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        skips = {*self.first.skips(num_layers), *self.then.skips(num_layers)}
        if skips:
            raise SettingsError(
                f"A second look cannot skip attention (layers {sorted(skips)}): the KV cache of the two passes would "
                "have different layers. Use policies that only remove visual tokens."
            )
        if held := {*self.first.holds(num_layers), *self.then.holds(num_layers)}:
            raise SettingsError(
                f"A second look cannot freeze visual tokens (layers {sorted(held)}): its second pass runs whole "
                "layers. Use policies that only remove visual tokens."
            )
        return self.first.layers(num_layers, first_prunable)

    def can_exit(self, num_layers: int) -> bool:
        return self.first.can_exit(num_layers) or self.then.can_exit(num_layers)

    def needs_attention(self, num_layers: int) -> frozenset[int]:
        return self.first.needs_attention(num_layers)

    def needs_vision(self) -> bool:
        return self.first.needs_vision()

    def twig(self) -> TwigSpec | None:
        return self.first.twig()

    def decide(self, view: LayerView) -> Decision:
        return self.first.decide(view)

    def retry(self) -> Retry:
        return Retry(self.then, self._unsure)

    def _unsure(self, logits: Tensor) -> Tensor:
        """Rows bool [B] that look again, from the logits [B, vocabulary] of their first answer token; a confidence that
        is no number is not sure."""
        return ~(confidence(logits, self.confidence) >= self.threshold)

    # on disk ---------------------------------------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        return {
            "first": {"policy": self.first.name, "config": self.first.to_config()},
            "then": {"policy": self.then.name, "config": self.then.to_config()},
            "threshold": self.threshold,
            "confidence": self.confidence,
        }

    def tensors(self) -> dict[str, Tensor]:
        parts = {"first": self.first, "then": self.then}
        return {f"{part}.{name}": value for part, policy in parts.items() for name, value in policy.tensors().items()}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        settings = dict(config)
        for part in ("first", "then"):
            entry = settings.get(part)
            if not isinstance(entry, Mapping) or not {"policy", "config"} <= set(entry):
                raise DataError(
                    f"A second look needs {part!r} with the keys 'policy' and 'config'; found {entry!r}. "
                    "See configs/second-look.yaml."
                )
            own = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
            settings[part] = build_policy(entry["policy"], entry["config"], own, part)
        try:
            return cls(**settings)
        except TypeError as error:
            raise DataError(f"These are no settings of 'second-look' ({error}).") from error

    def card(self) -> str:
        return (
            f"Every row first runs under **{self.first.name}**: {self.first.card()}\n\nRows whose confidence "
            f"({self.confidence} of the first answer token) is below {self.threshold} go on again under "
            f"**{self.then.name}**: {self.then.card()}{self._about_guarantees()}"
        )

    def _about_guarantees(self) -> str:
        if self.first.guarantee is None and self.then.guarantee is None:
            return ""
        return (
            "\n\n**Nothing is guaranteed about this second look.** A guarantee of one of its policies was found for "
            "that policy alone, on all inputs, not for the rows that end with it. Certify the whole: `lookaway fit`."
        )
