"""Makes VILA 1.5's vision tower known to transformers' Auto classes."""

from __future__ import annotations

__all__ = ["register_vila"]


def register_vila() -> None:
    """Register the tower under its `model_type`; a second call changes nothing."""
    from transformers import AutoConfig, AutoModel

    from .config import VilaVisionConfig
    from .vision import VilaVisionModel

    AutoConfig.register(VilaVisionConfig.model_type, VilaVisionConfig, exist_ok=True)
    AutoModel.register(VilaVisionConfig, VilaVisionModel, exist_ok=True)
