"""Tables of questions: CSV, parquet with its images inside, and data sets that the package `datasets` saved to disk.

Images that lie inside a table are written once to the cache, named by their content, and the sample gets the path: so
memory holds one picture at a time, and a changed picture never goes by an old one's name.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import DataError, MissingDependency
from ..core.files import atomic_path, cache_root
from .tables import read_text

__all__ = ["TABLES", "is_saved_dataset", "rows", "stored_name"]

TABLES = (".parquet", ".csv", ".tsv")
SAVED = ("state.json", "dataset_dict.json")
PICTURES = ("image", "images")
BATCH = 64


def is_saved_dataset(folder: Path) -> bool:
    """Was this folder written by `Dataset.save_to_disk`?"""
    return any((folder / name).is_file() for name in SAVED)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table file, of all parquet files of a folder, or of a saved data set; images as paths.

    An empty field of a CSV file, like a null of the other forms, is left out; all other CSV fields are text.

    Raises:
        MissingDependency: `datasets` (with `pyarrow`) is not installed.
        DataError: the file is damaged, or a saved data set has several splits.
    """
    if path.suffix in (".csv", ".tsv"):
        yield from _csv_rows(path)
        return
    try:
        for number, row in enumerate(_arrow_rows(path), 1):
            found = {name: value for name, value in row.items() if value is not None}
            for name in PICTURES:
                if name in found:
                    value, where = found[name], f"{path}, row {number}, column {name!r}"
                    found[name] = (
                        [_stored(v, where) for v in value] if isinstance(value, list) else _stored(value, where)
                    )
            yield found
    except ImportError:
        raise MissingDependency.of("datasets", "data") from None


def stored_name(name: str) -> str:
    """The digest of a picture that came from inside a table; any other name as it stands."""
    return Path(name).name if Path(name).parent == cache_root() / "images" else name


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(read_text(path)), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}, line {reader.line_num} has another number of fields than the first line. Put fields with "
                    "commas or line breaks in double quotes."
                )
            yield {name: value for name, value in row.items() if value != ""}
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} is not valid CSV: {error}.") from error


def _arrow_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows as plain values, pictures undecoded: {'bytes': ..., 'path': ...}."""
    import pyarrow
    import pyarrow.parquet

    try:
        if path.is_dir() and is_saved_dataset(path):
            from datasets import DatasetDict, load_from_disk

            table = load_from_disk(str(path))
            if isinstance(table, DatasetDict):
                names = ", ".join(str(path / name) for name in table)
                raise DataError(f"{path} holds several splits. Name one: {names}.")
            for batch in table.with_format("arrow").iter(BATCH):
                yield from batch.to_pylist()
            return
        for file in [path] if path.is_file() else sorted(path.glob("*.parquet")):
            with pyarrow.parquet.ParquetFile(file) as opened:
                for batch in opened.iter_batches(BATCH):
                    yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, FileNotFoundError) as error:
        raise DataError(f"{path} cannot be read as a table: {' '.join(str(error).split())[:300]}.") from error


def _stored(value: Any, where: str) -> str | None:
    """The path of a picture; bytes are written to the cache under their own digest."""
    if isinstance(value, bytes):
        value = {"bytes": value}
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, dict) or not {"bytes", "path"} & value.keys():
        raise DataError(f"{where} holds {type(value).__name__}; a picture is a path, or bytes as {{'bytes': ...}}.")
    data = value.get("bytes")
    if not data:
        return value.get("path")
    file = cache_root() / "images" / hashlib.sha256(data).hexdigest()
    if not file.exists():
        with atomic_path(file) as temporary:
            temporary.write_bytes(data)
    return str(file)
