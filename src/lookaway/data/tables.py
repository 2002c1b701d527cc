"""Reading JSON files of data sets; what is wrong is named with its file and line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from ..core.errors import DataError

__all__ = ["json_lines", "parse_json", "read_json", "read_json_lines", "read_text"]


def read_json(file: Path, form: type) -> Any:
    """A JSON file whose outermost value is of type `form`.

    Raises:
        DataError: it is missing, damaged or of another form.
    """
    value = parse_json(read_text(file), str(file))
    if not isinstance(value, form):
        raise DataError(f"{file} must hold a JSON {form.__name__}, not {type(value).__name__}.")
    return value


def read_json_lines(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line number from 1, JSON object) of every line that is not empty.

    Raises:
        DataError: the file is missing, or a line is no JSON object; the text names it.
    """
    found = []
    for number, value in json_lines(file):
        if not isinstance(value, dict):
            raise DataError(f"{file}, line {number} is no JSON object: {str(value)[:60]!r}.")
        found.append((number, value))
    return found


def json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, JSON value) of every line that is not empty."""
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            yield number, parse_json(line, f"{file}, line {number}")


def read_text(file: Path) -> str:
    """A text file in UTF-8, a byte-order mark at its beginning left out.

    Raises:
        DataError: it is missing or cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"There is no file {file}. docs/data.md shows the layout that is expected.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"Cannot read {file}: {error}.") from error


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text.

    Raises:
        DataError: it is no JSON, or holds what no record can keep: NaN, numbers of thousands of digits, nesting of
            thousands of levels, half a surrogate pair. The text begins with `where`.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not valid JSON: {error}.") from error
    except RecursionError:
        raise DataError(f"{where} is nested too deeply; a sample needs a handful of levels.") from None
    except ValueError as error:
        reason = "a number has too many digits; write it as a string" if "digits" in str(error) else error
        raise DataError(f"{where} cannot be read: {reason}.") from error
    if _ESCAPED.search(text) and (odd := _surrogate(value)) is not None:
        raise DataError(
            f"{where} holds half a surrogate pair in {odd!a}, which is no character and cannot be stored. Write the "
            "character itself, in UTF-8."
        )
    return value


_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON; write a number, a string or null")


def _surrogate(value: Any) -> str | None:
    """The first string among the value's that UTF-8 cannot hold."""
    if isinstance(value, str):
        return value[:40] if any("\ud800" <= character <= "\udfff" for character in value) else None
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return next((odd for odd in map(_surrogate, inner) if odd is not None), None)
