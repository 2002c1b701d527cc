"""Eagle2's config: InternVL's, around a SigLIP tower.

Source: Li et al., *Eagle 2: Building Post-Training Data Strategies from Scratch for Frontier Vision-Language Models*,
arXiv 2501.14818.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import InternVLConfig, SiglipVisionConfig

__all__ = ["Eagle2Config"]


class Eagle2Config(InternVLConfig):
    """`InternVLConfig`, whose own `vision_config` is always InternViT's, with SigLIP's instead.

    A `model_type` of its own keeps transformers from reading such a folder as an InternVL.
    """

    model_type = "eagle2"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "text_config": InternVLConfig.sub_configs_defaults["text_config"],
        "vision_config": SiglipVisionConfig,
    }
