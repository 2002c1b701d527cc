"""Reading the JSON files of public data sets; what is wrong is named with its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..core.errors import DataError

__all__ = ["read_json", "read_json_lines"]


def read_json(file: Path, form: type) -> Any:
    """A JSON file whose outermost value is of type `form`.

    Raises:
        DataError: it is missing, damaged or of another form.
    """
    value = _decoded(_text(file), str(file))
    if not isinstance(value, form):
        raise DataError(f"{file} must hold a JSON {form.__name__}, not {type(value).__name__}.")
    return value


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """One JSON object a line; empty lines do not count.

    Raises:
        DataError: the file is missing, or a line is no JSON object; the text names it.
    """
    found = []
    for number, line in enumerate(_text(file).split("\n"), 1):
        if line.strip():
            value = _decoded(line, f"{file}, line {number}")
            if not isinstance(value, dict):
                raise DataError(f"{file}, line {number} is no JSON object: {line[:60]!r}.")
            found.append(value)
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"There is no file {file}. docs/data.md shows the layout that is expected.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {file}: {error}.") from error


def _decoded(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not valid JSON: {error}.") from error
