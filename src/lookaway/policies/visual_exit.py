"""DyVTE: all visual tokens of a row leave before the first layer whose gate says the text has seen enough.

Source: arXiv 2411.19628 (NeurIPS 2025), section 4. `docs/methods/dyvte.md` says what is different here and why.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ..core.base_model import BaseModel
from ..core.decision import Decision, LayerView, Policy
from ..core.errors import DataError, ModelMismatch, SettingsError
from ..core.exit_table import ExitTable
from ..core.provenance import policy_digest
from ..core.registry import register
from ..modules.gates import ExitGates, text_features
from .fixed import check_layers

__all__ = ["Threshold", "VisualExit", "exit_probabilities", "simulate"]

Threshold = float | Sequence[float] | None


@register("visual-exit")
class VisualExit(Policy):
    """All visual tokens leave before the first layer whose gate says the text has seen enough (DyVTE).

    Rows decide for themselves, once, in prefill; a row whose gates never fire keeps its tokens. No attention map is
    needed. The host reads one number a candidate layer.

    Args:
        gates: trained exit gates.
        threshold: exit where the gate's probability is above this; one for all candidate layers, or one for each of
            `gates.layers`. None: never exit (no threshold kept the guarantee).
        min_layer: no exit before a layer below this one.
        layers: ask only at these of the gates' layers; None: at all.
        base: the model that the gates were trained for.
        guarantee: what calibration found (`training.calibration`), kept with the policy.
        training: how the gates were trained, kept with the policy.

    Raises:
        SettingsError: a threshold outside [0, 1], or layers that have no gate.
    """

    def __init__(
        self,
        gates: ExitGates,
        threshold: Threshold = 0.5,
        min_layer: int = 1,
        layers: Sequence[int] | None = None,
        base: BaseModel | None = None,
        guarantee: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        self.gates, self.min_layer, self.base = gates, min_layer, base
        self.asked = None if layers is None else tuple(layers)
        for layer in self.asked or ():
            gates.place(layer)
        self.threshold = threshold if threshold is None or isinstance(threshold, int | float) else tuple(threshold)
        self._thresholds = threshold_row(gates, threshold)
        self.guarantee, self.training = guarantee, training
        self._copies: dict[torch.device, ExitGates] = {}

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        if self._thresholds is None:
            return ()
        if self.gates.layers[-1] >= num_layers:
            raise ModelMismatch(
                f"These gates read layers up to {self.gates.layers[-1]}, but the model has {num_layers}. Train gates "
                "for this model: lookaway train --method dyvte --model ..."
            )
        asked = [k for k in self.asked or self.gates.layers if k >= self.min_layer]
        check_layers(asked, num_layers, first_prunable, "VisualExit (set min_layer higher)")
        return tuple(sorted(asked))

    def can_exit(self, num_layers: int) -> bool:
        return True

    @torch.no_grad()
    def decide(self, view: LayerView) -> Decision:
        assert self._thresholds is not None
        if view.hidden.shape[-1] != self.gates.hidden_size:
            raise ModelMismatch(
                f"These gates read states of {self.gates.hidden_size} numbers, not of {view.hidden.shape[-1]}: they "
                "were made for another model."
            )
        gates = self._on(view.hidden.device)
        logits = gates(text_features(view.hidden, view.layout), view.layer)  # [B]
        probability = logits.sigmoid()
        fires = probability > self._thresholds[gates.place(view.layer)]
        if not bool(fires.any()):  # one small read, where the engine would have looked at every position
            return Decision(notes={"exit_probability": probability})
        return Decision.drop_visual(view, view.has_visual_tokens & fires, exit_probability=probability)

    def _on(self, device: torch.device) -> ExitGates:
        """The gates on a device; the given ones are not moved, other models may use them elsewhere."""
        if self.gates.w1.device == device:
            return self.gates
        if device not in self._copies:
            self._copies[device] = copy.deepcopy(self.gates).to(device)
        return self._copies[device]

    @property
    def inert(self) -> str:
        if self.threshold is not None:
            return ""
        reason = (self.guarantee or {}).get("reason", "")
        return f"these gates have no threshold, so they never exit. {reason}".strip()

    @property
    def unproven(self) -> str:
        after = (self.training or {}).get("after")
        if after is None or self.guarantee is None:
            return ""
        return (
            f"the guarantee of these gates was found behind {after} and says nothing about them alone: la.chain(first, "
            "gates), --policy FIRST,GATES."
        )

    def certified_digest(self) -> str:
        """Changes with whatever decides where rows exit: gates, threshold, layers, and the policy that comes before."""
        after = (self.training or {}).get("after_digest")
        plain = VisualExit(self.gates, self.threshold, self.min_layer, self.asked, None, None, {"after": after})
        return policy_digest(plain)

    def confirmed(self, where: str) -> VisualExit:
        certified = (self.guarantee or {}).get("policy")
        if certified is None or certified == self.certified_digest():
            return self
        warnings.warn(
            f"{where} was changed after it was certified (digest {self.certified_digest()[:12]}, certified "
            f"{certified[:12]}): its guarantee holds no longer and is left out. Calibrate it again.",
            UserWarning,
            stacklevel=4,
        )
        return self.with_threshold(self.threshold)

    def with_base(self, base: BaseModel | None) -> VisualExit:
        """The same gates for another model; a guarantee, which was about its own model, is left out."""
        same = base is not None and self.base is not None and not self.base.differences(base)
        guarantee = self.guarantee if same else None
        return VisualExit(self.gates, self.threshold, self.min_layer, self.asked, base, guarantee, self.training)

    # on disk ---------------------------------------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        return {
            "gates": self.gates.to_config(),
            "threshold": list(self.threshold) if isinstance(self.threshold, Sequence) else self.threshold,
            "min_layer": self.min_layer,
            "layers": None if self.asked is None else list(self.asked),
            "guarantee": None if self.guarantee is None else dict(self.guarantee),
            "training": None if self.training is None else dict(self.training),
        }

    def tensors(self) -> dict[str, Tensor]:
        return {f"gates.{name}": value for name, value in self.gates.state_dict().items()}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        settings = dict(config)
        if "promise" in settings:  # as 0.1 wrote it
            settings["guarantee"] = settings.pop("promise")
        weights = {name.removeprefix("gates."): value for name, value in tensors.items()}
        try:
            gates = ExitGates.from_config(settings.pop("gates"), weights)
            return cls(gates, **settings)
        except (KeyError, TypeError) as error:
            raise DataError(f"This is no visual-exit policy of this version ({error!r}). Train it again.") from error

    def with_threshold(
        self, threshold: Threshold, guarantee: Mapping[str, Any] | None = None, min_layer: int | None = None
    ) -> VisualExit:
        """The same gates at another threshold (and smallest layer), with the guarantee that goes with them."""
        least = self.min_layer if min_layer is None else min_layer
        return VisualExit(self.gates, threshold, least, self.asked, self.base, guarantee, self.training)

    def exits(self, table: ExitTable, probabilities: Tensor | None = None) -> Tensor:
        """Where this very policy would exit on each sample of a table (`simulate`), int64 [N].

        Raises:
            DataError: the table lacks a layer at which the policy would be asked.
        """
        asked = [k for k in self.asked or self.gates.layers if k >= self.min_layer]
        missing = [k for k in asked if k not in table.layers]
        if missing and self.threshold is not None:
            raise DataError(
                f"The table has no layer {missing[0]}, at which this policy may exit: what it does cannot be told from "
                f"the layers {list(table.layers)}. Make the table with all of the policy's layers."
            )
        return simulate(self.gates, table, self.threshold, self.min_layer, self.asked, probabilities)

    def used_after(self, first: Policy) -> VisualExit:
        """The same gates, noted to be used behind `first`: `la.chain(first, gates)`."""
        training = {**(self.training or {}), "after": repr(first), "after_digest": policy_digest(first)}
        return VisualExit(self.gates, self.threshold, self.min_layer, self.asked, self.base, self.guarantee, training)

    def guarantee_behind(self, first: Policy) -> bool:
        digest = (self.training or {}).get("after_digest")
        return self.guarantee is not None and digest is not None and digest == policy_digest(first)

    def card(self) -> str:
        guarantee, layers = self.guarantee, self.gates.layers
        if guarantee is None:
            words = "Not calibrated: nothing is guaranteed about how many answers change."
        elif self.threshold is None:
            words = f"Calibrated, but this policy never exits. {guarantee.get('reason', '')}"
        else:
            words = (
                f"Guarantee: with confidence {1 - guarantee['delta']:.0%}, at most {guarantee['epsilon']:.1%} of the "
                f"answers differ from the full model's, on inputs like the {guarantee['samples']} calibration samples "
                f"({guarantee['changed']} of them changed; exact upper bound {guarantee['bound']:.2%})."
            )
        if after := (self.training or {}).get("after"):
            words += f"\n\nUse them after {after}: `la.chain(first, gates)`; the full model is the one under it."
        threshold = "never" if self.threshold is None else f"above {self.threshold}"
        return (
            f"Exit gates (DyVTE, arXiv 2411.19628): {self.gates.extra_repr()}. Candidate layers {layers[0]} to "
            f"{layers[-1]}; exit where the gate's probability is: {threshold}; not before layer {self.min_layer}.\n\n"
            f"{words}"
        )

    def __repr__(self) -> str:
        return f"VisualExit({self.gates.extra_repr()}; threshold={self.threshold}, min_layer={self.min_layer})"


def threshold_row(gates: ExitGates, threshold: Threshold) -> tuple[float, ...] | None:
    """One threshold for each of the gates' layers; None where the policy never exits."""
    if threshold is None:
        return None
    many = isinstance(threshold, Sequence)
    row = tuple(float(t) for t in threshold) if many else (float(threshold),) * len(gates.layers)  # type: ignore
    if len(row) != len(gates.layers):
        raise SettingsError(f"{len(row)} thresholds for {len(gates.layers)} gates: give one, or one a gate.")
    for value in row:
        if not 0 <= value <= 1:
            raise SettingsError(f"A threshold is a probability from 0 to 1 (1: never exit), not {value}.")
    return row


@torch.no_grad()
def exit_probabilities(gates: ExitGates, table: ExitTable) -> Tensor:
    """Probability of exit at each of the table's layers, float32 [N, C]; 0 at layers without a gate.

    Raises:
        DataError: the table has none of the gates' layers, or states of another size.
    """
    if table.features.shape[-1] != 2 * gates.hidden_size:
        raise DataError(
            f"The table's features have {table.features.shape[-1]} numbers, the gates read {2 * gates.hidden_size}: "
            "they are of different models."
        )
    known = [c for c, layer in enumerate(table.layers) if layer in gates.layers]
    if not known:
        raise DataError(f"The table has layers {list(table.layers)}, the gates {list(gates.layers)}: none in common.")
    found = torch.zeros(len(table), len(table.layers))
    for c in known:
        found[:, c] = gates(table.features[:, c].to(gates.w1.device), table.layers[c]).sigmoid().cpu()
    return found


@torch.no_grad()
def simulate(
    gates: ExitGates,
    table: ExitTable,
    threshold: Threshold,
    min_layer: int = 1,
    layers: Sequence[int] | None = None,
    probabilities: Tensor | None = None,
) -> Tensor:
    """Where the policy would exit on each sample of a table, without running the model.

    Args:
        gates, threshold, min_layer, layers: as for VisualExit.
        table: exit table of the samples.
        probabilities: `exit_probabilities(gates, table)`, where it is known already.

    Returns:
        int64 [N]: index into `table.layers` of the first candidate whose gate fires; `len(table.layers)` = never.
    """
    row = threshold_row(gates, threshold)
    never = len(table.layers)
    if row is None:
        return torch.full((len(table),), never)
    p = exit_probabilities(gates, table) if probabilities is None else probabilities
    usable = [k in gates.layers and k >= min_layer and (layers is None or k in layers) for k in table.layers]
    # A layer that may not be used gets a threshold that no probability is above.
    limits = torch.tensor(
        [row[gates.place(k)] if ok else 2.0 for k, ok in zip(table.layers, usable, strict=True)], dtype=p.dtype
    )
    fires = p > limits  # [N, C]
    return torch.where(fires.any(1), fires.int().argmax(1), never)
