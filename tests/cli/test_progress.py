"""Off a terminal, long commands say how far they are: at once, every half minute, and at the end."""

import io
import sys

from lookaway.cli import progress as module


def test_plain_lines_come_at_once_every_half_minute_and_at_the_end():
    now, out = [0.0], io.StringIO()
    lines = module._Lines("labels", 100, out, lambda: now[0])
    for _ in range(100):
        now[0] += 1.0
        lines.advance(1)
    assert out.getvalue().splitlines() == [
        "labels: 0 of 100",
        "labels: 30 of 100, 30 s, 1 a second, about 70 s left",
        "labels: 60 of 100, 60 s, 1 a second, about 40 s left",
        "labels: 90 of 100, 90 s, 1 a second, about 10 s left",
        "labels: 100 of 100, 100 s, 1 a second",
    ]


def test_output_that_goes_to_a_file_gets_no_control_characters(capsys):
    with module.progress("full runs", 2) as advance:
        advance(1)
        advance(1)
    error = capsys.readouterr().err
    assert "full runs: 0 of 2" in error
    assert "full runs: 2 of 2" in error
    assert "\x1b" not in error
    assert not sys.stderr.isatty()
