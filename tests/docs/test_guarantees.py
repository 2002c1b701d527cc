"""Each guarantee names a test, and the test exists."""

import ast
import itertools
import re

import pytest
from documents import ROOT, read

NAMED = re.findall(r"`(tests/[\w/]+\.py(?:::\w+)+)`", read("docs/guarantees.md"))


def named_in(path):
    """Names of test functions in a file; methods as Class::method."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found.update(f"{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef))
    return found


@pytest.mark.parametrize("named", NAMED)
def test_the_named_test_exists(named):
    path, _, function = named.partition("::")
    assert (ROOT / path).exists(), path
    assert function in named_in(path)


def rows(page):
    """Table rows of a page, but for heads and rules."""
    lines = [*read(page).splitlines(), ""]
    return [
        line
        for line, after in itertools.pairwise(lines)
        if line.startswith("|") and not re.match(r"\|[-|]+$", line) and not re.match(r"\|[-|]+$", after)
    ]


def test_every_guarantee_names_one():
    for row in rows("docs/guarantees.md"):
        assert "::test_" in row or "batches.md" in row, row
    assert len(NAMED) > 30


def test_every_row_about_batches_names_one():
    files = (ROOT / "tests" / "engine").rglob("test_*.py")
    known = set().union(*(named_in(path.relative_to(ROOT)) for path in files))
    found = rows("docs/batches.md")
    assert len(found) > 25
    for row in found:
        named = re.search(r"`(test_\w+)` \|$", row)
        assert named is not None, row
        assert named[1] in known, named[1]
