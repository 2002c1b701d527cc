"""Families that visual tokens may leave before the decoder only, because of what its layers are.

A shorter prompt is right on any decoder. Inside it, removal is proven by masking, and here no mask says the same.
"""

from __future__ import annotations

from typing import Any

from ..base import Anatomy
from ..registry import family
from .entry import by_entry

RUNNING_STATE = (
    "its linear-attention layers fold the image into a running state, which keeps it after the tokens are gone; no "
    "mask says the same, so removal inside the decoder cannot be proven"
)
CONVOLUTION = (
    "its convolution layers mix each token with the places in front of it: closing the gap that an image leaves inside "
    "the decoder gives the text behind it other neighbours, and no mask says the same"
)

FAMILIES = {
    "qwen3_5": ("Qwen3.5", RUNNING_STATE),
    "qwen3_5_moe": ("Qwen3.5 MoE", RUNNING_STATE),
    "lfm2_vl": ("LFM2-VL", CONVOLUTION),
}
"""`config.model_type` -> (name, why not inside the decoder)."""


def _add(model_type: str, name: str, reason: str) -> None:
    @family(model_type, name, attention="SDPA, eager", only_before=reason)
    def found(model: Any) -> Anatomy:
        return by_entry(model, reason, found_by="family")


for _model_type, (_name, _reason) in FAMILIES.items():
    _add(_model_type, _name, _reason)
