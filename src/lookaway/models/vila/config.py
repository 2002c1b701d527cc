"""Sizes of VILA 1.5's image side.

Source: Lin et al., *VILA: On Pre-training for Visual Language Models*, arXiv 2312.07533; scales: Shi et al., *When Do
We Not Need Larger Vision Models?*, arXiv 2403.13043.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

__all__ = ["VilaVisionConfig"]


class VilaVisionConfig(PretrainedConfig):
    """SigLIP and the merging of its places, which gives the projector a quarter of them.

    Args:
        tower: SigLIP's vision config.
        select_layer: which of SigLIP's hidden states is read, as an index from the end.
        scales: sides in pixels at which the picture is seen, from the smallest; None: at SigLIP's own alone.
        split_size: side of the pieces that a larger scale is cut into.
        hidden_size: channels of a merged place: 4 x SigLIP's x the number of scales.
        image_size: side of the picture that the model is given.
        patch_size: pixels a visual token covers in each direction, rounded down.
    """

    model_type = "vila_vision"
    base_config_key = "vision_config"

    def __init__(
        self,
        tower: dict[str, Any] | None = None,
        select_layer: int = -2,
        scales: list[int] | None = None,
        split_size: int = 384,
        hidden_size: int = 4608,
        image_size: int = 384,
        patch_size: int = 27,
        **kwargs: Any,
    ) -> None:
        self.tower = tower or {}
        self.select_layer = select_layer
        self.scales = scales
        self.split_size = split_size
        self.hidden_size = hidden_size
        self.image_size = image_size
        self.patch_size = patch_size
        super().__init__(**kwargs)
