"""What lmms-eval's entry-point group `lmms_eval.models` finds: the model `lookaway`."""

from __future__ import annotations

from typing import Any

__all__ = ["MODEL", "manifest"]

MODEL = "lookaway"


def manifest() -> Any:
    """The manifest; a function, so that lmms-eval is imported only where it asks for it itself."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL, chat_class_path="lookaway.evaluation.lmms.model.LookawayModel")
