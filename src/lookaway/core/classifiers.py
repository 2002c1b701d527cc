"""Encoders that classify a picture and a text: known here, but no models that visual tokens could leave."""

from __future__ import annotations

from typing import Any

from .errors import UnsupportedModel

__all__ = ["CLASSIFIERS", "refuse_classifier"]

_NO_DECODER = "it classifies and writes no answer, so it has no decoder that visual tokens could leave. "
_SKIP = (
    "Its attentions can be skipped from Python: lookaway.models.attention_sites.skip_attention "
    "(docs/methods/eas-models.md)."
)

CLASSIFIERS = {
    "meter": ("METER", _NO_DECODER + _SKIP),
    "vilt": ("ViLT", _NO_DECODER + _SKIP),
    "bridgetower": (
        "BridgeTower",
        _NO_DECODER
        + "lookaway.models.attention_sites.attention_sites lists its attentions (docs/methods/eas-models.md).",
    ),
}
"""`config.model_type` -> (the model's name, why it is refused and what can be done instead)."""


def refuse_classifier(config: Any) -> None:
    """Raise UnsupportedModel where the config is that of one of `CLASSIFIERS`."""
    found = CLASSIFIERS.get(getattr(config, "model_type", None) or "")
    if found is not None:
        raise UnsupportedModel(f"{found[0]} is not supported: {found[1]}")
