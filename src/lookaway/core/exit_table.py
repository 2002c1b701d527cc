"""What every exit of every sample would cost in accuracy: made once by the engine, read by training and evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import DataError
from .files import atomic_path

__all__ = ["ExitTable", "labels"]

FORMAT = "lookaway exit table 1"


@dataclass(frozen=True, eq=False)
class ExitTable:
    """N samples x C candidate exits, all teacher-forced on the target answer and its end token."""

    layers: tuple[int, ...]
    """Candidate exits k, ascending: the visual tokens leave before decoder layer k."""
    ids: tuple[str, ...]
    """Sample ids, N of them."""
    features: Tensor  # float16 or float32 [N, C, 2D]
    """Text features of the state entering layer k of the full run: what a gate sees there."""
    loss: Tensor  # float32 [N, C]
    """Mean cross-entropy an answer token against the target, had the tokens left there."""
    full_loss: Tensor  # float32 [N]
    match: Tensor  # bool [N, C]
    """The argmax equals the target at every answer position."""
    full_match: Tensor  # bool [N]
    agree: Tensor  # bool [N, C]
    """The argmax equals the full run's argmax at every answer position."""
    target: str = "answer"
    """What was teacher-forced: 'answer' (ground truth) or 'own' (the full model's own greedy answer)."""

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.layers))
        for name in ("features", "loss", "match", "agree"):
            found = tuple(getattr(self, name).shape[:2])
            if found != shape:
                raise DataError(f"Exit table: {name} is {found}, but there are {shape[0]} ids and {shape[1]} layers.")

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, samples: Tensor | Sequence[int]) -> ExitTable:
        """The samples of a bool mask [N] or at integer indices."""
        index = torch.as_tensor(samples)
        index = index.nonzero().flatten() if index.dtype == torch.bool else index.long()
        rows: dict[str, Any] = {name: getattr(self, name)[index] for name in _TENSORS}
        return replace(self, ids=tuple(self.ids[i] for i in index.tolist()), **rows)

    def at_layers(self, layers: Sequence[int]) -> ExitTable:
        """Only these candidate exits, ascending."""
        missing = [layer for layer in layers if layer not in self.layers]
        if missing:
            raise DataError(f"The exit table has layers {list(self.layers)}, not {missing}.")
        kept = [self.layers.index(layer) for layer in sorted(layers)]
        columns: dict[str, Any] = {
            name: getattr(self, name)[:, kept] for name in ("features", "loss", "match", "agree")
        }
        return replace(self, layers=tuple(sorted(layers)), **columns)

    @classmethod
    def concat(cls, tables: Sequence[ExitTable]) -> ExitTable:
        """All samples of several tables over the same layers and kind of target."""
        if not tables:
            raise DataError("There is no exit table to join.")
        first = tables[0]
        for table in tables[1:]:
            if (table.layers, table.target) != (first.layers, first.target):
                raise DataError(
                    f"Exit tables over layers {first.layers} (target {first.target}) and {table.layers} (target "
                    f"{table.target}) cannot be joined."
                )
        joined: dict[str, Any] = {name: torch.cat([getattr(table, name) for table in tables]) for name in _TENSORS}
        return replace(first, ids=tuple(i for table in tables for i in table.ids), **joined)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, atomically."""
        from safetensors.torch import save_file

        about = {"layers": list(self.layers), "ids": list(self.ids), "target": self.target}
        tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in _TENSORS}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"format": FORMAT, "about": json.dumps(about)})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> ExitTable:
        """Read what `save` wrote.

        Raises:
            DataError: there is no such file, or it is damaged or no exit table.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise DataError(f"{path} is no exit table of this version. Make it again.")
                about = json.loads(metadata["about"])
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except FileNotFoundError:
            raise DataError(f"There is no exit table {str(path)!r}.") from None
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise DataError(f"The exit table {str(path)!r} is damaged ({error}). Delete it and run again.") from error
        return cls(layers=tuple(about["layers"]), ids=tuple(about["ids"]), target=about["target"], **tensors)


_TENSORS = tuple(field.name for field in fields(ExitTable) if field.name not in ("layers", "ids", "target"))


def labels(table: ExitTable, relative: float = 1.03, absolute: float = 0.0, require_agreement: bool = True) -> Tensor:
    """Where an exit is good: bool [N, C].

    The published criterion (DyVTE, arXiv 2411.19628): the answer's tokens are those of the full run, and the loss is at
    most `relative` times the full run's. `absolute` is added to that: a purely relative bound is too strict where
    losses are tiny.
    """
    good = table.loss <= relative * table.full_loss[:, None] + absolute
    return good & table.agree if require_agreement else good
