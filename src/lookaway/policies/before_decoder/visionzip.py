"""VisionZip (arXiv 2412.04467): dominant tokens by the vision tower's attention, the others merged into a few."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...core.decision import LayerView
from ...core.errors import LookawayError, SettingsError
from ...core.registry import register, registered_policies
from ..ranked import Keep, check_some, count_of
from .pictures import PicturePolicy, Pictures

__all__ = ["VisionZip", "VisionZipStyle", "merge_into_targets"]


@register("visionzip")
@dataclass(frozen=True)
class VisionZip(PicturePolicy):
    """Tokens that the vision tower attends to stay; the others are merged into a few by their keys (VisionZip).

    Picture by picture, without reading the question. Attention is the class token's where the tower has one, else the
    mean over all tokens of the picture.
    """

    keep: Keep = 64 / 576
    """What stays of each picture, dominant and contextual tokens together: a share (float) or a count (int)."""
    dominant: float = 54 / 64
    """Share of it that is dominant (54 of 64, 108 of 128 and 162 of 192 in the paper)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_some(self.keep, "VisionZip")
        if not 0 <= self.dominant <= 1:
            raise SettingsError(f"VisionZip's dominant is a share from 0 to 1, not {self.dominant}.")

    def needs_vision(self) -> bool:
        return True

    def choose(self, view: LayerView, pictures: Pictures) -> tuple[Tensor, Tensor | None]:
        if view.vision is None:
            raise LookawayError(
                "VisionZip needs the vision tower's attention, which only a whole run of the model gives, not one that "
                "goes on from stored states. Use la.attach."
            )
        counts = [count_of(self.keep, length) for length in pictures.lengths]
        most = [round(self.dominant * count) for count in counts]
        return merge_into_targets(
            pictures.of(view.hidden), pictures.of(view.vision.keys), pictures.of(view.vision.attention), pictures.real,
            most, [n - m for n, m in zip(counts, most, strict=True)],
        )  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Any = None) -> Self:
        if "layer" in config:  # what 0.1 saved as 'visionzip-style'
            warnings.warn(
                "This policy was saved as 'visionzip-style' by lookaway 0.1, which imitated VisionZip inside the "
                "decoder. It is VisionZip itself now, before the decoder: numbers measured with 0.1 do not carry over.",
                stacklevel=2,
            )
            config = {name: value for name, value in config.items() if name not in ("layer", "positions")}
        return super().from_config(config, tensors)


VisionZipStyle = VisionZip
"""The name in 0.1."""
registered_policies.renamed("visionzip-style", "visionzip")


def merge_into_targets(
    values: Tensor, keys: Tensor, attention: Tensor, real: Tensor, dominant: Sequence[int], contextual: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Dominant tokens as they are; of the others evenly spaced targets, each the mean of itself and of the tokens whose
    keys are most like its own.

    Args:
        values: [P, V, D]. keys: [P, V, d]. attention: [P, V]. real: bool [P, V], tokens that there are.
        dominant, contextual: [P], how many of each kind stay.

    Returns:
        `(stays bool [P, V], values [P, V, D])`.
    """
    most = max(contextual)
    first, spaced = (torch.tensor(counts, device=values.device)[:, None] for counts in (dominant, contextual))
    place = attention.masked_fill(~real, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    is_dominant = real & (place < first)
    rest = real & ~is_dominant
    number = rest.cumsum(1) - 1  # 0, 1, ... over the others
    step = (rest.sum(1, keepdim=True) // spaced.clamp(min=1)).clamp(min=1)
    is_target = rest & (number % step == 0) & (number // step < spaced)
    if not most:
        return is_dominant, values
    directions = normalize(keys.float(), dim=2)
    slots = is_target.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]  # [P, T]
    likeness = directions @ directions.gather(1, slots[:, :, None].expand(-1, -1, keys.shape[2])).transpose(1, 2)
    nearest = likeness.masked_fill(~is_target.gather(1, slots)[:, None], -torch.inf).argmax(2)  # [P, V]
    # A target stands for itself, whichever target it is most like.
    own = torch.zeros_like(nearest).scatter(1, slots, torch.arange(most, device=slots.device).expand_as(slots))
    nearest = torch.where(is_target, own, nearest)
    share = (nearest[:, :, None] == torch.arange(most, device=slots.device)).to(values.dtype) * rest[
        :, :, None
    ]  # [P, V, T]
    share = share / share.sum(1, keepdim=True).clamp(min=1)
    merged = share.transpose(1, 2) @ values  # [P, T, D]
    merged = merged.gather(1, own[:, :, None].expand(-1, -1, values.shape[2]))
    return is_dominant | is_target, torch.where(is_target[:, :, None], merged, values)
