"""Who may import whom: walks every import of the package against one table, which is also the architecture page."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "lookaway"
ARCHITECTURE = Path(__file__).parents[1] / "docs" / "architecture.md"

BELOW_METHODS = {"core", "anatomy", "data", "hosts", "engine", "modules", "policies"}
ALLOWED = {
    "core": set(),
    "anatomy": {"core"},
    "data": {"core"},
    "hosts": {"core"},
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
TRANSFORMERS = (
    "anatomy/",
    "hosts/",
    "engine/",
    "training/default_model/",
    "training/tuning",
    "training/trainer",
    "cli/",
)
FORBIDDEN = {"torchvision"}  # next to a CPU build of torch it breaks transformers' imports


def imports(path):
    """(line, dotted module) of every import in a file, relative ones resolved, those inside functions included."""
    package = ["lookaway", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def rooms():
    return [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE]


@pytest.mark.parametrize("path", rooms(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_stay_inside_the_walls(path):
    room = path.relative_to(PACKAGE).parts[0]
    for line, module in imports(path):
        parts = module.split(".")
        where = f"{path.relative_to(PACKAGE)}:{line} imports {module}"
        assert parts[0] not in FORBIDDEN, where
        if parts[0] == "lookaway" and len(parts) > 1 and parts[1] in ALLOWED and parts[1] != room:
            assert parts[1] in ALLOWED[room], f"{where}; {room} may import {sorted(ALLOWED[room])}"
        if parts[0] == "transformers":
            assert path.relative_to(PACKAGE).as_posix().startswith(TRANSFORMERS), where


def test_the_architecture_page_prints_the_same_table():
    rows = [
        f"| `{room}` | {', '.join(f'`{name}`' for name in sorted(below)) or 'nothing'} |"
        for room, below in ALLOWED.items()
    ]
    page = ARCHITECTURE.read_text()
    assert [row for row in rows if row not in page] == []


def test_every_room_of_the_package_is_in_the_table():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert folders == set(ALLOWED)
