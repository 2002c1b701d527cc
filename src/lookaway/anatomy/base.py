"""Anatomy: where, inside a given model, decoder layers, norm, head and visual tokens are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.base_model import BaseModel
from ..core.cost import DecoderShape
from ..core.decision import Policy
from ..core.errors import DataError, UnsupportedModel
from ..core.layout import TokenLayout
from ..core.weights import identity_digest

__all__ = ["Anatomy", "VisionTower"]


@dataclass(frozen=True, eq=False)
class VisionTower:
    """An attention of the vision tower whose tokens become the decoder's visual tokens, one by one and in order."""

    attention: nn.Module
    """The attention of the layer whose states the projector reads."""
    class_token: bool
    """Its first token is a class token, which becomes no visual token."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What was found in a model. Everything above this floor asks here instead of knowing names inside models."""

    family: str
    """`config.model_type`."""
    model: nn.Module
    """The whole model, the one that `generate` belongs to."""
    backbone: nn.Module
    """The module whose forward takes `input_ids` and `attention_mask` and merges the image features."""
    language_model: nn.Module
    """The decoder: owns `layers` and builds their masks."""
    layers: Sequence[nn.Module]
    norm: nn.Module
    head: nn.Module
    image_token_id: int
    first_prunable_layer: int
    """Smallest layer inside the decoder before which visual tokens may be removed; 'before layer 0', which is before
    the decoder, they always may."""
    shape: DecoderShape
    base: BaseModel
    """Fingerprint without the digest of the weights, which `identity` has."""
    grid: tuple[int, int] | None = None
    """(rows, columns) of one image's visual tokens, where that is fixed."""
    other_visual_ids: tuple[int, ...] = ()
    """Further token ids that stand for visual tokens, e.g. those of videos."""
    first_position: int | None = 0
    """Position of a row's first real token; None: the model counts in several dimensions and does it itself."""
    grid_rotary: nn.Module | None = None
    """What makes the decoder's rotary embeddings of states [B, S, D] and positions [3, B, S] in time, row and column,
    where visual tokens have their place in the picture and text goes on behind its rows and columns; None: it counts
    otherwise, or nobody has said."""
    prefix_is_causal: bool = True
    """Text in front of the image does not see it; False where picture and prompt all see each other."""
    images_by_row: bool = False
    """Image inputs have one entry a row (padded to the most images), not one a picture or tile."""
    unrotated: frozenset[int] = frozenset()
    """Layers whose attention gives its queries and keys no rotary phase."""
    row_arguments: tuple[str, ...] = ()
    """Keyword arguments of decoder layers that have an entry a row, [B, ...], beside states, mask and positions."""
    reads_layers: str = ""
    """What the model computes from its decoder layers' weights outside of the layers' own calls; empty: nothing."""
    refuses_without_images: bool = False
    """A forward of ids with visual tokens is an error where no image inputs come with it."""
    softcap: float | None = None
    """Logits are bent into (-softcap, softcap) by a tanh, where the model does that."""
    vision: VisionTower | None = None
    """The vision tower's attention, for policies that ask for it; None: not known, or its tokens are merged later."""
    found_by: str = "family"
    """'family': by a function for this architecture; 'rule': by the common pattern, proven when a policy comes."""
    only_before: str = ""
    """Why visual tokens may leave before the decoder only (a shorter prompt is right on any decoder); '': also inside.
    Then `first_prunable_layer` is the number of layers."""

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def require_inside(self, what: str) -> None:
        """Refuse `what` on a decoder that visual tokens may leave before it only.

        Args:
            what: begins the error's sentence, e.g. 'A tape of the layers'.

        Raises:
            UnsupportedModel: it is such a decoder; the error gives the reason and what works instead.
        """
        if self.only_before:
            raise UnsupportedModel(
                f"{what} is not possible on {self.base.architecture}: {self.only_before}. What works on it is removal "
                "before the decoder, e.g. la.CDPruner(keep=0.5), la.DivPrune(keep=0.5) or la.UniformKeep(0.5, layer=0)."
            )

    @property
    def identity(self) -> BaseModel:
        """Fingerprint that trained policies are saved with: its digest covers every weight of the decoder and its head.

        Hashed once, then only what changed (`core.weights` says what that costs). Without a policy attached.
        """
        return replace(self.base, weights=identity_digest(self.language_model, self.head))

    def check_policy(self, policy: Policy, allow_other_model: bool = False) -> list[str]:
        """Refuse a policy that was made for another model (`BaseModel.check`); warn of one that never does anything, or
        whose guarantee is of something else.

        Returns:
            What differs and was allowed.

        Raises:
            ModelMismatch: it is another model, and that is not allowed.
        """
        if policy.inert:
            warnings.warn(f"Nothing will be dropped: {policy.inert}", UserWarning, stacklevel=4)
        if policy.unproven:
            warnings.warn(f"Not guaranteed: {policy.unproven}", UserWarning, stacklevel=4)
        if policy.base is None:
            return []
        return policy.base.check(self.identity if policy.base.weights else self.base, allow_other_model)

    def logits(self, states: Tensor) -> Tensor:
        """Norm and language head of rows that left the last layer, [..., D] -> [..., vocabulary]."""
        return self.head_logits(self.norm(states))

    def head_logits(self, normed: Tensor) -> Tensor:
        """Language head of normed rows, [..., D] -> [..., vocabulary]."""
        logits: Tensor = self.head(normed)
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    @property
    def has_windows(self) -> bool:
        """Some decoder layers see only so many places back (sliding windows)."""
        text: Any = self.language_model.config
        window = getattr(text, "sliding_window", None)
        kinds = getattr(text, "layer_types", None) or ["sliding_attention"]
        return window is not None and "sliding_attention" in kinds

    @property
    def mask_kinds(self) -> tuple[str, ...]:
        """[L], equal where the decoder hands its layers the same mask."""
        kinds = getattr(self.language_model.config, "layer_types", None) or [""] * self.num_layers
        return tuple(kinds[: self.num_layers])

    @property
    def attention(self) -> str:
        """Name of the attention implementation that the decoder uses now."""
        return str(self.language_model.config._attn_implementation)  # type: ignore[union-attr]

    def layout(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> TokenLayout:
        """Which positions are visual, text and padding.

        Args:
            input_ids: int64 [B, S], image tokens already expanded (one id a visual token), as processors give them.
            attention_mask: [B, S], 1 = real token; None: all are real.

        Raises:
            DataError: the masks do not fit the ids.
            UnsupportedModel: the attention mask is not two-dimensional.
        """
        visual = input_ids == self.image_token_id
        for token_id in self.other_visual_ids:
            visual = visual | (input_ids == token_id)
        return self._with_padding(visual, attention_mask)

    def with_positions(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """These inputs with the positions that `generate` would give them.

        A forward counts padding too, `generate` does not. Families that count in several dimensions (Qwen-VL, GLM-4V)
        get no positions here: their own forward finds them from ids, grids and mask, and would take plain ones without
        an error.

        Args:
            inputs: keyword arguments of the model's forward, with `attention_mask` [B, S], 1 = real token.
        """
        if self.first_position is None:
            return {name: value for name, value in inputs.items() if name != "position_ids"}
        positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0) + self.first_position
        return {**inputs, "position_ids": positions}

    def layout_of_embeddings(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None) -> TokenLayout:
        """As `layout`, from embeddings [B, S, D] in which image tokens still are the image token's own embedding.

        Raises:
            UnsupportedModel: no position holds that embedding, so the image cannot be found.
        """
        embedding = self.language_model.get_input_embeddings()  # type: ignore[operator]
        ids = torch.tensor([self.image_token_id, *self.other_visual_ids], device=inputs_embeds.device)
        visual = (inputs_embeds[:, :, None] == embedding(ids)).all(-1).any(-1)  # [B, S]
        if not bool(visual.any()):
            raise UnsupportedModel(
                "inputs_embeds holds no embedding of the image token, so lookaway cannot tell where the image is. "
                "Pass input_ids and pixel_values, or embeddings into which the image was not merged yet."
            )
        return self._with_padding(visual, attention_mask)

    def _with_padding(self, visual: Tensor, attention_mask: Tensor | None) -> TokenLayout:
        if attention_mask is not None:
            if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
                form = tuple(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask)
                raise UnsupportedModel(f"attention_mask must be [B, S], 1 = real token; this one is {form}.")
            attention_mask = attention_mask.to(visual.device)
            if attention_mask.shape != visual.shape:
                raise DataError(
                    f"attention_mask has shape {tuple(attention_mask.shape)}, the tokens {tuple(visual.shape)}."
                )
        return TokenLayout.from_masks(visual, attention_mask, self.grid)

    def _inside(self) -> str:
        if self.only_before:
            return f" only: {self.only_before}"
        return f", and before layers {self.first_prunable_layer} to {self.num_layers - 1}"

    def __str__(self) -> str:
        s = self.shape
        grid = f", {self.grid[0]} x {self.grid[1]} visual tokens an image" if self.grid else ""
        rule = (
            "  found by  the common pattern, not a family of its own; proven by a dry run when a policy is attached\n"
        )
        return (
            f"{self.base.architecture} (family {self.family}, {self.base.id or 'no id'})\n"
            f"{rule if self.found_by == 'rule' else ''}"
            f"  decoder   {type(self.language_model).__name__}: {s.num_layers} layers, hidden {s.hidden_size}, "
            f"{s.num_heads} heads / {s.num_kv_heads} KV heads of {s.head_dim}, FFN {s.intermediate_size}, "
            f"vocabulary {s.vocab_size}\n"
            f"  image     token id {self.image_token_id}{grid}\n"
            f"  removal   before the decoder{self._inside()}\n"
            f"  attention {self.attention}"
        )
