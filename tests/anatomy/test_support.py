"""The support page says what the code says."""

from pathlib import Path

from lookaway.anatomy.registry import FAMILIES, REFUSED
from lookaway.anatomy.support import EVERY_TYPE, state_of, support_page

PAGE = Path(__file__).parents[2] / "docs" / "support.md"


def test_the_committed_page_is_the_generated_one():
    assert PAGE.read_text() == support_page(), "python -m lookaway.anatomy.support > docs/support.md"


def test_every_family_has_its_row_and_every_type_its_state():
    rows = [line.split(" | ") for line in support_page().splitlines() if line.startswith("| ")]
    for model_type in (*FAMILIES, *REFUSED):
        assert sum(row[1] == f"`{model_type}`" for row in rows) == 1
    for model_type in EVERY_TYPE:
        assert [row[1] for row in rows if row[0] == f"| `{model_type}`"] == [state_of(model_type)[0]]
