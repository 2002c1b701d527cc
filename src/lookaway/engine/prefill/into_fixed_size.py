"""A prompt whose KV cache has a fixed size: it is prefilled on a growing one, and then moves in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ...anatomy.base import Anatomy
from ...anatomy.inputs import holds_images
from ...core.decision import Policy
from ...core.errors import UnsupportedModel
from ..cache.fixed_size import growing_cache_for, has_pruned_layers, is_fixed_size, move_into
from ..cache.padding_of_mask import padding_mask
from ..cache.pruned_cache import PrunedCacheInfo, read_cache_info

__all__ = ["IntoFixedSize", "check_later_turn"]


@dataclass(frozen=True)
class IntoFixedSize:
    """One prefill on a growing cache in place of the caller's, which is empty and of a fixed size."""

    cache: Any
    grown: Any
    inputs: dict[str, Any]
    """Keyword arguments of the forward, with the growing cache in the place of the caller's."""

    @classmethod
    def begin(
        cls, anatomy: Anatomy, policy: Policy, skipped: Collection[int], inputs: Mapping[str, Any]
    ) -> IntoFixedSize | None:
        """Of a forward whose KV cache is empty and of a fixed size; None for any other.

        Args:
            skipped: layers whose attention `policy` skips.
            inputs: of the module that gets `input_ids`, by name.

        Raises:
            UnsupportedModel: the cache, the attention or the policy is none that this can be done with.
        """
        cache: Any = inputs.get("past_key_values")
        if not is_fixed_size(cache) or has_pruned_layers(cache) or bool(cache.get_seq_length() > 0):
            return None
        grown = growing_cache_for(cache)
        reason = _reason_against(anatomy, policy, skipped)
        if reason:
            raise UnsupportedModel(
                f"A static cache cannot be filled while {reason}. Use the default dynamic cache: "
                "generate(..., cache_implementation=None)."
            )
        tokens = inputs.get("input_ids")
        tokens = inputs.get("inputs_embeds") if tokens is None else tokens
        changed = {**inputs, "past_key_values": grown}
        mask = inputs.get("attention_mask")
        if tokens is not None and mask is not None:
            mask = changed["attention_mask"] = padding_mask(mask, cache, tokens.shape[1])
            if isinstance(mask, dict) or mask.dim() > 2:
                raise UnsupportedModel(
                    f"{type(anatomy.model).__name__} prepares a mask for static caches that is not plainly causal, so "
                    "the padding cannot be read from it. Use the default dynamic cache: "
                    "generate(..., cache_implementation=None)."
                )
        return cls(cache, grown, changed)

    def end(self, output: Any) -> Any:
        """The forward's output, with the caller's cache in it, filled."""
        info = read_cache_info(self.grown)
        move_into(self.cache, self.grown, info if isinstance(info, PrunedCacheInfo) else None)
        if isinstance(output, tuple):
            return tuple(self.cache if part is self.grown else part for part in output)
        output.past_key_values = self.cache
        return output


def _reason_against(anatomy: Anatomy, policy: Policy, skipped: Collection[int]) -> str:
    if "flash" in anatomy.attention:
        return f"attention is {anatomy.attention!r}, whose kernels read all of a layer's slots"
    if skipped:
        return "the attention of layers is skipped"
    if policy.renumbers():
        return "tokens are numbered anew (positions='renumber')"
    return ""


def check_later_turn(inputs: Mapping[str, Any]) -> None:
    """Refuse an image behind a static cache that lost columns: text may go on there."""
    if holds_images(inputs):
        raise UnsupportedModel(
            "An image in a later turn cannot come behind a static cache whose layers hold different numbers of tokens. "
            "Give the whole conversation as one prompt, or use the default dynamic cache."
        )
