"""`--help` of every command and method: each default once, readable, and what is required named so."""

import dataclasses
import importlib

import pytest


def _commands():
    from lookaway.cli.app import COMMANDS

    for name in COMMANDS:
        yield name, None
        methods = getattr(importlib.import_module(f"lookaway.cli.{name}"), "METHODS", {})
        yield from ((name, method) for method in methods)


@pytest.mark.parametrize(("name", "method"), list(_commands()))
def test_help_shows_each_default_once_and_in_one_pair_of_brackets(name, method, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    module = importlib.import_module(f"lookaway.cli.{name}")
    if method is not None:
        module = importlib.import_module(module.METHODS[method])
    status, out, _ = call(name, *(() if method is None else ("--method", method)), "--help")
    assert status == 0
    text = " ".join(out.replace("│", " ").split())
    for wrong in ("[default: (", "[default: [", "[[", "]]", "(required)", "[default: required]", "default: None"):
        assert wrong not in text, wrong
    for field in dataclasses.fields(module.Options):
        if field.metadata.get("argument"):
            continue
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if missing:
            assert "[required]" in text
        elif isinstance(field.default, int | float | str) and not isinstance(field.default, bool) and field.default:
            assert f"[default: {field.default}]" in text, field.name
