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

__all__ = ["FAMILIES", "REFUSED", "SUPPORT", "Anatomy", "Support", "anatomy_of", "family", "refused"]


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
    first_position: int | None = 0
    """Position of a row's first real token; None: the model counts in several dimensions and does it itself."""
    prefix_is_causal: bool = True
    """Text in front of the image does not see it; False where picture and prompt all see each other."""
    images_by_row: bool = False
    """Image inputs have one entry a row (padded to the most images), not one a picture or tile."""
    unrotated: frozenset[int] = frozenset()
    """Layers whose attention gives its queries and keys no rotary phase."""
    softcap: float | None = None
    """Logits are bent into (-softcap, softcap) by a tanh, where the model does that."""
    found_by: str = "family"
    """'family': by a function for this architecture; 'rule': by the common pattern, proven when a policy comes."""

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def logits(self, states: Tensor) -> Tensor:
        """Norm and language head of rows that left the last layer, [..., D] -> [..., vocabulary]."""
        logits: Tensor = self.head(self.norm(states))
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    @property
    def has_windows(self) -> bool:
        """Some decoder layers see only so many places back (sliding windows)."""
        text: Any = self.language_model.config
        window = getattr(text, "sliding_window", None)
        kinds = getattr(text, "layer_types", None) or ["sliding_attention"]
        return window is not None and "sliding_attention" in kinds

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

    def positions(self, attention_mask: Tensor) -> Tensor | None:
        """Positions as `generate` counts them, int64 [B, S]; None: leave them to the model's forward.

        Args:
            attention_mask: [B, S], 1 = real token.
        """
        if self.first_position is None:
            return None
        return (attention_mask.cumsum(1) - 1).clamp(min=0) + self.first_position

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
            f"  removal   before layers {self.first_prunable_layer} to {s.num_layers - 1}\n"
            f"  attention {self.attention}"
        )


FAMILIES: dict[str, Callable[[Any], Anatomy]] = {}
"""`config.model_type` -> the function that finds its anatomy."""


@dataclass(frozen=True)
class Support:
    """What docs/support.md says of a family."""

    name: str
    """What people call it."""
    checkpoints: tuple[str, ...]
    """Hub ids that its function was written for."""
    attention: str
    """Attention implementations that it works with."""
    refuses: str
    """What is refused beyond what is refused for all families."""


SUPPORT: dict[str, Support] = {}
"""`config.model_type` -> what is known of its family."""


def family(
    model_type: str, name: str, *checkpoints: str, attention: str = "SDPA, eager, flash", refuses: str = ""
) -> Callable[[Callable[[Any], Anatomy]], Callable[[Any], Anatomy]]:
    """Decorator: this function finds the anatomy of models whose `config.model_type` is `model_type`.

    Args:
        name, checkpoints, attention, refuses: see `Support`.
    """

    def add(function: Callable[[Any], Anatomy]) -> Callable[[Any], Anatomy]:
        FAMILIES[model_type] = function
        SUPPORT[model_type] = Support(name, checkpoints, attention, refuses)
        return function

    return add


REFUSED: dict[str, tuple[str, str]] = {}
"""`config.model_type` -> (the family's name, why its visual tokens cannot leave)."""


def refused(model_type: str, name: str, reason: str) -> None:
    """Refuse models of this `config.model_type`, whatever the common pattern says of them."""
    REFUSED[model_type] = (name, reason)


def anatomy_of(model: Any) -> Anatomy:
    """What was found in a model: where its decoder layers, norm, head and visual tokens are.

    Raises:
        UnknownAnatomy: no family is registered for this architecture, and it is not of the common pattern.
        UnsupportedModel: the model has no visual tokens, is only a part of a supported one, or of a refused family.
    """
    from . import families  # noqa: F401  (registers them)
    from .families.rule import NotOfThePattern, by_rule

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
    if model_type in REFUSED:
        raise UnsupportedModel(f"{REFUSED[model_type][0]} is not supported: {REFUSED[model_type][1]}")
    if isinstance(model, nn.Module) and model_type and not any(hasattr(config, key) for key in _VISUAL_KEYS):
        raise UnsupportedModel(
            f"{name} (model_type {model_type!r}) is a text-only model: it has no visual tokens that could leave. "
            f"lookaway needs a vision-language model; families it knows: {known}."
        )
    try:
        return by_rule(model)
    except NotOfThePattern as reason:
        why = str(reason)
    near = difflib.get_close_matches(str(model_type), FAMILIES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownAnatomy(
        f"No anatomy for {name} (model_type {model_type!r}), and it is not of the common pattern: {why}.{hint} "
        f"Known: {known}. "
        "docs/adding-a-model.md tells how to add one: a function of about ten lines."
    )


_VISUAL_KEYS = ("vision_config", "image_token_id", "image_token_index", "vision_tower", "mm_vision_tower", "visual")
