"""Committed results hold no path of anybody's machine."""

import re

import pytest
from documents import ROOT

KEPT = (ROOT / "benchmarks" / "results", ROOT / "src" / "lookaway" / "models" / "mini" / "policies")
FILES = sorted(str(file.relative_to(ROOT)) for place in KEPT for file in place.rglob("*.json*"))
ABSOLUTE = re.compile(r'"(?:/[\w.+-]+){2,}/?"|"[A-Za-z]:\\\\')


@pytest.mark.parametrize("name", FILES)
def test_no_path_of_a_machine(name):
    assert ABSOLUTE.findall((ROOT / name).read_text(encoding="utf-8")) == []


def test_such_paths_would_be_found():
    assert ABSOLUTE.search('"out": "/home/me/fit"')
    assert ABSOLUTE.search(r'"out": "C:\\me"')
    assert not ABSOLUTE.search('"out": "out/fit", "unit": "ms/token"')
