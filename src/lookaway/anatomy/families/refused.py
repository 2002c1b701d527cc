"""Families that were looked at and cannot be right, each with the reason."""

from __future__ import annotations

from ...core.classifiers import CLASSIFIERS
from ..registry import refused

refused(
    "mllama",
    "Llama 3.2 Vision (Mllama)",
    "its visual tokens are not in the decoder's sequence: cross-attention layers read them beside it, so no token "
    "could leave. What can be saved there is the cross-attention itself.",
)
for _model_type, (_name, _reason) in CLASSIFIERS.items():
    refused(_model_type, _name, _reason)
