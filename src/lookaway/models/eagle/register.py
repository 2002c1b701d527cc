"""Makes Eagle's vision tower known to transformers' Auto classes."""

from __future__ import annotations

__all__ = ["register_eagle"]


def register_eagle() -> None:
    """Register the tower under its `model_type`; a second call changes nothing."""
    from transformers import AutoConfig, AutoModel

    from .config import EagleVisionConfig
    from .vision import EagleVisionModel

    AutoConfig.register(EagleVisionConfig.model_type, EagleVisionConfig, exist_ok=True)
    AutoModel.register(EagleVisionConfig, EagleVisionModel, exist_ok=True)
