"""Timing in turns: order, warm-up and ratios, on a clock of our own."""

from contextlib import contextmanager

import pytest

from lookaway.evaluation import latency
from lookaway.evaluation.latency import Timing, measure, ratio


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    return now


def test_variants_take_turns_and_the_warm_up_does_not_count(clock):
    order = []

    def work(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds * (100 if len(order) <= 4 else 1)

        return run

    found = measure({"slow": work("slow", 3.0), "fast": work("fast", 1.0)}, repeats=3, warmup=2)
    assert order == ["fast", "slow", "slow", "fast", "fast", "slow", "slow", "fast", "fast", "slow"]
    assert found["slow"].runs == pytest.approx((3.0, 3.0, 3.0))
    assert found["fast"].median == pytest.approx(1.0)
    assert ratio(found["slow"], found["fast"]) == pytest.approx((3.0, 3.0, 3.0))


def test_what_is_entered_around_a_run_is_not_timed(clock):
    entered = []

    @contextmanager
    def around(name):
        entered.append(name)
        clock[0] += 50.0
        yield
        clock[0] += 50.0

    def work():
        clock[0] += 2.0

    found = measure({"a": work, "b": work}, repeats=2, warmup=1, around=around)
    assert found["a"].runs == found["b"].runs == (2.0, 2.0)
    assert sorted(entered) == ["a"] * 3 + ["b"] * 3


def test_the_ratio_is_of_neighbours_so_drift_cancels():
    slow, fast = Timing(0, 0, 0, (2.0, 4.0, 40.0)), Timing(0, 0, 0, (1.0, 2.0, 20.0))
    assert ratio(slow, fast) == (2.0, 2.0, 2.0)
