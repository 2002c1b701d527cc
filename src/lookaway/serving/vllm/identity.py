"""Which model a checkpoint's folder holds, to compare with the one that a policy was trained for.

vLLM stacks, pads and packs weights when it loads them, so the digest is taken of the files. It is that of
`Anatomy.identity`: the decoder's weights and the language head's, every value counted as bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.base_model import BaseModel
from ...core.weights import identity_of_tensors

__all__ = ["model_at"]

DECODER = ("model.language_model.", "language_model.model.", "model.")
"""What stands before the decoder's names in a file, as transformers 5, 4 and text-only models have it."""
HEAD = ("lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight")


def model_at(model_config: Any) -> BaseModel:
    """The fingerprint of the model that vLLM serves; its `weights` are '' where its files are not in a local folder."""
    text = model_config.hf_text_config
    folder = Path(model_config.model)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return BaseModel(
        architecture=model_config.architectures[0],
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        id=folder.name if folder.is_absolute() or folder.is_dir() else model_config.model,
        revision=model_config.revision or "",
        weights=_digest(files) if files else "",
    )


def _digest(files: list[Path]) -> str:
    decoder: dict[str, Tensor] = {}
    head: Tensor | None = None
    for name, tensor in _tensors(files):
        if name in HEAD:
            head = tensor
        elif prefix := next((prefix for prefix in DECODER if name.startswith(prefix)), ""):
            inner = name.removeprefix(prefix)
            if inner.startswith(("layers.", "embed_tokens.", "norm.")):
                decoder[inner] = tensor
    if head is None:  # tied
        head = decoder.get("embed_tokens.weight")
    return "" if head is None else identity_of_tensors(decoder, {"weight": head})


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, mapped from disk and not read before somebody looks."""
    from safetensors import safe_open

    for file in files:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                yield name, opened.get_tensor(name)
