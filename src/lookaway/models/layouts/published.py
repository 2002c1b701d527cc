"""Reading other people's checkpoints, without running what they pickled, and naming what does not fit."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import DataError

__all__ = ["check_names", "read_published"]


def read_published(checkpoint: str | Path | Mapping[str, Any], key: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint.

    Args:
        checkpoint: a `.pth`, `.ckpt`, `.bin` or `.safetensors` file, or what is in it.
        key: entry that holds the tensors ('model', 'state_dict'), where there is one.

    Raises:
        DataError: the file is missing, damaged, holds code to run, or no tensors.
    """
    document = _read(Path(checkpoint)) if isinstance(checkpoint, str | Path) else checkpoint
    state = document.get(key, document)
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise DataError(f"The checkpoint holds no tensors under {key!r}; it has {', '.join(map(str, document))[:200]}.")
    return tensors


def check_names(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Raise DataError unless both have the same names and shapes; the text names the first that differ."""
    missing, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing or extra:
        parts = [
            f"{len(names)} {kind} (first: {names[0]})"
            for kind, names in (("missing", missing), ("left over", extra))
            if names
        ]
        raise DataError(f"The checkpoint does not fit {what}: {', '.join(parts)}. Check the model's config.")
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise DataError(
                f"{name} is {tuple(given[name].shape)} in the checkpoint and {tuple(tensor.shape)} in the model."
            )


def _read(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"There is no checkpoint {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # the run's own options, plain values
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds more than tensors and plain values ({str(error).splitlines()[0]}); lookaway runs no code "
            "from a checkpoint. Save its tensors again, e.g. as safetensors, where you trust it."
        ) from error
    except Exception as error:  # torch, zipfile and safetensors each have their own
        raise DataError(f"{path} cannot be read as a checkpoint ({error}). Copy or download it again.") from error
