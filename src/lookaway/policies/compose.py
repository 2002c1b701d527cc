"""Several policies as one: each sees what the ones before it left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from ..core.attention_replacement import AttentionReplacement
from ..core.base_model import BaseModel
from ..core.decision import KEEP, Decision, LayerView, Policy
from ..core.errors import SettingsError
from ..core.layout import TokenLayout
from ..core.registry import register
from ..core.twig import TwigSpec
from .building import build_policy

__all__ = ["Chain", "chain"]


def chain(*policies: Policy) -> Chain:
    """One policy that asks `policies` in this order, e.g. `la.chain(schedule, exit)`.

    Raises:
        SettingsError: one of them is no policy.
        ModelMismatch: they were made for different models.
    """
    return Chain(tuple(policies))


@register("chain")
@dataclass(frozen=True)
class Chain(Policy):
    """Several policies in a row: each decides on what the ones before it left."""

    parts: tuple[Policy, ...]

    def __post_init__(self) -> None:
        for part in self.parts:
            if not isinstance(part, Policy):
                raise SettingsError(f"chain() joins policies, not {part!r}. la.load(path) reads a saved one.")
            if part.retry() is not None:
                raise SettingsError(
                    "A second look cannot be a part of a chain. Chain inside it instead: "
                    "la.SecondLook(la.chain(a, b), la.chain(c, d), threshold)."
                )
        bases = [part.base for part in self.parts if part.base is not None]
        for base in bases[1:]:
            bases[0].check(base)
        known = [base for base in bases if base.weights] or bases
        object.__setattr__(self, "base", known[0] if known else None)

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        asked: set[int] = set()
        for part in self.parts:
            asked.update(part.layers(num_layers, first_prunable))
        return tuple(sorted(asked))

    def needs_attention(self, num_layers: int) -> frozenset[int]:
        return frozenset().union(*(part.needs_attention(num_layers) for part in self.parts))

    def needs_vision(self) -> bool:
        return any(part.needs_vision() for part in self.parts)

    def twig(self) -> TwigSpec | None:
        found = [spec for part in self.parts if (spec := part.twig()) is not None]
        if len(found) > 1:
            raise SettingsError("Two policies of this chain have a twig; let one do it.")
        return found[0] if found else None

    def renumbers(self) -> bool:
        return any(part.renumbers() for part in self.parts)

    def skips(self, num_layers: int) -> tuple[int, ...]:
        asked = [layer for part in self.parts for layer in part.skips(num_layers)]
        twice = sorted({layer for layer in asked if asked.count(layer) > 1})
        if twice:
            raise SettingsError(f"Two policies of this chain skip the attention of layers {twice}; let one do it.")
        return tuple(sorted(asked))

    def holds(self, num_layers: int) -> tuple[int, ...]:
        return tuple(sorted({layer for part in self.parts for layer in part.holds(num_layers)}))

    def replacement(self, layer: int) -> AttentionReplacement | None:
        found = [replacement for part in self.parts if (replacement := part.replacement(layer)) is not None]
        return found[0] if found else None

    def with_replacements(self, replacements: Mapping[int, AttentionReplacement]) -> Chain:
        changed = [part.with_replacements(replacements) if _holds(part, replacements) else part for part in self.parts]
        return Chain(tuple(changed))

    def can_exit(self, num_layers: int) -> bool:
        return any(part.can_exit(num_layers) for part in self.parts)

    @property
    def inert(self) -> str:
        return next((part.inert for part in self.parts if part.inert), "")

    @property
    def unproven(self) -> str:
        if len(self.parts) == 1:
            return self.parts[0].unproven
        last = len(self.parts) - 1
        for index, part in enumerate(self.parts):
            if part.guarantee is not None and not (index == last and self._found_here(index)):
                return (
                    f"the guarantee of part {index + 1} of this chain was not found in this place, and says nothing "
                    "about the chain. lookaway calibrate --after or lookaway fit finds one that does."
                )
            if part.guarantee is None and part.unproven:
                return f"part {index + 1} of this chain: {part.unproven}"
        return ""

    def confirmed(self, where: str) -> Chain:
        other = Chain(tuple(part.confirmed(f"{where}, part {i}") for i, part in enumerate(self.parts, 1)))
        object.__setattr__(other, "base", self.base)
        return other

    def with_base(self, base: BaseModel | None) -> Chain:
        other = Chain(tuple(part if part.base is None else part.with_base(base) for part in self.parts))
        object.__setattr__(other, "base", base)
        return other

    def decide(self, view: LayerView) -> Decision:
        keep: Tensor | None = None
        values: Tensor | None = None
        notes: dict[str, Tensor] = {}
        for index, part in enumerate(self.parts):
            # Which layers a part wants depends on the depth alone; what it may not use was refused at attachment.
            if view.layer not in part.layers(view.num_layers, 0):
                continue
            decision = part.decide(replace(view, notes=_noted_by(index, view.notes)))
            notes.update({_free(name, index, notes): value for name, value in decision.notes.items()})
            if decision.keep is not None:
                keep = decision.keep if keep is None else keep & decision.keep
                view = replace(view, layout=_left(view.layout, decision.keep))
            if decision.values is not None:
                values = torch.where(view.layout.visual[:, :, None], decision.values, view.hidden)
                view = replace(view, hidden=values)
        return KEEP if keep is None and not notes else Decision(keep, notes, values)

    def to_config(self) -> dict[str, Any]:
        return {"parts": [{"policy": part.name, "config": part.to_config()} for part in self.parts]}

    def tensors(self) -> dict[str, Tensor]:
        return {f"{i}.{name}": value for i, part in enumerate(self.parts) for name, value in part.tensors().items()}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        entries = config.get("parts")
        form = "a list of {policy: NAME, config: {settings}}, in the order in which they decide"
        if not isinstance(entries, list):
            found = "is missing" if "parts" not in config else f"is {entries!r}"
            raise SettingsError(f"'parts' {found}: a chain needs {form}.")
        parts = []
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict) or "policy" not in entry or set(entry) - {"policy", "config"}:
                raise SettingsError(f"part {i + 1} is {entry!r}: 'parts' is {form}.")
            own = {name.removeprefix(f"{i}."): value for name, value in tensors.items() if name.startswith(f"{i}.")}
            parts.append(build_policy(entry["policy"], entry.get("config"), own, f"part {i + 1}"))
        return cls(tuple(parts))

    def card(self) -> str:
        parts = "\n\n".join(f"{i}. **{p.name}** {p.card()}" for i, p in enumerate(self.parts, 1))
        return f"In this order:\n\n{parts}{self._about_guarantees()}"

    def _found_here(self, index: int) -> bool:
        """The guarantee of part `index` was found behind exactly the parts before it."""
        before = self.parts[:index]
        first = before[0] if len(before) == 1 else Chain(before)
        # A saved chain keeps the model's fingerprint once, for all of its parts.
        return any(self.parts[index].guarantee_behind(one) for one in (first, first.with_base(self.base)))

    def _about_guarantees(self) -> str:
        """What the guarantees of parts say of the chain."""
        claims = [i for i, part in enumerate(self.parts) if part.guarantee is not None]
        if not claims:
            return ""
        if claims == [len(self.parts) - 1] and len(self.parts) > 1 and self._found_here(len(self.parts) - 1):
            return (
                f"\n\nThe guarantee of part {len(self.parts)} was found behind the parts before it: it compares "
                "this chain with the model under them, not with the full model."
            )
        named = ", ".join(str(i + 1) for i in claims)
        return (
            f"\n\n**Nothing is guaranteed about this chain.** The guarantee of part {named} was found without the "
            "others and says nothing about all of them together. Calibrate the gates behind the rest (`lookaway "
            "calibrate --after`), or certify the whole (`lookaway fit`)."
        )


def _left(layout: TokenLayout, keep: Tensor) -> TokenLayout:
    """The layout after dropping what is not in `keep`, its slots still there as padding."""
    return TokenLayout(layout.visual & keep, layout.text & keep, layout.padding | ~keep, layout.spans)


def _holds(part: Policy, layers: Mapping[int, Any]) -> bool:
    return any(part.replacement(layer) is not None for layer in layers)


def _noted_by(index: int, notes: Mapping[int, Mapping[str, Tensor]]) -> Mapping[int, Mapping[str, Tensor]]:
    """The notes as part `index` named them (see `_free`)."""
    end = f"_{index}"
    return {
        layer: {**found, **{name.removesuffix(end): value for name, value in found.items() if name.endswith(end)}}
        for layer, found in notes.items()
    }


def _free(name: str, index: int, taken: dict[str, Tensor]) -> str:
    return f"{name}_{index}" if name in taken else name
