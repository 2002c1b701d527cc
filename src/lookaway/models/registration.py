"""Makes the model classes of this package known to transformers' Auto classes, under their `model_type`."""

from __future__ import annotations

__all__ = ["OWN_TYPES", "register_own_models"]

OWN_TYPES = ("eagle2", "eagle_vision", "lavin", "meter", "vila_vision")
"""`model_type` of the classes of this package, of whole models and of vision towers; transformers alone knows none."""


def register_own_models() -> None:
    """Register LaVIN, METER, Eagle2, and the vision towers of Eagle and VILA; a second call changes nothing."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageTextToText,
        AutoModelForVisualQuestionAnswering,
        AutoProcessor,
    )

    from .eagle.register import register_eagle
    from .eagle2.register import register_eagle2
    from .lavin.config import LavinConfig
    from .lavin.model import LavinForConditionalGeneration, LavinModel
    from .lavin.processor import LavinProcessor
    from .meter.config import MeterConfig
    from .meter.model import MeterForQuestionAnswering, MeterModel
    from .vila.register import register_vila

    register_eagle()
    register_eagle2()
    register_vila()
    AutoConfig.register(LavinConfig.model_type, LavinConfig, exist_ok=True)
    AutoModel.register(LavinConfig, LavinModel, exist_ok=True)
    AutoModelForImageTextToText.register(LavinConfig, LavinForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(LavinConfig, LavinProcessor, exist_ok=True)
    AutoConfig.register(MeterConfig.model_type, MeterConfig, exist_ok=True)
    AutoModel.register(MeterConfig, MeterModel, exist_ok=True)
    AutoModelForVisualQuestionAnswering.register(MeterConfig, MeterForQuestionAnswering, exist_ok=True)
