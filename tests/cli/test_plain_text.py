"""What a model says, and what a folder is called, is printed as it is: brackets are no markup, `:smile:` no picture."""

import pytest

from lookaway.cli import ask, report
from lookaway.cli.common import plain_console, print_note

TEXTS = ["[/INST] a cat", "[cat, dog]", ":smile:", "[bold]x[/bold]", "[/"]
FOUND = {"visual_tokens": 16, "layer_visual_tokens": [16, 16, 0, 0], "skipped_attention": [], "looked_again": False,
         "drafted_tokens": 0, "accepted_tokens": 0, "prefill_flops_share": 0.5, "kv_bytes_share": 0.5}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_ask_prints_any_answer(text, capsys):
    ask.show({**FOUND, "answer": text, "answer_without": f"{text}!"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == text
    assert lines[-1].endswith(f"{text}!")


@pytest.mark.parametrize("text", TEXTS)
def test_tables_and_notes_print_any_text(text, capsys):
    from rich.table import Table

    table = Table("name", title=text, box=None)
    table.add_row(text)
    console = plain_console()
    console.print(table)
    print_note(console, text)
    printed = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in printed[-4:]] == [text, "name", text, f"note: {text}"]


def test_no_command_prints_through_a_console_of_its_own():
    """Their texts hold answers, names and paths; `plain_console` knows that."""
    from pathlib import Path

    folder = Path(report.__file__).parent
    own = [file.name for file in sorted(folder.glob("*.py")) if "Console(" in file.read_text(encoding="utf-8")]
    assert own == ["common.py", "progress.py"]


def test_warnings_for_users_name_no_line_of_code():
    from lookaway.cli.app import plain_warning

    assert plain_warning(UserWarning("Not guaranteed: x"), UserWarning, "a.py", 3) == "warning: Not guaranteed: x\n"
    assert "a.py:3: FutureWarning: y" in plain_warning(FutureWarning("y"), FutureWarning, "a.py", 3)
