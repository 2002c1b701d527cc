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
from ..core.errors import DataError, ModelMismatch
from ..core.exit_table import ExitTable
from ..core.provenance import policy_digest
from ..core.registry import register
from ..modules.gates import ExitGates, text_features
from .exit_simulation import Threshold, reading_layers, simulate, threshold_row
from .fixed import check_layers

__all__ = ["VisualExit"]

NOTE = "exit_probability"


@register("visual-exit")
class VisualExit(Policy):
    """All visual tokens leave before the first layer whose gate says the text has seen enough (DyVTE).

    Rows decide for themselves, once, in prefill; a row whose gates never fire keeps its tokens. No attention map is
    needed. The host reads one number a candidate layer, which a GPU waits for. With `read_every` it reads once for so
    many of them; a row then leaves at the last layer of the group in which its gate fired, up to `read_every - 1`
    candidate layers later than it might have.

    Args:
        gates: trained exit gates.
        threshold: exit where the gate's probability is above this; one for all candidate layers, or one for each of
            `gates.layers`. None: never exit (no threshold kept the guarantee).
        min_layer: no exit before a layer below this one.
        layers: ask only at these of the gates' layers; None: at all.
        base: the model that the gates were trained for.
        guarantee: what calibration found (`training.calibration`), kept with the policy.
        training: how the gates were trained, kept with the policy.
        read_every: candidate layers in a group, whose decisions are read together, at its last layer.

    Raises:
        SettingsError: a threshold outside [0, 1], layers that have no gate, or a group of less than one layer.
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
        read_every: int = 1,
    ) -> None:
        self.gates, self.min_layer, self.base = gates, min_layer, base
        self.asked = None if layers is None else tuple(layers)
        for layer in self.asked or ():
            gates.place(layer)
        self.threshold = threshold if threshold is None or isinstance(threshold, int | float) else tuple(threshold)
        self._thresholds = threshold_row(gates, threshold)
        self.guarantee, self.training = guarantee, training
        self.read_every = read_every
        self._read_at = reading_layers(self._candidates(), read_every)
        self._copies: dict[torch.device, ExitGates] = {}

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        if self._thresholds is None:
            return ()
        if self.gates.layers[-1] >= num_layers:
            raise ModelMismatch(
                f"These gates read layers up to {self.gates.layers[-1]}, but the model has {num_layers}. Train gates "
                "for this model: lookaway train --method dyvte --model ..."
            )
        asked = self._candidates()
        check_layers(asked, num_layers, first_prunable, "VisualExit (set min_layer higher)")
        return asked

    def _candidates(self) -> tuple[int, ...]:
        """Layers before which rows may exit, or before which at least a gate is asked."""
        return tuple(sorted(k for k in self.asked or self.gates.layers if k >= self.min_layer))

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
        if self.read_every == 1 and not bool(fires.any()):  # one small read, before the engine looks at every position
            return Decision(notes={NOTE: probability})
        if self._read_at[view.layer] != view.layer:  # nobody reads it yet
            return Decision(notes={NOTE: probability})
        for earlier in [k for k, last in self._read_at.items() if last == view.layer and k != last]:
            fires = fires | (self._noted(view, earlier) > self._thresholds[gates.place(earlier)])
        return Decision.drop_visual(view, view.has_visual_tokens & fires, **{NOTE: probability})

    def _noted(self, view: LayerView, layer: int) -> Tensor:
        """Probability of exit that the gate of an earlier layer of the group gave, [B]."""
        noted = view.notes.get(layer, {}).get(NOTE)
        if noted is None:
            raise DataError(
                f"This run began behind layer {layer}, and these gates are read in groups of {self.read_every}, so "
                f"what that layer's gate said is not known at layer {view.layer}. Run the whole prompt, or set "
                "read_every=1."
            )
        return noted.to(view.hidden.device)

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
        return policy_digest(self._changed(base=None, guarantee=None, training={"after": after}))

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
        return self._changed(base=base, guarantee=guarantee)

    def _changed(self, **settings: Any) -> VisualExit:
        """The same gates with other settings."""
        own = {
            "threshold": self.threshold, "min_layer": self.min_layer, "layers": self.asked, "base": self.base,
            "guarantee": self.guarantee, "training": self.training, "read_every": self.read_every,
        }  # fmt: skip
        return VisualExit(self.gates, **{**own, **settings})

    # on disk ---------------------------------------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        return {
            "gates": self.gates.to_config(),
            "threshold": list(self.threshold) if isinstance(self.threshold, Sequence) else self.threshold,
            "min_layer": self.min_layer,
            "layers": None if self.asked is None else list(self.asked),
            "guarantee": None if self.guarantee is None else dict(self.guarantee),
            "training": None if self.training is None else dict(self.training),
            # Left out where it changes nothing, so that policies from before it have the digests that they were given.
            **({} if self.read_every == 1 else {"read_every": self.read_every}),
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
        self,
        threshold: Threshold,
        guarantee: Mapping[str, Any] | None = None,
        min_layer: int | None = None,
        read_every: int | None = None,
    ) -> VisualExit:
        """The same gates at another threshold (smallest layer, size of groups), with the guarantee that goes with them.

        None: the policy's own layer and size.
        """
        least = self.min_layer if min_layer is None else min_layer
        every = self.read_every if read_every is None else read_every
        return self._changed(threshold=threshold, guarantee=guarantee, min_layer=least, read_every=every)

    def exits(self, table: ExitTable, probabilities: Tensor | None = None) -> Tensor:
        """Where this very policy would exit on each sample of a table (`simulate`), int64 [N].

        Raises:
            DataError: the table lacks a layer at which the policy would be asked.
        """
        missing = [k for k in self._candidates() if k not in table.layers]
        if missing and self.threshold is not None:
            raise DataError(
                f"The table has no layer {missing[0]}, at which this policy may exit: what it does cannot be told from "
                f"the layers {list(table.layers)}. Make the table with all of the policy's layers."
            )
        return self.simulated(table, probabilities, self.threshold)

    def simulated(self, table: ExitTable, probabilities: Tensor | None, threshold: Threshold) -> Tensor:
        """The same at another threshold, on a table that may lack layers, at which nothing exits then."""
        return simulate(
            self.gates, table, threshold, self.min_layer, self.asked, probabilities, self.read_every
        )  # fmt: skip

    def used_after(self, first: Policy) -> VisualExit:
        """The same gates, noted to be used behind `first`: `la.chain(first, gates)`."""
        training = {**(self.training or {}), "after": repr(first), "after_digest": policy_digest(first)}
        return self._changed(training=training)

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
            f"{layers[-1]}; exit where the gate's probability is: {threshold}; not before layer {self.min_layer}."
            f"{self._about_groups()}\n\n"
            f"{words}"
        )

    def _about_groups(self) -> str:
        if self.read_every == 1:
            return ""
        return f" Read once for {self.read_every} of them: a row exits at the last layer of the group that fired."

    def __repr__(self) -> str:
        groups = "" if self.read_every == 1 else f", read_every={self.read_every}"
        return f"VisualExit({self.gates.extra_repr()}; threshold={self.threshold}, min_layer={self.min_layer}{groups})"
