"""Who may import whom: every import, lazy ones too, against two tables that the architecture page prints.

Three rules. A package imports only packages below it (ALLOWED). Inside `engine/` the same holds for its parts
(ENGINE). No two files import each other, however many files are in between, and wherever the imports stand: at the top,
inside functions, under TYPE_CHECKING, or through the package's lazy public names (`from .. import merge`).
"""

import ast
from collections import Counter
from pathlib import Path

import pytest

import lookaway

PACKAGE = Path(__file__).parents[1] / "src" / "lookaway"
ARCHITECTURE = Path(__file__).parents[1] / "docs" / "architecture.md"

BELOW_METHODS = {"core", "anatomy", "data", "models", "engine", "modules", "policies"}
ALLOWED = {
    "core": set(),
    "anatomy": {"core"},
    "data": {"core"},
    "models": {"core"},
    "engine": {"core", "anatomy"},
    "modules": {"core"},
    "policies": {"core", "modules"},
    "training": BELOW_METHODS,
    "search": BELOW_METHODS | {"evaluation"},
    "evaluation": BELOW_METHODS,
    "analysis": BELOW_METHODS,
    "reports": {"core"},
    "serving": BELOW_METHODS,
    "cli": BELOW_METHODS | {"training", "search", "evaluation", "analysis", "reports", "serving"},
}
CARRYING_OUT = {"attached", "refusals", "cache", "prefill", "skip"}
ENGINE = {
    "attached": set(),
    "generate_options": set(),
    "refusals": {"generate_options"},
    "cache": set(),
    "prefill": {"cache"},
    "skip": {"attached", "prefill", "cache"},
    "twig": {"attached", "prefill", "observe"},
    "draft": {"cache", "generate_options", "prefill", "refusals", "twig"},
    "handle": {"attached", "draft", "prefill", "refusals", "skip", "twig"},
    "second_look": {"attached", "cache", "prefill", "observe"},
    "layer_hooks": set(),
    "repeated_layers": {"prefill", "skip"},
    "attachment": CARRYING_OUT | {"handle", "layer_hooks", "observe", "repeated_layers", "second_look"},
    "masked_prompt": set(),
    "reference": CARRYING_OUT | {"handle", "masked_prompt", "observe"},
    "entry": CARRYING_OUT | {"handle", "observe"},
    "entry_check": {"entry"},
    "self_check": {"attachment", "entry_check", "reference"},
    "api": {"attachment", "entry", "reference", "self_check"},
    "replay": CARRYING_OUT | {"api", "handle", "observe"},
    "observe": CARRYING_OUT | {"replay"},
}
TRANSFORMERS = (
    "anatomy/",
    "models/",
    "engine/",
    "training/default_model/",
    "training/tuning",
    "training/trainer",
    "cli/",
    "serving/",
)
FORBIDDEN = {"torchvision"}  # next to a CPU build of torch it breaks transformers' imports
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def name_of(path):
    """Dotted name of a file, `lookaway` first; a package is its `__init__`."""
    parts = ["lookaway", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(path):
    """(line, dotted name) of every import in a file: relative ones resolved, lazy public names followed home."""
    package = ["lookaway", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                home = lookaway._HOME.get(alias.name) if module == "lookaway" else None
                yield node.lineno, f"{home or module}.{alias.name}"


def target(module):
    """The file of this package that an import reads, or None."""
    while module and module not in MODULES:
        module = module.rpartition(".")[0]
    return module if module.startswith("lookaway.") else None


def part_of(name):
    """The package inside `lookaway`, and inside `engine` the part, that a dotted name belongs to."""
    parts = name.split(".")
    return parts[1], parts[2] if len(parts) > 2 else ""


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_stay_inside_the_walls(path):
    package, part = part_of(name_of(path))
    for line, module in imports(path):
        where = f"{path.relative_to(PACKAGE)}:{line} imports {module}"
        assert module.split(".")[0] not in FORBIDDEN, where
        if module.split(".")[0] == "transformers":
            assert path.relative_to(PACKAGE).as_posix().startswith(TRANSFORMERS), where
        found = target(module)
        if found is None:
            continue
        other, other_part = part_of(found)
        if other != package:
            assert other in ALLOWED[package], f"{where}; {package} may import {sorted(ALLOWED[package])}"
        elif package == "engine" and part and other_part and part != other_part:
            assert other_part in ENGINE[part], f"{where}; engine/{part} may import {sorted(ENGINE[part])}"


def test_no_two_files_import_each_other():
    edges = {name: {target(module) for _, module in imports(path)} for name, path in MODULES.items()}
    circles = []
    done, active = set(), []

    def visit(name):
        if name in active:
            circles.append(" -> ".join([*active[active.index(name) :], name]))
        elif name not in done:
            active.append(name)
            for other in sorted(edges[name] - {None, name}):
                # A package's own __init__ names what is inside it; a file inside that imports a sibling through it
                # would be a circle all the same, and is found from the sibling's side.
                visit(other)
            active.pop()
            done.add(name)

    for name in sorted(edges):
        visit(name)
    assert circles == []


@pytest.mark.parametrize(("table", "heading"), [(ALLOWED, "Packages"), (ENGINE, "Inside `engine/`")])
def test_the_architecture_page_prints_the_same_tables(table, heading):
    page = ARCHITECTURE.read_text()
    page = page[page.index(f"## {heading}") :]
    rows = [
        f"| `{name}` | {', '.join(f'`{other}`' for other in sorted(below)) or 'nothing'} |"
        for name, below in table.items()
    ]
    assert [row for row in rows if row not in page] == []


def test_every_package_and_every_part_of_the_engine_is_in_the_tables():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert folders == set(ALLOWED)
    parts = {path.stem for path in (PACKAGE / "engine").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__pycache__"} == set(ENGINE)


def test_every_test_file_has_a_name_of_its_own():
    """pytest imports test files by their bare names: the second file of one name is the first one's module."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("*.py"))
    assert [name for name, count in names.items() if count > 1 and name != "conftest.py"] == []
