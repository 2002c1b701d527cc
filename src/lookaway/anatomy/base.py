"""Anatomy: where, inside a given model, decoder layers, norm, head and visual tokens are."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.artifact import BaseModel
from ..core.cost import DecoderShape
from ..core.errors import DataError, UnknownAnatomy, UnsupportedModel
from ..core.layout import TokenLayout

__all__ = ["FAMILIES", "Anatomy", "anatomy_of", "family"]


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
    """Smallest layer before which visual tokens may be removed; layer 0 always keeps the full length."""
    shape: DecoderShape
    base: BaseModel
    """Fingerprint that trained policies are checked against."""
    grid: tuple[int, int] | None = None
    """(rows, columns) of one image's visual tokens, where that is fixed."""
    other_visual_ids: tuple[int, ...] = ()
    """Further token ids that stand for visual tokens, e.g. those of videos."""

    @property
    def num_layers(self) -> int:
        return len(self.layers)

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

    def __str__(self) -> str:
        s = self.shape
        grid = f", {self.grid[0]} x {self.grid[1]} visual tokens an image" if self.grid else ""
        return (
            f"{self.base.architecture} (family {self.family}, {self.base.id or 'no id'})\n"
            f"  decoder   {type(self.language_model).__name__}: {s.num_layers} layers, hidden {s.hidden_size}, "
            f"{s.num_heads} heads / {s.num_kv_heads} KV heads of {s.head_dim}, FFN {s.intermediate_size}, "
            f"vocabulary {s.vocab_size}\n"
            f"  image     token id {self.image_token_id}{grid}\n"
            f"  removal   before layers {self.first_prunable_layer} to {s.num_layers - 1}\n"
            f"  attention {self.attention}"
        )


FAMILIES: dict[str, Callable[[Any], Anatomy]] = {}
"""`config.model_type` -> the function that finds its anatomy."""


def family(model_type: str) -> Callable[[Callable[[Any], Anatomy]], Callable[[Any], Anatomy]]:
    """Decorator: this function finds the anatomy of models whose `config.model_type` is `model_type`."""

    def add(function: Callable[[Any], Anatomy]) -> Callable[[Any], Anatomy]:
        FAMILIES[model_type] = function
        return function

    return add


def anatomy_of(model: Any) -> Anatomy:
    """What was found in a model: where its decoder layers, norm, head and visual tokens are.

    Raises:
        UnknownAnatomy: no family is registered for this architecture.
        UnsupportedModel: the model has no visual tokens, or is only a part of a supported one.
    """
    from . import families, lavin  # noqa: F401  (registers them)

    model = model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type in FAMILIES:
        if not hasattr(model, "lm_head"):
            raise UnsupportedModel(
                f"{type(model).__name__} has no language head. Load the whole model: "
                f"AutoModelForImageTextToText.from_pretrained(...)"
            )
        return FAMILIES[model_type](model)
    name, known = type(model).__name__, ", ".join(sorted(FAMILIES))
    if isinstance(model, nn.Module) and model_type and not any(hasattr(config, key) for key in _VISUAL_KEYS):
        raise UnsupportedModel(
            f"{name} (model_type {model_type!r}) is a text-only model: it has no visual tokens that could leave. "
            f"lookaway needs a vision-language model; families it knows: {known}."
        )
    near = difflib.get_close_matches(str(model_type), FAMILIES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownAnatomy(
        f"No anatomy for {name} (model_type {model_type!r}).{hint} Known: {known}. "
        "docs/adding-a-model.md tells how to add one: a function of about ten lines."
    )


_VISUAL_KEYS = ("vision_config", "image_token_id", "image_token_index", "vision_tower", "mm_vision_tower", "visual")
