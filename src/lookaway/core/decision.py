"""What a policy sees, what it answers, and what a policy is. Engine and policies meet only here."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from .artifact import push_policy, save_policy
from .attention_inputs import AttentionInputs
from .attention_replacement import AttentionReplacement
from .base_model import BaseModel
from .errors import SettingsError
from .layout import TokenLayout
from .twig import TwigSpec
from .vision_inputs import VisionInputs

__all__ = ["KEEP", "Decision", "LayerView", "Policy", "Retry"]


@dataclass(frozen=True)
class LayerView:
    """What a policy sees before decoder layer `layer` (0-based). Tensors are read-only."""

    layer: int
    """The layer about to run: what is dropped now is never seen by it; `layer` layers have seen it. 0: before the
    decoder."""
    num_layers: int
    layout: TokenLayout
    """Layout of what is LEFT, over [B, S]."""
    hidden: Tensor  # [B, S, D]
    """Residual stream entering the layer, before its norm; visual rows included. Before the decoder: the projector's
    outputs, and the embeddings of the text."""
    initial_visual: Tensor  # int64 [B]
    """Visual tokens each row had before anything was dropped."""
    attention_inputs: AttentionInputs | None = None
    """Queries and keys of the layer before, where the policy asked for them with `needs_attention`; else None."""
    vision: VisionInputs | None = None
    """What the vision tower's attention says, where the policy asked for it with `needs_vision`; else None."""
    notes: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    """What the policy itself noted before earlier layers of this prompt, by layer (`Decision.notes`), each [B]."""
    twig: AttentionInputs | None = None
    """Queries and keys of the last layer of the policy's twig, before the layer that it grows behind; else None."""

    @property
    def has_visual_tokens(self) -> Tensor:
        """Rows that still have visual tokens to drop, bool [B]."""
        return self.layout.visual_counts > 0


@dataclass(frozen=True)
class Decision:
    """A policy's answer at one layer."""

    keep: Tensor | None = None  # bool [B, S]
    """Positions that stay (True). Text must stay; padding is ignored. None: everything stays."""
    notes: Mapping[str, Tensor] = field(default_factory=dict)
    """Numbers a row, each [B], e.g. {'exit_probability': p}: for the trace, and for the policy itself at later layers
    (`LayerView.notes`). Not used by the engine."""
    values: Tensor | None = None  # [B, S, D]
    """New states of the visual tokens that stay, for methods that merge what leaves into them; other slots are ignored,
    and so is all of it where nothing leaves. None: states stay as they are."""

    @classmethod
    def drop_visual(cls, view: LayerView, rows: Tensor, **notes: Tensor) -> Decision:
        """All visual tokens of the rows in `rows` (bool [B]) leave."""
        return cls(keep=~(view.layout.visual & rows[:, None]), notes=notes)


KEEP = Decision()
"""The decision that changes nothing."""


@dataclass(frozen=True)
class Retry:
    """Rows that are unsure after the prefill run it again under another policy (`policies.second_look`)."""

    then: Policy
    """What they run under, from the states before the first removal on."""
    unsure: Callable[[Tensor], Tensor]
    """Logits [B, vocabulary] of the first answer token -> rows bool [B] that run again."""


class Policy(ABC):
    """A method, as a small value: it decides, and knows no model. Subclasses register with `@registry.register(name)`.

    A policy keeps no state of a run: the same object may serve several models and threads. `base` names the model that
    a trained policy was made for; None fits any model.
    """

    name: ClassVar[str] = ""
    base: BaseModel | None = None
    guarantee: Mapping[str, Any] | None = None
    """What a calibration found of this very policy, attached as it is; None: nothing."""

    def guarantee_behind(self, first: Policy) -> bool:
        """The guarantee was found with `first` in front of this policy, so it is of `la.chain(first, policy)`."""
        return False

    @abstractmethod
    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        """The layers before which the policy wants to be asked, ascending, each 0 or in [first_prunable, num_layers).

        0 is 'before the decoder': what leaves there never enters it. An empty tuple means that it never drops anything.
        Raises ValueError where its own settings do not fit a decoder of this depth.
        """

    def needs_attention(self, num_layers: int) -> frozenset[int]:
        """Those of its layers before which it needs `attention_inputs`: queries and keys of the layer before."""
        return frozenset()

    def needs_vision(self) -> bool:
        """Before the decoder it needs `vision`: what the vision tower's own attention says of its tokens."""
        return False

    def twig(self) -> TwigSpec | None:
        """The twig whose attention it ranks by (`LayerView.twig`), before the layer that the twig grows behind."""
        return None

    def renumbers(self) -> bool:
        """What stays of its removal before the decoder is numbered anew, as in a prompt that never had the rest
        (`engine/prefill/renumbering.py`); else tokens keep the positions that they had."""
        return False

    @abstractmethod
    def decide(self, view: LayerView) -> Decision:
        """Answer for all rows of the batch at once. Called once a layer of `layers`, in prefill only."""

    def retry(self) -> Retry | None:
        """What happens to rows that are unsure of their first answer token; None: nothing, one pass is all."""
        return None

    def skips(self, num_layers: int) -> tuple[int, ...]:
        """The layers whose attention is skipped, ascending: the same for all rows, in prefill and in decoding.

        Raises ValueError where its settings do not fit a decoder of this depth.
        """
        return ()

    def holds(self, num_layers: int) -> tuple[int, ...]:
        """The layers that hold visual tokens, ascending, the same for all rows: there the states of those that are left
        pass unchanged, neither attention nor FFN adding to them, and their keys and values still serve the text.

        Raises ValueError where its settings do not fit a decoder of this depth.
        """
        return ()

    def replacement(self, layer: int) -> AttentionReplacement | None:
        """What replaces the skipped attention of `layer`; None: nothing, the residual stream goes on."""
        return None

    def with_replacements(self, replacements: Mapping[int, AttentionReplacement]) -> Policy:
        """The same policy with other replacements, by layer (`la.merge`)."""
        raise SettingsError(f"{type(self).__name__} has no adapters that could be merged.")

    def can_exit(self, num_layers: int) -> bool:
        """All visual tokens of a row may leave before some layer: reports then show at which layers rows exit."""
        return False

    @property
    def inert(self) -> str:
        """Why this policy never drops anything, where its makers know that it should have; else ''."""
        return ""

    @property
    def unproven(self) -> str:
        """Why a guarantee that this policy, or a part of it, carries says nothing about what is used; else ''."""
        return ""

    def confirmed(self, where: str) -> Self:
        """What `la.load` gives: the policy just read from `where`, with nothing claimed that its content does not bear.

        Warns of what had to be taken back.
        """
        return self

    def with_base(self, base: BaseModel | None) -> Self:
        """The same policy, for another model; None: for any."""
        other = copy.copy(self)
        object.__setattr__(other, "base", base)  # policies may be frozen
        return other

    def to_config(self) -> dict[str, Any]:
        """Settings as plain JSON values; `from_config` takes them back."""
        raise TypeError(f"{type(self).__name__} has no saved form.")

    def tensors(self) -> dict[str, Tensor]:
        """Learned weights, by name; empty for policies without."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        return cls(**config)

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write `config.json`, `model.safetensors` (where there are weights) and a model card; returns the folder."""
        return save_policy(Path(directory), self.name, self.to_config(), self.tensors(), self.base, self.card())

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Save and upload to the hub; keyword arguments go to `huggingface_hub.HfApi.create_repo`."""
        return push_policy(self, repo_id, **kwargs)

    def card(self) -> str:
        """Text of the model card's body (Markdown)."""
        lines = (type(self).__doc__ or "").strip().splitlines()
        return lines[0] if lines else self.name
