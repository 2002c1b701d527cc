"""A model and its processor, from a folder, the hub or the default model's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..core.errors import PreparationError, UnsupportedModel

__all__ = ["MINI", "load_config", "load_model"]

MINI = {"lookaway-mini": "exit-aware", "lookaway-mini-plain": "plain"}
"""Names of the default models -> how they were aligned."""


def load_model(
    path_or_id: str | Path,
    dtype: torch.dtype | str | None = None,
    device: Any = None,
    attn_implementation: str | None = None,
) -> tuple[Any, Any]:
    """Load a vision-language model, in eval mode, and its processor.

    Args:
        path_or_id: a folder, a hub id, or 'lookaway-mini' / 'lookaway-mini-plain' (prepared on first use).
        dtype: None: fp32 on a CPU, the checkpoint's own elsewhere.
        device: None: a GPU where there is one.
        attn_implementation: None: transformers' choice (SDPA).

    Raises:
        PreparationError: the model cannot be found, fetched or read; the text says what to do.
        UnsupportedModel: it is a text-only model.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from .registration import register_own_models

    register_own_models()
    name, source = str(path_or_id), _source(path_or_id)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else "auto"
    with _Explained(name), _no_bars():
        config = AutoConfig.from_pretrained(source)
        if not any(hasattr(config, key) for key in ("vision_config", "image_token_id", "image_token_index")):
            raise UnsupportedModel(
                f"{name} is a text-only model ({config.model_type}): it has no visual tokens that could leave. Give a "
                "vision-language model, e.g. llava-hf/llava-1.5-7b-hf or lookaway-mini."
            )
        model = AutoModelForImageTextToText.from_pretrained(
            source, dtype=dtype, **({"attn_implementation": attn_implementation} if attn_implementation else {})
        )
        processor = AutoProcessor.from_pretrained(source)
    return model.to(device).eval(), processor


def load_config(path_or_id: str | Path) -> Any:
    """The model's config alone: what is known of it before its weights are read.

    Raises:
        PreparationError: as for `load_model`.
    """
    from transformers import AutoConfig

    with _Explained(str(path_or_id)):
        return AutoConfig.from_pretrained(_source(path_or_id))


def _source(path_or_id: str | Path) -> str:
    """The folder or hub id that transformers is given."""
    from .mini.model import prepare_mini

    name = str(path_or_id)
    return str(prepare_mini(MINI[name])) if name in MINI else name


@contextmanager
def _no_bars() -> Iterator[None]:
    """Reading a local folder takes a second: no progress bar, and whatever was set before comes back."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class _Explained:
    """Turns what transformers, the hub or a damaged file raise into one clear error."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, ImportError):
            raise PreparationError(f"{self.name} needs a package that is not installed: {error}") from error
        if isinstance(error, OSError | ValueError | KeyError) or type(error).__name__ == "SafetensorError":
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            folder = Path(self.name)
            if folder.is_dir():
                cure = "Check that the folder is a complete Hugging Face model with its processor, or copy it again."
            else:
                cure = (
                    "It is no folder here, and the hub did not give it: check the name and the network, or download "
                    "the model elsewhere and give its folder. The default model needs no hub: --model lookaway-mini."
                )
            raise PreparationError(f"Cannot load {self.name}: {first} {cure}") from error
