"""The support page says what the code says."""

from pathlib import Path

from lookaway.anatomy.registry import FAMILIES, REFUSED
from lookaway.anatomy.support import support_page

PAGE = Path(__file__).parents[2] / "docs" / "support.md"


def test_the_committed_page_is_the_generated_one():
    assert PAGE.read_text() == support_page(), "python -m lookaway.anatomy.support > docs/support.md"


def test_every_family_has_its_row():
    page = support_page()
    for model_type in (*FAMILIES, *REFUSED):
        assert page.count(f"`{model_type}`") == 1
