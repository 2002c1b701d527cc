"""Fields of a file's entries by their type: what is missing or of another type is refused with its place.

`str()` of whatever a file holds would make the question 'None' of null and five people's answers of the word 'nokia'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import DataError
from ..core.record import Sample

__all__ = ["check_samples", "list_field", "object_at", "optional_text", "scalar", "text_field", "texts_field"]

ALL = "all"
EXACT = 2.0**53
"""Above it a float is not every whole number."""


def object_at(value: Any, where: str) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        DataError: it is anything else; the text begins with `where`.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is no JSON object: {str(value)[:60]!r}.")
    return value


def scalar(value: Any, key: str, where: str) -> str:
    """A text or number as text. A whole float is written as people write it, '3' and not '3.0': a column of integers
    in which some are missing is one of floats in many tables.

    Raises:
        DataError: it is anything else, or no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = "true or false" if isinstance(value, bool) else "null" if value is None else type(value).__name__
        cure = " Write 'yes' or 'no', as the model would say it." if isinstance(value, bool) else ""
        raise DataError(f"{where}: {key!r} must be text or a number, not {kind}.{cure}")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"{where}: {key!r} is {value}, which is no answer. Leave it out, or write null.")
        if value.is_integer() and abs(value) < EXACT:
            return str(int(value))
    return str(value)


def text_field(entry: Mapping[str, Any], key: str, where: str) -> str:
    """The text or number under `key`, which must be there."""
    if key not in entry:
        raise DataError(f"{where} has no {key!r}.")
    return scalar(entry[key], key, where)


def optional_text(entry: Mapping[str, Any], key: str, where: str) -> str | None:
    """The same; None where it is missing or null."""
    return None if entry.get(key) is None else scalar(entry[key], key, where)


def list_field(entry: Mapping[str, Any], key: str, where: str) -> list[Any]:
    """The list under `key`, which must be there."""
    if key not in entry:
        raise DataError(f"{where} has no {key!r}.")
    if not isinstance(entry[key], list):
        raise DataError(f"{where}: {key!r} must be a list, not {type(entry[key]).__name__}.")
    found: list[Any] = entry[key]
    return found


def texts_field(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The texts of the list under `key`; data sets hold them bare, or as objects with an 'answer'."""
    values = (item.get("answer") if isinstance(item, Mapping) else item for item in list_field(entry, key, where))
    return tuple(scalar(value, key, where) for value in values)


def check_samples(samples: Sequence[Sample], where: str) -> None:
    """What every list of questions must be: not empty, each id once, since results are kept by it, and no family of
    the name that tables give to all.

    Raises:
        DataError: it is not; the text begins with `where`.
    """
    if not samples:
        raise DataError(f"{where} holds no questions.")
    seen = set[str]()
    for sample in samples:
        if sample.family == ALL:
            raise DataError(
                f"{where}: the family of question {sample.id!r} is 'all', which is what tables call all questions "
                "together. Give it another name."
            )
        if sample.id in seen:
            raise DataError(f"{where} has two questions with the id {sample.id!r}; ids must differ.")
        seen.add(sample.id)
