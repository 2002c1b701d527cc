"""One source for flag, YAML key and help: a typed dataclass whose fields carry docstrings becomes a command."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
import types
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
import yaml

from ..core.errors import DataError
from .progress import at_work

__all__ = [
    "ADVANCED", "FIRST", "PANELS", "AnsweredNo", "argument", "build_command", "field_help", "from_mapping",
    "load_config", "panel_of", "shown_order",
]  # fmt: skip

REQUIRED = dataclasses.MISSING
WAITING = ("serve",)
"""Commands that wait for others to ask them something: they are silent until then."""

FIRST = (
    "model", "records", "policy", "exit_at", "after", "skip_from", "image", "data", "split", "limit", "test_data",
    "test_split", "test_limit", "out",
)  # fmt: skip
"""Options that --help shows first, in this order: which model and policy, on which data, and where the result goes."""
ADVANCED = frozenset({
    "accumulate", "allow_other_model", "attention", "batch_size", "beta2", "bf16", "cache", "checkpointing",
    "conversation", "device", "dtype", "features", "fresh", "label_batch", "lease", "memory", "reward_batch",
    "save_steps", "seed", "storage", "threads", "vision_tower", "warmup", "weight_decay",
})  # fmt: skip
"""Options that --help shows last: how a job runs here, and what few ever change. All others are the command's own."""
PANELS = ("Options", "Settings", "Advanced")
"""Titles of the three groups of options. The first is typer's own, which it prints first whatever comes."""


def panel_of(name: str) -> str:
    """The group of an option (a field's name)."""
    return PANELS[0] if name in FIRST else PANELS[2] if name in ADVANCED else PANELS[1]


def shown_order(cls: type) -> list[dataclasses.Field[Any]]:
    """The fields of an options class as --help shows them: positional arguments, then the three groups."""

    def place(field: dataclasses.Field[Any]) -> tuple[bool, int, int]:
        first = FIRST.index(field.name) if field.name in FIRST else int(field.name != "method")
        return not field.metadata.get("argument"), PANELS.index(panel_of(field.name)), first

    return sorted(dataclasses.fields(cls), key=place)


def argument() -> Any:
    """A dataclass field that is a positional argument on the command line.

    One that may be left out is `field(default=None, metadata={"argument": True})`.
    """
    return dataclasses.field(metadata={"argument": True})


@cache
def field_help(cls: type) -> dict[str, str]:
    """The docstring under each field, base classes included."""
    found: dict[str, str] = {}
    for owner in reversed([c for c in cls.__mro__ if dataclasses.is_dataclass(c)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, [*body.body[1:], None], strict=True):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[node.target.id] = inspect.cleandoc(str(after.value.value))
    return found


def load_config(path: str | Path, cls: type) -> dict[str, Any]:
    """Read a YAML file of options for `cls`; keys are field names ('-' may stand for '_').

    Raises:
        DataError: the file is missing or no mapping, or a key is unknown; the text names the known keys.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"Cannot read the config {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} must map option names to values.")
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    known = [field.name for field in dataclasses.fields(cls)]
    unknown = [key for key in values if key not in known]
    if unknown:
        raise DataError(f"{path}: unknown option {unknown[0]!r}. Known: {', '.join(sorted(known))}.")
    return values


POSITIVE = ("batch_size", "batch_sizes", "label_batch", "max_new_tokens", "new_tokens", "reward_batch")
"""Counts that mean nothing below 1, in every command."""
NOT_NEGATIVE = ("held_out", "pictures")


def from_mapping(cls: type, values: dict[str, Any]) -> Any:
    """Build the dataclass from plain values (YAML, command line), converting to the fields' types."""
    hints = get_type_hints(cls)
    converted = {}
    for name, value in values.items():
        try:
            converted[name] = _convert(value, hints[name])
        except (TypeError, ValueError):
            raise DataError(f"Option {name!r}: {value!r} is not of type {_type_name(hints[name])}.") from None
        if isinstance(converted[name], float) and not math.isfinite(converted[name]):
            raise DataError(f"--{name.replace('_', '-')} must be a number, not {value}.")
        if name in NOT_NEGATIVE and converted[name] < 0:
            raise DataError(f"--{name.replace('_', '-')} must be at least 0, not {value}.")
        counts = converted[name] if isinstance(converted[name], tuple) else (converted[name],)
        for count in counts if name in POSITIVE else ():
            if isinstance(count, int) and count < 1:
                raise DataError(f"--{name.replace('_', '-')} must be at least 1, not {count}.")
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.name not in converted and field.default is REQUIRED and field.default_factory is REQUIRED
    ]
    if missing:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise DataError(f"Missing option: {flags} (or the key in --config).")
    try:
        return cls(**converted)
    except (TypeError, ValueError) as error:
        raise DataError(str(error)) from error


class AnsweredNo(dict[str, Any]):
    """What a command found where the answer to its question is no: put out like any other, with exit status 1."""


def build_command(name: str, cls: type, run: Callable[[Any], Any], finish: Callable[[Any, Path | None], None]) -> Any:
    """A typer command `name`: flags from `cls`, plus --config and --json; flags win over YAML, YAML over defaults.

    `run(options)` does the job and returns plain values; `finish(values, json_path)` puts them out.
    """
    hints, help_texts = get_type_hints(cls), field_help(cls)
    parameters = []
    for field in shown_order(cls):
        kind, text = _cli_type(hints[field.name]), help_texts.get(field.name, "")
        if field.metadata.get("argument"):
            needed = field.default is REQUIRED
            annotation: Any = Annotated[kind if needed else kind | None, typer.Argument(help=text, show_default=False)]
            parameters.append(_parameter(field.name, annotation, inspect.Parameter.empty if needed else None))
            continue
        shown = _default(field, kind)  # in the text: typer puts a default that it is told in brackets of its own
        text = f"{text} [{shown}]".strip() if shown else text
        flag = f"--{field.name.replace('_', '-')}"
        flags = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
        option = typer.Option(flags, help=text, show_default=False, rich_help_panel=panel_of(field.name))
        annotation = Annotated[kind | None, option]
        parameters.append(_parameter(field.name, annotation, None))
    config_option = typer.Option("--config", help="YAML file whose keys are these options.", show_default=False)
    parameters.append(_parameter("config_", Annotated[Path | None, config_option], None))
    json_option = typer.Option("--json", help="Write the table's numbers to this file.", show_default=False)
    parameters.append(_parameter("json_", Annotated[Path | None, json_option], None))

    def command(**flags: Any) -> None:
        config, json_path = flags.pop("config_"), flags.pop("json_")
        values = load_config(config, cls) if config else {}
        values.update({key: value for key, value in flags.items() if value is not None})
        with nullcontext() if name in WAITING else at_work(f"lookaway {name}"):
            found = run(from_mapping(cls, values))
            finish(found, json_path)
        if isinstance(found, AnsweredNo):
            raise typer.Exit(1)

    command.__doc__ = inspect.cleandoc(cls.__doc__ or "")
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command(name)(command)
    return typer.main.get_command(app)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _default(field: dataclasses.Field[Any], kind: Any) -> str:
    """What --help says of an option that is left out; nothing where its text says it."""
    value = field.default_factory() if field.default_factory is not REQUIRED else field.default
    if value is REQUIRED:
        return "required"
    if value is None or value == () or value == "":
        return ""
    if kind is bool:
        return f"default: {'on' if value else 'off'}"
    several = value if isinstance(value, tuple | list) else (value,)
    return f"default: {', '.join(map(str, several))}"


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _cli_type(kind: Any) -> Any:
    """The type that typer parses: optional types lose their None, tuples become repeated options."""
    if _is_union(kind):
        return _cli_type(next(part for part in get_args(kind) if part is not types.NoneType))
    if get_origin(kind) in (tuple, list):
        return list[get_args(kind)[0]]  # type: ignore[misc]
    return kind


def _convert(value: Any, kind: Any) -> Any:
    if _is_union(kind):
        if value is None:
            return None
        return _convert(value, next(part for part in get_args(kind) if part is not types.NoneType))
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            raise ValueError(value)
        return value
    if origin in (tuple, list):
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_convert(item, get_args(kind)[0]) for item in items)
    if kind is bool:
        if not isinstance(value, bool):
            raise TypeError(value)
        return value
    if kind is int and (isinstance(value, bool) or int(value) != float(value)):
        raise TypeError(value)
    if value is None:
        raise TypeError(value)
    return kind(value) if kind in (int, float, str, Path) else value


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    return getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)
