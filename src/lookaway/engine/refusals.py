"""What cannot be done right is refused, with what to do instead: never a silent no-op."""

from __future__ import annotations

from typing import Any

from ..anatomy.base import Anatomy
from ..core.errors import UnsupportedModel

__all__ = ["check_not_compiled", "check_run"]


def check_not_compiled(model: Any, anatomy: Anatomy) -> None:
    """Refuse torch.compile'd models and layers, before anything is attached."""
    parts = (model, anatomy.model, anatomy.backbone, anatomy.language_model, *anatomy.layers)
    if any(hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None for part in parts):
        raise UnsupportedModel(
            f"{type(model).__name__} is compiled (torch.compile): its graphs fix how many tokens each layer sees, and "
            "hooks added later would not run. Attach to the model as it was loaded."
        )


def check_run(attention: str, cache: Any, has_windows: bool) -> None:
    """Refuse a forward whose cache must be as long in every layer, or whose kernel counts what is stored."""
    if has_windows and "flash" in attention:
        raise UnsupportedModel(
            f"{attention!r} counts the tokens that are left where this decoder's sliding windows count places in the "
            "whole prompt. Load the model with attn_implementation='sdpa' or 'eager'."
        )
    if attention.startswith("paged"):
        raise UnsupportedModel(
            f"Continuous batching (attention {attention!r}) keeps one table of cache pages for all layers, so no layer "
            "can hold fewer tokens than another. Use model.generate(...), whose cache is a layer's own."
        )
    if getattr(cache, "is_compileable", False):
        raise UnsupportedModel(
            f"{type(cache).__name__} has a fixed size in every layer, so tokens cannot leave it. Use the default "
            "dynamic cache: generate(..., cache_implementation=None)."
        )
