"""Code, commands, paths and links in the documentation are those of this version."""

import ast
import dataclasses
import importlib
import itertools
import re
import shlex

import pytest
import torch
from cases import LAYERS, Case
from documents import NAMES, ROOT, blocks, commands, read
from test_common import view_of

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.cli.app import COMMANDS, chosen_method
from lookaway.core.registry import registered_policies

SOURCE = ROOT / "src" / "lookaway"
PLACES = (ROOT, SOURCE, SOURCE / "engine", ROOT / "docs")


def options_of(command, rest):
    module = importlib.import_module(f"lookaway.cli.{command}")
    methods = getattr(module, "METHODS", {})
    return importlib.import_module(methods.get(chosen_method(rest), f"lookaway.cli.{command}")).Options


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_their_flags_exist(name):
    for line in commands(name):
        _, command, *rest = shlex.split(line.replace("...", ""))
        if not re.fullmatch(r"[a-z]+", command):
            continue  # 'lookaway X'
        assert command in COMMANDS, line
        known = {field.name for field in dataclasses.fields(options_of(command, rest))} | {"config", "json"}
        for flag in (part[2:].split("=")[0] for part in rest if part.startswith("--")):
            option = flag.replace("-", "_")
            assert option in known or option.removeprefix("no_") in known, f"{line}: no flag --{flag}"


@pytest.mark.parametrize("name", NAMES)
def test_python_is_python_and_its_names_exist(name):
    for block in blocks(name, "python"):
        try:
            tree = ast.parse(block)
        except SyntaxError:  # a row of a table
            tree = ast.parse("{" + block.strip() + "}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "lookaway":
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "la":
                assert hasattr(la, node.attr), f"la.{node.attr}"


def spread(path):
    """'a/{b,c}.py' -> a/b.py, a/c.py"""
    parts = re.split(r"\{([^}]*)\}", path)
    choices = [part.split(",") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name):
    for code in re.findall(r"`([\w./{},*-]+)`", read(name)):
        if not re.search(r"/.*\.(py|yaml|md|toml)$|^(src|tests|benchmarks|examples|configs|dev)/", code):
            continue
        for path in spread(code):
            assert any(list(place.glob(path)) for place in PLACES), f"{name} names {path}"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", read(name)):
        if not target.startswith(("http", "#")):
            assert ((ROOT / name).parent / target.split("#")[0]).exists(), f"{name} links to {target}"


def test_the_example_policy_of_adding_a_method_passes_the_common_checks(tmp_path, monkeypatch):
    code, row = blocks("docs/adding-a-method.md", "python")
    space = {"__name__": __name__, "Case": Case}
    monkeypatch.setattr(registered_policies, "_entries", dict(registered_policies._entries))
    exec(compile(code, "docs/adding-a-method.md", "exec"), space)  # as it stands
    policy = eval(row.split(":", 1)[1].strip().removesuffix(","), space).make(4)
    view = view_of(2)
    keep = policy.decide(view).keep
    assert bool(keep[view.layout.text].all())
    assert int((keep & view.layout.visual).sum()) == int(view.layout.visual_counts.sum()) // 2
    loaded = la.load(policy.save_pretrained(tmp_path))
    assert loaded.to_config() == policy.to_config() == {"layer": 2}
    example, found = tiny("llava", num_layers=LAYERS), []
    inputs = example.inputs("left_padded")
    for how in (la.attach, la.reference):
        with torch.no_grad(), how(example.model, policy):
            found.append(example.model.generate(**inputs, max_new_tokens=4, do_sample=False))
    assert torch.equal(*found)
