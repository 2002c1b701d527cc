"""Every command on a tiny model of every family (table.py), on a CPU, each result held against the model's logits."""

import pytest
from table import COMMANDS, ROWS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_command_gives_what_the_model_itself_says_or_refuses(row, workplace):
    place = workplace(row.family)
    if row.refusal is None:
        COMMANDS[row.command](place)
    else:
        with pytest.raises(AssertionError, match=row.refusal):
            COMMANDS[row.command](place)
