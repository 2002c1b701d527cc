"""A dataclass is the one source for flag, YAML key and help."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from typer.testing import CliRunner

from lookaway.cli import app as cli_app
from lookaway.cli.options import (
    ADVANCED,
    FIRST,
    PANELS,
    argument,
    build_command,
    field_help,
    from_mapping,
    load_config,
)
from lookaway.core.errors import DataError, LookawayError


@dataclass(frozen=True, kw_only=True)
class Base:
    """Base options."""

    rate: float = 0.5
    """Learning rate."""


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """What the command does."""

    name: str = argument()
    """Who."""
    mode: Literal["fast", "slow"] = "fast"
    """How."""
    layers: tuple[int, ...] = ()
    """Which."""
    limit: int | None = None
    """How many."""
    shared: bool = True
    """Shared or not."""
    out: Path = Path("out")
    """Where."""

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"--rate must be above 0, not {self.rate}")


def call(*arguments):
    seen = {}

    def run(options):
        seen["options"] = options
        return {"rate": options.rate}

    def finish(values, path):
        seen["values"], seen["path"] = values, path

    command = build_command("do", Options, run, finish)
    command(list(arguments), standalone_mode=False)
    return seen


def test_defaults_flags_and_arguments():
    options = call("me", "--layers", "1", "--layers", "2", "--no-shared", "--limit", "3", "--mode", "slow")["options"]
    assert options == Options(name="me", mode="slow", layers=(1, 2), limit=3, shared=False)


def test_flags_win_over_yaml_and_yaml_over_defaults(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("rate: 0.25\nlimit: 7\nout: elsewhere\n")
    options = call("me", "--config", str(config), "--limit", "9")["options"]
    assert (options.rate, options.limit, options.out) == (0.25, 9, Path("elsewhere"))


def test_help_comes_from_the_docstrings_under_the_fields():
    assert field_help(Options)["rate"] == "Learning rate."
    assert field_help(Options)["limit"] == "How many."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rat: 1", "unknown option 'rat'.*rate"),
        ("- 1", "must map option names"),
        ("rate: [", "not valid YAML"),
    ],
)
def test_bad_yaml_is_named(tmp_path, text, message):
    config = tmp_path / "c.yaml"
    config.write_text(text)
    with pytest.raises(DataError, match=message):
        load_config(config, Options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "rate": "much"}, "'rate': 'much' is not of type float"),
        ({"name": "x", "limit": 1.5}, "'limit': 1.5"),
        ({"name": "x", "shared": 1}, "'shared': 1 is not of type bool"),
        ({"name": "x", "mode": "medium"}, "one of 'fast', 'slow'"),
        ({"name": "x", "rate": -1}, "--rate must be above 0"),
        ({}, "Missing option: --name"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(DataError, match=message):
        from_mapping(Options, values)


def test_every_command_has_a_module_with_options_that_explain_themselves():
    import importlib

    for name in cli_app.COMMANDS:
        module = importlib.import_module(f"lookaway.cli.{name}")
        assert callable(module.run), name
        described = field_help(module.Options)
        silent = [f.name for f in dataclasses.fields(module.Options) if not described.get(f.name)]
        assert not silent, f"{name}: no docstring under {silent}"


def options_classes():
    import importlib

    for name in cli_app.COMMANDS:
        module = importlib.import_module(f"lookaway.cli.{name}")
        yield name, module
        for method, other in getattr(module, "METHODS", {}).items():
            yield f"{name} --method {method}", importlib.import_module(other)


@pytest.mark.parametrize(("name", "module"), options_classes(), ids=lambda part: part if isinstance(part, str) else "")
def test_help_begins_with_model_data_and_output_and_ends_with_what_few_change(name, module, capsys, monkeypatch):
    """Read off the printed help, whatever order the fields of the class have."""
    import re

    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        build_command(name, module.Options, module.run, cli_app.finish)(["--help"])
    assert stopped.value.code == 0
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    panels = re.split(r"╭─ (\w+) ", printed)[1:]
    shown = {
        title: [flag.replace("-", "_") for flag in re.findall(r"^│[ *]+--([a-z][a-z0-9-]*)", text, re.MULTILINE)]
        for title, text in zip(panels[::2], panels[1::2], strict=True)
    }
    assert [title for title in shown if title != "Arguments"] == [p for p in PANELS if p in shown]
    first = [flag for flag in shown["Options"] if flag not in ("config", "json", "help")]
    assert first == [flag for flag in FIRST if flag in first]
    options = {f.name for f in dataclasses.fields(module.Options) if not f.metadata.get("argument")}
    assert set(first) == options & set(FIRST)
    assert set(shown.get("Advanced", [])) == options & ADVANCED
    assert set(shown.get("Settings", [])) == options - set(FIRST) - ADVANCED
    if "method" in options:
        assert shown["Settings"][0] == "method"


def test_every_name_in_the_groups_is_an_option_of_some_command():
    names = {field.name for _, module in options_classes() for field in dataclasses.fields(module.Options)}
    assert set(FIRST) | ADVANCED <= names


def test_help_lists_all_commands_without_loading_torch():
    import subprocess
    import sys

    code = "import sys\nfrom lookaway.cli.app import app\ntry:\n app(['--help'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
    assert all(name in done.stdout for name in cli_app.COMMANDS)


def test_unknown_commands_and_user_errors_do_not_exit_with_zero(monkeypatch, capsys):
    assert CliRunner().invoke(cli_app.app, ["nonsense"]).exit_code != 0

    def broken(*args, **kwargs):
        raise LookawayError("the image is missing; give --image")

    monkeypatch.setattr(cli_app, "app", broken)
    with pytest.raises(SystemExit) as stopped:
        cli_app.main()
    assert stopped.value.code == 1
    assert "the image is missing" in capsys.readouterr().err


def test_json_output_is_written(tmp_path):
    cli_app.finish({"a": Path("x"), "b": 1.5}, tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text()) == {"a": "x", "b": 1.5}


@pytest.mark.parametrize("flags", [("fit", "--batch-size"), ("fit", "--max-new-tokens"), ("bench", "--new-tokens"),
                                   ("bench", "--repeats"), ("search", "--batch-size")])  # fmt: skip
def test_a_count_below_one_is_refused_by_name_before_any_work(flags, call):
    command, flag = flags
    status, _, error = call(command, flag, 0, "--model", "no/such/model")
    assert status == 1
    assert f"error: {flag} must be at least 1, not 0." in error


@pytest.mark.parametrize(
    ("flag", "value"), [("--memory", "nan"), ("--speedup", "nan"), ("--epsilon", "inf"), ("--held-out", -1)]
)
def test_what_is_no_number_is_refused_by_name_before_any_work(flag, value, call):
    status, _, error = call("fit", flag, value, "--model", "no/such/model")
    assert status == 1
    assert f"error: {flag} must be " in error
    assert f"not {value}." in error
