"""Seconds of policies on a clock of our own: turns on the same batch, expected time of second looks, worth timing."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

import lookaway as la
from lookaway.evaluation import latency
from lookaway.evaluation.forced_looks import ForcedLook
from lookaway.search.fit import seconds
from lookaway.search.fit.choices import Choice
from lookaway.search.fit.guarantee import Guarantee
from lookaway.search.fit.seconds import Seconds, measure_seconds
from lookaway.search.fit.timed import worth_timing

LOOK = la.SecondLook(la.ExitAt(1), la.ExitAt(3), 0.9)


@pytest.fixture
def ran(monkeypatch):
    """What ran, as (policy, batch); a batch of number n takes n + 1 times as long as the first."""
    now, found = [0.0], []

    def generate(self, inputs):
        found.append((self.policy, inputs))
        spent = {"ExitAt": 4.0, "NoneType": 8.0}.get(type(self.policy).__name__)
        if isinstance(self.policy, ForcedLook):
            spent = 2.0 + 3.0 * self.policy.rows
        now[0] += spent * (1 + inputs)

    numbers = iter(range(100))
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(seconds, "attach", lambda model, policy: nullcontext())
    monkeypatch.setattr(seconds, "encode", lambda processor, samples, device: SimpleNamespace(inputs=next(numbers)))
    monkeypatch.setattr(seconds._Turn, "_generate", generate)
    return found


def test_all_variants_run_the_same_batch_in_a_round_and_second_looks_count_as_they_happen(ran):
    model = SimpleNamespace(device="cpu")
    found = measure_seconds(model, None, list(range(10)), {"exit": (la.ExitAt(2), 0.0), "look": (LOOK, 0.25)},
                            batch_size=1, batches=2, repeats=3)  # fmt: skip
    rounds = [{batch for _, batch in ran[first : first + 4]} for first in range(0, len(ran), 4)]
    assert rounds == [{0}, {1}] * 4  # a warm-up on each batch, and three repeats
    assert found["exit"].seconds == pytest.approx(4.0 * 1.5)
    assert found["exit"].speedup == pytest.approx(2.0)
    assert found["look"].seconds == pytest.approx((0.75 * 2 + 0.25 * 5) * 1.5)
    assert found["look"].quartiles == pytest.approx((8 / 2.75, 8 / 2.75))
    assert found["look"].rounds == 6
    assert Seconds.from_plain(found["look"].to_plain()) == found["look"]


def test_a_batch_of_several_rows_is_timed_with_none_one_and_all_looking_again(ran):
    measure_seconds(SimpleNamespace(device="cpu"), None, list(range(4)), {"look": (LOOK, 0.5)}, batch_size=4, repeats=1)
    assert {policy.rows for policy, _ in ran if policy is not None} == {0, 1, 4}


def test_the_cheap_end_of_each_method_is_worth_timing():
    def choice(method, share):
        return Choice(f"{method}-{share}", method, np.ones(200, dtype=bool), np.ones(200), share, "a")

    made = [choice("second-look", share) for share in (0.9, 0.6, 0.3, 0.1)] + [choice("exit", s) for s in (0.8, 0.5)]
    names = {c.name for c in worth_timing(made, Guarantee(0.03, 0.05))}
    assert {"second-look-0.1", "exit-0.5"} <= names
    bad = choice("bold", 0.05)
    bad.same[:100] = False
    assert bad.name not in {c.name for c in worth_timing([*made, bad], Guarantee(0.03, 0.05))}
