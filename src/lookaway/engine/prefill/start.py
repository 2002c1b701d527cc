"""The start of a forward: where a new prompt's visual tokens are, and what the cache that it comes behind holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...anatomy.base import Anatomy
from ...anatomy.grids import with_grids
from ...core.decision import Policy
from ...core.errors import AttachError, UnsupportedModel
from ...core.layout import ImageSpan, TokenLayout
from ..cache.padding_of_mask import padding_mask
from ..cache.pruned_cache import PrunedCacheInfo, read_cache_info

__all__ = ["info_of", "last_column_is_text", "past_of", "prompt_layout"]


def info_of(cache: Any, length: int, anatomy: Anatomy, first_layer: int, policy: Policy) -> PrunedCacheInfo | None:
    """What a cache that lost columns holds of its first ones; it holds all that came after them.

    Args:
        length: columns so far, what left included.
        first_layer: before which `policy` may remove something; the number of layers where it never does.

    Returns:
        None: it lost nothing.

    Raises:
        AttachError: the cache was filled under another policy, or masked by `la.reference`.
        UnsupportedModel: the cache cannot be gone on with on this decoder, or was cropped into what had left.
    """
    info = read_cache_info(cache)
    if info is None:
        return None
    if not isinstance(info, PrunedCacheInfo):
        raise AttachError("This KV cache was filled under la.reference. Continue it under la.reference.")
    if info.first_layer < first_layer:
        raise AttachError(
            f"This KV cache was shortened from layer {info.first_layer} on, which the attached policy does "
            f"not reach ({policy!r}). Continue it with the policy that it was made with."
        )
    if info.pad_right and (anatomy.has_windows or anatomy.only_before):
        raise UnsupportedModel(
            "The prompts were padded on the right, and this decoder has layers of sliding windows or running states: "
            "padding between prompt and answer would push tokens out of them. Set tokenizer.padding_side = 'left'."
        )
    return info if length >= info.length else info.up_to(length)


def past_of(cache: Any, length: int, anatomy: Anatomy, first_layer: int, policy: Policy) -> PrunedCacheInfo:
    """What a filled cache holds of all of its columns; arguments and errors as those of `info_of`."""
    info = info_of(cache, length, anatomy, first_layer, policy)
    return PrunedCacheInfo.of_whole(anatomy.num_layers, length) if info is None else info.up_to(length)


def prompt_layout(anatomy: Anatomy, inputs: Mapping[str, Any], behind_cache: bool = False) -> TokenLayout:
    """The layout of a prompt.

    Args:
        inputs: of the forward, by name: `input_ids` or `inputs_embeds`, `attention_mask`, `past_key_values`.
        behind_cache: the prompt comes behind earlier turns, whose columns its mask covers too.

    Raises:
        DataError, UnsupportedModel: as `Anatomy.layout`.
    """
    ids = inputs.get("input_ids")
    tokens: Tensor = inputs["inputs_embeds"] if ids is None else ids
    mask = padding_mask(inputs.get("attention_mask"), inputs.get("past_key_values"), tokens.shape[1])
    if behind_cache and isinstance(mask, Tensor) and mask.dim() == 2:
        mask = mask[:, -tokens.shape[1] :]
    layout = anatomy.layout_of_embeddings(tokens, mask) if ids is None else anatomy.layout(ids, mask)
    return last_column_is_text(with_grids(layout, anatomy, inputs))


def last_column_is_text(layout: TokenLayout) -> TokenLayout:
    """The layout in which a row's last real column counts as text, also where it is an image token.

    The first answer token is predicted there, so it must stay to the end; a prompt may end with its image (raw prompts
    and base models), or be nothing but an image.
    """
    if not any(layout.spans):
        return layout
    lasts = layout.facts.last_columns
    assert lasts is not None  # it is the layout of a whole prompt
    found = [
        bool(row) and row[-1].start + row[-1].length == last + 1 for row, last in zip(layout.spans, lasts, strict=True)
    ]
    if not any(found):
        return layout
    device = layout.visual.device
    columns = torch.arange(layout.visual.shape[1], device=device)
    ends = layout.visual & (columns == torch.tensor(lasts, device=device)[:, None])
    spans = tuple(_shortened(row) if ended else row for row, ended in zip(layout.spans, found, strict=True))
    facts = layout.facts._replace(longest_question=None)
    return TokenLayout(layout.visual & ~ends, layout.text | ends, layout.padding, spans, facts)


def _shortened(spans: tuple[ImageSpan, ...]) -> tuple[ImageSpan, ...]:
    """The spans of a row without the last column of the last; what is left of that image is no whole grid."""
    *others, last = spans
    return (*others, ImageSpan(last.start, last.length - 1)) if last.length > 1 else tuple(others)
