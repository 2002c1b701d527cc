"""Makes Eagle2 known to transformers' Auto classes."""

from __future__ import annotations

__all__ = ["register_eagle2"]


def register_eagle2() -> None:
    """Register the model and its processors under its `model_type`; a second call changes nothing."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

    from .config import Eagle2Config
    from .model import Eagle2ForConditionalGeneration
    from .processing import Eagle2Processor
    from .tiling import Eagle2ImageProcessorPil

    AutoConfig.register(Eagle2Config.model_type, Eagle2Config, exist_ok=True)
    AutoModelForImageTextToText.register(Eagle2Config, Eagle2ForConditionalGeneration, exist_ok=True)
    AutoImageProcessor.register(Eagle2Config, image_processor_classes={"pil": Eagle2ImageProcessorPil}, exist_ok=True)
    AutoProcessor.register(Eagle2Config, Eagle2Processor, exist_ok=True)
