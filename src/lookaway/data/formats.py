"""A user's own questions, from the file or folder that holds them. See docs/data.md."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.record import Sample
from . import tabular
from .entries import sample_of
from .fields import check_samples
from .pictures import pictures_in, read_pictures
from .tables import json_lines, read_json

__all__ = ["read_samples", "split_of"]

JSON = (".json", ".jsonl")


def read_samples(path: str | Path) -> list[Sample]:
    """All samples of a file or folder.

    Args:
        path: a `.json` or `.jsonl` file; a `.parquet`, `.csv` or `.tsv` table; or a folder with one of these, with
            parquet files of one table, or written by `Dataset.save_to_disk`; or a folder of nothing but pictures,
            about which generic prompts are asked (`pictures.PROMPTS`).

    Raises:
        DataError: the file is missing, damaged, empty or in no known format, an id stands twice, or a sample's images
            and placeholders differ in number; the text names file, entry and cure.
    """
    if Path(path).is_dir() and (pictures := _pictures_alone(Path(path))):
        return read_pictures(Path(path), pictures)
    source = _source(Path(path))
    folder = source if source.is_dir() else source.parent
    samples: list[Sample] = []
    seen: dict[str, str] = {}
    for place, number, entry in _entries(source):
        where = f"{source}, {place} {number}"
        sample = sample_of(entry, number, folder, where)
        if place == "row":
            names = tuple(map(tabular.stored_name, sample.meta["image_names"]))
            sample = replace(sample, meta={**sample.meta, "image_names": names})
        if sample.id in seen:
            raise DataError(f"{where} has the id {sample.id!r} of {seen[sample.id]}; ids must differ.")
        seen[sample.id] = f"{place} {number}"
        samples.append(sample)
    if not samples:
        raise DataError(f"{source} holds no samples.")
    check_samples(samples, str(source))
    return samples


def split_of(sample: Sample) -> str:
    """'train', 'calibration' or 'test' (60 / 20 / 20) by a stable hash of the images' names as the file gives them.

    So one picture is never in two of them, wherever the folder lies. A picture inside a table goes by its content's
    digest. Samples without an image go by their question.
    """
    key = "|".join(sample.meta.get("image_names", ())) or sample.question
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    return "train" if bucket < 60 else "calibration" if bucket < 80 else "test"


def _pictures_alone(folder: Path) -> list[Path]:
    """The pictures of a folder that has no file of questions; empty where it has one."""
    if tabular.is_saved_dataset(folder) or any(p.suffix in (*JSON, *tabular.TABLES) for p in folder.iterdir()):
        return []
    return pictures_in(folder)


def _source(path: Path) -> Path:
    """The file to read, or the folder where all of it is one table."""
    if path.is_dir():
        if tabular.is_saved_dataset(path):
            return path
        found = sorted(p for p in path.iterdir() if p.suffix in (*JSON, *tabular.TABLES))
        if found and all(p.suffix == ".parquet" for p in found):
            return path
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "none"
            raise DataError(
                f"{path} must hold one .json, .jsonl, .csv or .parquet file of samples; found {names}. Name the file, "
                "or write a metadata.jsonl with 'file_name', 'question' and 'answer' beside the pictures."
            )
        return found[0]
    if not path.exists():
        raise DataError(
            f"No data at {path}. Give a file (.json, .jsonl, .parquet, .csv), a folder, or one of: mini, scenes, "
            "easy-vqa, mini-hard, mini:crowded, mini:photo, mini:whole."
        )
    if path.suffix not in (*JSON, *tabular.TABLES):
        raise DataError(f"{path} is neither .json nor .jsonl, nor a table ({', '.join(tabular.TABLES)}).")
    return path


def _entries(source: Path) -> Iterator[tuple[str, int, Any]]:
    """(what a place is called, number from 1, entry)."""
    if source.suffix == ".jsonl":
        for number, entry in json_lines(source):
            yield "line", number, entry
    elif source.suffix == ".json":
        for number, entry in enumerate(read_json(source, list), 1):
            yield "entry", number, entry
    else:
        for number, entry in enumerate(tabular.rows(source), 1):
            yield "row", number, entry
