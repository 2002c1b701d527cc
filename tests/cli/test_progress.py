"""Off a terminal, long commands say how far they are: at once, every half minute, and at the end."""

import io
import re
import sys
import threading
import time

import pytest
from rich.console import Console

from lookaway.cli import progress as module


@pytest.fixture
def clock():
    return [0.0]


def test_plain_lines_come_at_once_every_half_minute_and_at_the_end(clock, capsys):
    lines = module.PlainLines(lambda: clock[0])
    steps = lines.begin("labels", 100, loud=True)
    for _ in range(100):
        clock[0] += 1.0
        steps(1)
    lines.end(steps)
    assert capsys.readouterr().err.splitlines() == [
        "labels: 0 of 100",
        "labels: 30 of 100, 30 s, 1 a second, about 70 s left",
        "labels: 60 of 100, 60 s, 1 a second, about 40 s left",
        "labels: 90 of 100, 90 s, 1 a second, about 10 s left",
        "labels: 100 of 100, 100 s, 1 a second",
    ]


def test_a_step_of_minutes_and_work_without_steps_are_not_silent(clock, capsys):
    lines = module.PlainLines(lambda: clock[0])
    command = lines.begin("lookaway train", None, loud=False)
    steps = lines.begin("labels", 4, loud=True)
    for second in range(70):
        clock[0] = float(second)
        lines.tick()
    steps(4)
    lines.end(steps)
    clock[0] = 100.0
    lines.tick()
    lines.end(command)
    assert capsys.readouterr().err.splitlines() == [
        "labels: 0 of 4",
        "labels: 0 of 4, 30 s",
        "labels: 0 of 4, 60 s",
        "labels: 4 of 4, 69 s, 0.058 a second",
        "lookaway train: at work for 100 s",
    ]


def test_the_thread_that_watches_ends_with_the_work(monkeypatch, capsys):
    monkeypatch.setattr(module, "EVERY", 0.02)
    before = threading.active_count()
    with module.at_work("lookaway fit"):
        deadline = time.monotonic() + 20
        error = ""
        while "lookaway fit: at work for" not in error and time.monotonic() < deadline:
            time.sleep(0.02)
            error += capsys.readouterr().err
    assert "lookaway fit: at work for 0 s" in error
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() == before


def test_output_that_goes_to_a_file_gets_no_control_characters(capsys):
    with module.progress("full runs", 2) as advance:
        advance(1)
        advance(1)
    error = capsys.readouterr().err
    assert "full runs: 0 of 2" in error
    assert "full runs: 2 of 2" in error
    assert "\x1b" not in error
    assert not sys.stderr.isatty()


def test_what_ends_well_has_done_all_its_steps_where_their_number_was_a_guess(capsys, monkeypatch):
    with module.progress("trials", 27) as advance:
        advance(12)
    assert capsys.readouterr().err.splitlines()[-1].startswith("trials: 12 of 12, ")
    out = io.StringIO()
    monkeypatch.setattr(module, "Console", lambda **_: Console(file=out, force_terminal=True, width=100))
    with module.progress("trials", 27) as advance:
        advance(12)
    assert re.findall(r"\d+/\d+", out.getvalue())[-1] == "12/12"


def test_work_inside_of_work_is_a_further_line_of_the_same_display(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(module, "Console", lambda **_: Console(file=out, force_terminal=True, width=100))
    with module.progress("policies tried", None) as tried:
        tried.restart(3)
        tried(2)
        with module.progress("full model", 4) as advance:
            advance(4)
        assert len(module._shown[0].tasks) == 2
    shown = out.getvalue()
    assert "4/4" in shown
    assert re.findall(r"\d+/\d+", shown)[-2:] == ["2/2", "4/4"]
    assert module._shown == []


def test_a_restart_has_a_rate_of_its_own(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    lines = module.PlainLines(module.time.monotonic)
    steps = lines.begin("policies tried", None, loud=True)
    steps.restart(2)
    now[0] = 40.0
    steps(1)
    steps.restart(4)
    now[0] = 80.0
    steps(1)
    lines.end(steps)
    assert capsys.readouterr().err.splitlines() == [
        "policies tried",
        "policies tried: 1 of 2, 40 s, 0.025 a second, about 40 s left",
        "policies tried: 1 of 4, 40 s, 0.025 a second, about 120 s left",
    ]


def test_each_phase_counts_its_own_steps(capsys, monkeypatch):
    now = [0.0]
    lines = module.PlainLines(lambda: now[0])
    steps = lines.begin("full model", 20, loud=True, phases=("own answers", "states"))
    for second in (20.0, 40.0, 60.0, 80.0):
        now[0] = second
        steps(10)
    lines.end(steps)
    assert capsys.readouterr().err.splitlines() == [
        "full model, own answers: 0 of 20",
        "full model, own answers: 20 of 20, 40 s, 0.5 a second",
        "full model, states: 20 of 20, 80 s, 0.5 a second",
    ]
    out = io.StringIO()
    monkeypatch.setattr(module, "Console", lambda **_: Console(file=out, force_terminal=True, width=100))
    with module.progress("full model", 20, ("own answers", "states")) as advance:
        advance(20)
        advance(15)  # fewer than there were before
    assert "full model, own answers" in out.getvalue()
    assert "full model, states" in out.getvalue()
    assert {total for _, total in re.findall(r"(\d+)/(\d+)", out.getvalue())} <= {"20", "15"}
    assert re.findall(r"\d+/\d+", out.getvalue())[-1] == "15/15"


def test_what_fails_is_not_said_to_be_done(capsys):
    def fails():
        with module.progress("trials", 27) as advance:
            advance(12)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert capsys.readouterr().err.splitlines() == ["trials: 0 of 27"]
