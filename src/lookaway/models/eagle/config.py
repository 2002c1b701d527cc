"""Sizes of Eagle's mixture of vision towers.

Source: Shi et al., *Eagle: Exploring The Design Space for Multimodal LLMs with Mixture of Encoders*, arXiv 2408.15998.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

__all__ = ["TOWERS", "EagleVisionConfig"]

TOWERS = ("clip", "convnext", "sam", "eva", "pix2struct")
"""Kinds of towers; the published names are clip-448, convnext-1024, sam-1024, det-1024 and pix2struct-1024."""


class EagleVisionConfig(PretrainedConfig):
    """One square picture through several towers, whose features stand side by side in every visual token.

    Args:
        towers: one mapping a tower, in the order in which their features are joined: 'kind' is one of `TOWERS`, the
            rest are the sizes that transformers' config of that tower takes (for 'eva' those of `EvaTower`).
        image_size: side of the picture in pixels.
        patch_size: pixels a visual token covers in each direction: 1024 / 32 = 32 x 32 visual tokens.
        hidden_size: channels of all towers together.
    """

    model_type = "eagle_vision"
    base_config_key = "vision_config"

    def __init__(
        self,
        towers: list[dict[str, Any]] | None = None,
        image_size: int = 1024,
        patch_size: int = 32,
        hidden_size: int = 7680,
        **kwargs: Any,
    ) -> None:
        self.towers = towers or []
        self.image_size = image_size
        self.patch_size = patch_size
        self.hidden_size = hidden_size
        super().__init__(**kwargs)
