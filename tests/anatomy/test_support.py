"""The support page says what the code says."""

from pathlib import Path

from lookaway.anatomy.registry import FAMILIES, REFUSED
from lookaway.anatomy.support import ASKED_FOR, EVERY_TYPE, state_of, support_page

PAGE = Path(__file__).parents[2] / "docs" / "support.md"


def test_the_committed_page_is_the_generated_one():
    assert PAGE.read_text() == support_page(), "python -m lookaway.anatomy.support > docs/support.md"


def test_every_family_has_its_row_and_every_type_its_state():
    before, rest = support_page().split("## By name")
    lines = (before + rest.split("\n## ", 1)[1]).splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    for model_type in (*FAMILIES, *REFUSED):
        assert sum(row[1] == f"`{model_type}`" for row in rows) == 1
    for model_type in EVERY_TYPE:
        assert [row[1] for row in rows if row[0] == f"| `{model_type}`"] == [state_of(model_type)[0]]


def test_the_models_that_people_ask_for_work_at_least_before_the_decoder():
    for name, model_type in ASKED_FOR.items():
        where, found, _ = state_of(model_type)
        assert where.startswith("before the decoder"), name
        assert f"| {name} | `{model_type}` | {where} | {found} |" in support_page()
