"""docs/models.md has a row for every layout that is read, and says of it what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from golden_cases import GOLDEN, checkpoint

from lookaway.models.layouts.conversations import CONVERSATIONS
from lookaway.models.layouts.detection import LAYOUTS, plan_for, recognise

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
NAMES = sorted(file.parent.parent.name for file in GOLDEN.glob("*/checkpoint/config.json"))
COLUMNS = ["published id", "layout", "becomes", "visual tokens", "prompt", "in the papers", "memory, bf16",
           "weights' licence"]  # fmt: skip


def rows():
    """The table's rows, each column by its head."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"]
    assert lines[0] == COLUMNS
    return [dict(zip(COLUMNS, cells, strict=True)) for cells in lines[2:]]


def published(row):
    """The ids of a row without their owner; `-13b` stands for the id before it with another ending."""
    first, *others = re.findall(r"`([^`]+)`", row["published id"])
    first = first.split("/")[-1]
    stem = first.rpartition("-")[0]
    return [first, *(stem + other if other[0] == "-" else other for other in others)]


def layout(row):
    return re.match(r"`([^`]+)`", row["layout"])[1]


def test_every_layout_has_a_row_and_every_row_is_of_a_layout():
    assert {layout(row) for row in rows()} == {one.name for one in LAYOUTS}


@pytest.mark.parametrize("name", NAMES)
def test_the_row_says_what_the_golden_checkpoint_becomes(name):
    (row,) = [row for row in rows() if name.removesuffix("-eagle_2_5_vl") in published(row)]
    plan = plan_for(checkpoint(name))
    assert recognise(checkpoint(name)).name == layout(row)
    assert f"`{plan.model_class.__name__}" in row["becomes"]
    vision = type(plan.config.vision_config).__name__.replace("Config", "Model")
    assert (f"`{vision}`" in row["becomes"]) == (vision in ("EagleVisionModel", "VilaVisionModel"))
    assert f"`{plan.conversation}`" in row["prompt"] or row["prompt"] == "the config's `template`"
    if plan.layout == "llava-1.6":
        assert row["visual tokens"] == "up to 2,880"
    elif plan.layout not in ("internvl2", "eagle2"):  # their tiny checkpoints have smaller tiles
        assert row["visual tokens"] == f"{plan.config.image_seq_length:,}"


def test_every_row_is_filled_and_every_prompt_form_named():
    for row in rows():
        assert all(text for column, text in row.items() if column != "in the papers"), row
    forms = PAGE[PAGE.index("The prompt forms are") :].split("\n\n")[0]
    assert set(re.findall(r"`([^`]+)`", forms)) == set(CONVERSATIONS)
