"""Names of a published checkpoint -> names of a transformers model, as a table that is checked before a tensor is read.

A rule is run on the tensors' shapes first (on PyTorch's meta device), so that missing, unexpected and mis-shaped
tensors are all listed by name before anything is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import PreparationError
from .reader import Shards

__all__ = ["Piece", "Rule", "Source", "check_fit", "drop", "pieces_of", "rename"]

Operation = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Rule:
    """Where tensors whose whole name matches `pattern` go."""

    pattern: str
    targets: tuple[str, ...]
    """One name for each tensor that `operation` answers, with the pattern's groups as \\1, \\2, ...; () = dropped."""
    operation: Operation | None = None
    """None: the tensor itself."""


def rename(pattern: str, target: str) -> Rule:
    """One tensor, one name."""
    return Rule(pattern, (target,))


def drop(pattern: str) -> Rule:
    """Tensors that the model computes itself or does not use."""
    return Rule(pattern, ())


@dataclass(frozen=True)
class Source:
    """A folder's tensors and the first-match table of what becomes of them."""

    shards: Shards
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Piece:
    """One tensor of the model: which stored tensor it comes from, and how."""

    shards: Shards
    name: str
    operation: Operation | None
    part: int
    shape: tuple[int, ...]

    def read(self, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor; floating point in `dtype`. A view of the mapped file wherever nothing had to be changed."""
        tensor = self.shards.read(self.name)
        if self.operation is not None:
            tensor = self.operation(tensor)[self.part]
        if dtype is None or not tensor.is_floating_point():
            return tensor
        rounded = tensor.to(dtype)
        if dtype == torch.float16 and tensor.dtype != dtype and bool((rounded.isinf() & tensor.isfinite()).any()):
            raise PreparationError(
                f"{self.name} holds numbers that float16, the type in the checkpoint's config, cannot hold: write the "
                f"type that it is stored in ({str(tensor.dtype).removeprefix('torch.')}) into torch_dtype there."
            )
        return rounded


def pieces_of(sources: Sequence[Source]) -> tuple[dict[str, Piece], list[str]]:
    """The model's tensors by name, and the stored names that no rule knows.

    A source further down does not replace what an earlier one gave (a tower inside the checkpoint goes before the
    tower's own folder).

    Raises:
        PreparationError: an operation does not fit a tensor's shape.
    """
    found: dict[str, Piece] = {}
    unknown = []
    for source in sources:
        own: dict[str, Piece] = {}
        for name, spec in source.shards.specs.items():
            rule, match = next(((r, m) for r in source.rules if (m := re.fullmatch(r.pattern, name))), (None, None))
            if rule is None or match is None:
                unknown.append(name)
                continue
            if not rule.targets:
                continue
            given = torch.empty(spec.shape, dtype=spec.dtype, device="meta")
            try:
                parts = [given] if rule.operation is None else list(rule.operation(given))
            except (RuntimeError, ValueError) as error:
                raise PreparationError(
                    f"{name} has shape {spec.shape}, which does not fit the model's config "
                    f"({str(error).splitlines()[0]})."
                ) from error
            for part, (target, tensor) in enumerate(zip(rule.targets, parts, strict=True)):
                own[match.expand(target)] = Piece(source.shards, name, rule.operation, part, tuple(tensor.shape))
        found = own | found
    return found, unknown


def check_fit(
    pieces: Mapping[str, Piece], wanted: Mapping[str, Tensor], unknown: Sequence[str], free: Sequence[str] = ()
) -> None:
    """Raise PreparationError, with all names, unless the pieces are exactly the model's tensors.

    Args:
        wanted: the model's state dict (meta tensors).
        unknown: stored names that no rule knows.
        free: names that may be absent because they are tied to others.
    """
    missing = sorted(set(wanted) - set(pieces) - set(free))
    unexpected = sorted([*unknown, *(f"{p.name} (as {name})" for name, p in pieces.items() if name not in wanted)])
    shapes = [
        f"{piece.name} gives {name} the shape {piece.shape}, the config says {tuple(wanted[name].shape)}"
        for name, piece in sorted(pieces.items())
        if name in wanted and tuple(wanted[name].shape) != piece.shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    problems = [f"{len(names)} {kind}:\n  " + "\n  ".join(names) for kind, names in kinds if names]
    if problems:
        raise PreparationError(
            "The checkpoint's tensors do not fit its config; nothing was loaded.\n" + "\n".join(problems)
        )
