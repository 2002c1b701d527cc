"""Settings read from a file, held against what a class takes: one clear line for a wrong type, key or missing value."""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import SettingsError

__all__ = ["check_settings"]


PLAIN = (int, float, bool, str, types.NoneType)


def check_settings(takes: Callable[..., Any], values: Mapping[str, Any], complete: bool = True) -> None:
    """Refuse values from JSON or YAML that `takes` (a class) is not made for.

    Args:
        takes: its annotations say which types; those that are no plain JSON values are not checked.
        values: name -> value.
        complete: also refuse names that it does not know, and missing ones.

    Raises:
        SettingsError: the text names the key, its value and the cure.
    """
    parameters = dict(inspect.signature(takes).parameters)
    known = [name for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    try:
        hints = get_type_hints(getattr(takes, "__init__") if isinstance(takes, type) else takes)  # noqa: B009
    except NameError:  # an annotation that exists for type checkers only
        hints = {}
    if complete and len(known) == len(parameters):
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise SettingsError(f"there is no setting {name!r}.{hint} Known: {', '.join(known) or 'none'}.")
        for name in known:
            if name not in values and parameters[name].default is inspect.Parameter.empty:
                raise SettingsError(f"the setting {name!r} is missing. Add it ({_words(hints.get(name, Any))}).")
    for name, value in values.items():
        if name in hints and not _fits(value, hints[name]):
            raise SettingsError(
                f"{name!r} is {value!r}, but must be {_words(hints[name])}. {_cure(value, hints[name])}"
            )


def _fits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(kind))
    if origin is Literal:
        return value in get_args(kind)
    if kind in (None, types.NoneType):
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    if origin is tuple or (isinstance(origin, type) and issubclass(origin, Sequence)):
        parts = [part for part in get_args(kind) if part is not Ellipsis]
        if any(isinstance(part, type) and part not in PLAIN for part in parts):
            return True  # of objects, which the class makes itself
        return isinstance(value, list | tuple) and all(any(_fits(v, part) for part in parts) for v in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    return True


def _words(kind: Any) -> str:
    origin, names = get_origin(kind), {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(part) for part in get_args(kind)))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if kind in (None, types.NoneType):
        return "null"
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list ({_words(next(iter(get_args(kind)), Any))} each)"
    return names.get(kind, getattr(kind, "__name__", "a value"))


def _cure(value: Any, kind: Any) -> str:
    if isinstance(value, float) and value.is_integer() and _fits(int(value), kind):
        return f"Write {int(value)}."
    if isinstance(value, str):
        for number in (int, float):
            try:
                if _fits(number(value), kind):
                    return f"Write {value} without quotes."
            except ValueError:
                pass
    return "Correct it in the file."
