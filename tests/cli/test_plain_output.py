"""What users and models write is printed as it is: rich would take [brackets] and :codes: for its own."""

import ast
from pathlib import Path

import pytest
from rich.table import Table

import lookaway
from lookaway.cli import ask, common

ANSWERS = ["[/INST] a cat", "[cat, dog]", ":smile:", "[bold]x[/bold]", "[red]"]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_printed_as_it_is(answer, capsys):
    found = {"answer": answer, "answer_without": f"{answer}!", "num_layers": 4, "visual_tokens": 8, "exit_layer": 2,
             "mean_visual_tokens": 4.0, "prefill_flops_share": 0.5, "kv_bytes_share": 0.5}  # fmt: skip
    ask.show(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == answer
    assert lines[-1].endswith(f" {answer}!")


@pytest.mark.parametrize("answer", ANSWERS)
def test_so_are_tables_with_names_of_the_users_own(answer, capsys):
    table = Table("family", title=answer, box=None)
    table.add_row(answer)
    common.plain_console().print(table)
    assert capsys.readouterr().out.count(answer) == 2


def test_no_command_makes_a_console_of_its_own():
    """The progress bar's, whose words are lookaway's, is the one exception."""
    found = []
    for path in (Path(lookaway.__file__).parent / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Console":
                found.append(path.name)
    assert sorted(found) == ["common.py", "progress.py"]
