"""The tensors of a checkpoint folder: known by name and shape at once, read one at a time, never by running code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from ...core.errors import PreparationError

__all__ = ["Shards", "Spec", "weight_files"]

NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Weights or their index; the first that is there has it, as in transformers."""


@dataclass(frozen=True)
class Spec:
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, in the order of their names; empty where it has none.

    Raises:
        PreparationError: the index names files that are not there, or the index cannot be read.
    """
    name = next((name for name in NAMES if (folder / name).is_file()), None)
    if name is None:
        return sorted(folder.glob("model-*-of-*.safetensors")) or sorted(folder.glob("pytorch_model-*-of-*.bin"))
    return _indexed(folder, folder / name) if name.endswith(".json") else [folder / name]


def _indexed(folder: Path, index: Path) -> list[Path]:
    """The files that an index names. They lie in its folder: a name that leads elsewhere is not followed."""
    try:
        wanted = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise PreparationError(f"{index} cannot be read ({error}). Copy or download it again.") from error
    wrong = [file for file in wanted if not isinstance(file, str) or file != PurePath(file).name or file == ".."]
    if wrong or not wanted:
        found = f"names {wrong[0]!r}, which is no file of its own folder" if wrong else "names no weight file"
        raise PreparationError(f"{index} {found}. Copy or download it again.")
    absent = [file for file in wanted if not (folder / file).is_file()]
    if absent:
        raise PreparationError(
            f"{folder} is not complete: {len(absent)} of {len(wanted)} weight files are missing "
            f"({', '.join(absent[:5])}). Download them into this folder."
        )
    return [folder / file for file in wanted]


class Shards:
    """The tensors of one folder.

    Shapes come from the files' headers; a tensor's bytes are mapped from the disk and read when it is used. Files in
    the old format of torch.save (before 1.6) cannot be mapped: such a file is read whole.

    Raises:
        PreparationError: a file is missing, cut short, only a pointer to a file, or holds more than tensors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = weight_files(folder)
        self.specs: dict[str, Spec] = {}
        for file in self.files:
            with _readable(file):
                found = _header(file)
            twice = next((name for name in found if name in self.specs), None)
            if twice is not None:
                raise PreparationError(
                    f"{twice} is in two weight files, {self.specs[twice].file} and {file.name}: which one holds? "
                    "Remove the files that are not the checkpoint's."
                )
            self.specs.update({name: Spec(shape, dtype, file) for name, (shape, dtype) in found.items()})
        self._open: tuple[Path, Any] | None = None

    @property
    def largest(self) -> int:
        """Bytes of the largest weight file."""
        return max((file.stat().st_size for file in self.files), default=0)

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU, as it is stored. Read names of one file together: only one file is open at a time."""
        file = self.specs[name].file
        if self._open is None or self._open[0] != file:
            self.close()
            with _readable(file):
                self._open = (file, _Safetensors(file) if file.suffix == ".safetensors" else _load(file))
        opened = self._open
        assert opened is not None
        with _readable(file):
            tensor: Tensor = opened[1][name]
        return tensor

    def close(self) -> None:
        """Let go of the open file; tensors that were read keep it mapped while they live."""
        self._open = None


class _Safetensors:
    def __init__(self, file: Path) -> None:
        from safetensors import safe_open

        self._file = safe_open(file, framework="pt", device="cpu")

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


def _header(file: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    if file.suffix == ".safetensors":
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > file.stat().st_size:
                raise ValueError("its header is cut short")
            header = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if file.stat().st_size != 8 + size + end:
            raise ValueError(f"it has {file.stat().st_size} bytes, its header says {8 + size + end}")
        return {name: (tuple(entry["shape"]), DTYPES[entry["dtype"]]) for name, entry in header.items()}
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in _load(file).items()}


def _load(file: Path) -> dict[str, Tensor]:
    """A `.bin` file: its pickle may hold tensors and plain values only."""
    import zipfile

    mapped = zipfile.is_zipfile(file)
    document = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    document = document.get("state_dict", document)
    return {str(name): value for name, value in document.items() if isinstance(value, Tensor)}


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turns what torch, zipfile and safetensors raise into one error each for code, pointers and damage."""
    try:
        yield
    except pickle.UnpicklingError as error:
        if _is_pointer(file):
            raise PreparationError(_POINTER.format(file=file)) from error
        raise PreparationError(
            f"{file} holds more than tensors and plain values ({str(error).splitlines()[0]}). lookaway runs no code "
            "from a checkpoint: save its tensors again as safetensors where you trust it."
        ) from error
    except Exception as error:
        if _is_pointer(file):
            raise PreparationError(_POINTER.format(file=file)) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PreparationError(
            f"{file} cannot be read as a weight file ({reason}). It is damaged or only half downloaded: copy or "
            "download it again."
        ) from error


def _is_pointer(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(len(LFS)) == LFS


LFS = b"version https://git-lfs"
_POINTER = "{file} is only Git LFS's pointer to the weights. Run `git lfs pull` in its folder, or download the file."
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
