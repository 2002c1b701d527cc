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
refused(
    "lfm2_vl",
    "LFM2-VL",
    "convolution layers between the attention layers mix each token with the places in front of it. Closing the gap "
    "that an image leaves gives the text behind it other neighbours, and no mask says the same, so removal cannot be "
    "proven.",
)
for _model_type in ("qwen3_5", "qwen3_5_moe"):
    refused(
        _model_type,
        "Qwen3.5",
        "linear-attention layers fold the image into a running state, which keeps it after the tokens are gone; no "
        "mask says the same, so removal cannot be proven.",
    )
for _model_type, (_name, _reason) in CLASSIFIERS.items():
    refused(_model_type, _name, _reason)
