"""A table fits its terminal, and no header, number or word of it is cut."""

import re

import pytest

from lookaway.cli.tables import show_facts, show_table

COLUMNS = ("family", "same answer", "measured / implied", "what it does")
ROWS = [("colour of a thing", "97.5%", "98%", "each layer keeps its share of the visual tokens, those that rank best"),
        ("all", "100.0%", "102%", "one-word")]  # fmt: skip


def printed(width, capsys, monkeypatch, columns=COLUMNS, rows=ROWS, texts=("what it does",), **more):
    monkeypatch.setenv("COLUMNS", str(width))
    show_table(columns, rows, texts=texts, **more)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line.rstrip()) <= width for line in lines), lines
    return lines


@pytest.mark.parametrize("width", [140, 80, 60, 40, 20])
def test_every_word_is_there_at_every_width(width, capsys, monkeypatch):
    text = " ".join(printed(width, capsys, monkeypatch, title="a title"))
    for word in re.findall(r"\S+", " ".join([*COLUMNS, *(cell for row in ROWS for cell in row), "a title"])):
        assert word in text, word
    assert "…" not in text


def test_a_wide_terminal_gets_one_line_a_row(capsys, monkeypatch):
    lines = printed(140, capsys, monkeypatch)
    assert len(lines) == 3
    assert lines[0].split() == " ".join(COLUMNS).split()


def test_headers_are_stacked_before_a_row_becomes_a_block(capsys, monkeypatch):
    rows = [(row[0], row[1], row[2]) for row in ROWS]
    lines = printed(36, capsys, monkeypatch, COLUMNS[:3], rows)
    assert [line.split() for line in lines] == [
        ["measured"], ["same", "/"], ["family", "answer", "implied"],
        ["colour", "of", "a", "thing", "97.5%", "98%"], ["all", "100.0%", "102%"],
    ]  # fmt: skip
    lines = printed(26, capsys, monkeypatch, COLUMNS[:3], rows)
    assert lines[:3] == ["family: colour of a thing", "  same answer: 97.5%", "  measured / implied: 98%"]


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(ValueError, match="Two columns of one name"):
        show_table(("loss", "loss"), [])


def test_facts_wrap_beside_their_name(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    show_facts({"layout": "LLaVA", "supported": "yes. transformers reads it, and it is of the family LLaVA."})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layout", "LLaVA"]
    assert len(lines) > 2
    assert lines[2].startswith(" " * 11)
