"""A published checkpoint -> an ordinary transformers folder: atomic, resumable, and the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.errors import PreparationError
from ...core.files import atomic_path, write_json
from .plan import Plan, checked_pieces, in_file_order

__all__ = ["convert"]

LARGEST = 5_000_000_000


def convert(plan: Plan, target: str | Path, report: Callable[[int, int], None] | None = None) -> Path:
    """Write the plan's model as safetensors shards, config, generation config, processor and chat template.

    The work goes on in a hidden folder beside `target`, shard by shard, and becomes `target` at the end; a run that
    was interrupted goes on from the last whole shard. A shard holds at most half of the largest source file, and so
    does what is mapped of the source meanwhile: together they stay below 1.2 x that file.

    Args:
        report: called with (shards done, shards in all).

    Raises:
        PreparationError: `target` is there already, or a tensor does not fit.
        LookawayError: the disk is full or the folder cannot be written.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PreparationError(f"{target} exists already. Choose another folder, or remove it first.")
    pieces, wanted = checked_pieces(plan)
    shards = _grouped(in_file_order(wanted_only(pieces, wanted)), wanted, plan.largest_shard // 2)
    work = target.parent / f".{target.name}.partial"
    _begin(work, _key(plan, wanted))
    weight_map, total = {}, 0
    for number, names in enumerate(shards, 1):
        file = work / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        if not file.exists():
            _write(file, {name: pieces[name].read(plan.dtype) for name in names})
            for source in plan.sources:  # what was read of it leaves this process's memory
                source.shards.close()
        weight_map.update(dict.fromkeys(names, file.name))
        total += sum(_bytes(wanted[name]) for name in names)
        if report:
            report(number, len(shards))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(work / "model.safetensors.index.json", index)
    plan.config.save_pretrained(work)
    plan.generation.save_pretrained(work)
    plan.processor.save_pretrained(work)
    (work / KEY).unlink()
    if target.exists():
        target.rmdir()  # an empty folder, as checked above
    os.replace(work, target)
    return target


def wanted_only(pieces: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> dict[str, Any]:
    """The pieces that the model has a place for."""
    return {name: piece for name, piece in pieces.items() if name in wanted}


KEY = "lookaway-conversion.json"


def _begin(work: Path, key: dict[str, Any]) -> None:
    """Keep what an interrupted run of the same conversion left, and nothing of any other."""
    try:
        same = json.loads((work / KEY).read_text(encoding="utf-8")) == key
    except (OSError, ValueError):
        same = False
    if not same and work.exists():
        shutil.rmtree(work)
    write_json(work / KEY, key)


def _key(plan: Plan, wanted: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the written shards depend on: the source files as they lie there, the names, the type, the library."""
    from ... import __version__

    files = sorted({file for source in plan.sources for file in source.shards.files})
    names = [(name, list(tensor.shape)) for name, tensor in sorted(wanted.items())]
    return {
        "lookaway": __version__,
        "layout": plan.layout,
        "dtype": str(plan.dtype),
        "files": [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files],
        "tensors": hashlib.sha256(json.dumps(names).encode()).hexdigest(),
    }


def _grouped(names: list[str], wanted: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    """Names in runs of at most `limit` bytes, or one tensor where that alone is larger."""
    limit = min(max(limit, 1), LARGEST)
    groups: list[list[str]] = []
    size = limit
    for name in names:
        count = _bytes(wanted[name])
        if size + count > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += count
    return groups


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with atomic_path(file) as temporary:
        # clone: parts of one stored matrix share its memory, which safetensors refuses
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, temporary, {"format": "pt"})
