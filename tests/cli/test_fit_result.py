"""What `lookaway fit --speedup` says where it is out of reach: what is reached, and what it would take."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lookaway.cli.fit_reasons import not_fast_enough, why_none
from lookaway.cli.fit_result import result_line, what_next
from lookaway.search.fit.certify import Tested
from lookaway.search.fit.choices import Choice
from lookaway.search.fit.guarantee import Guarantee, samples_at_share, samples_needed
from lookaway.search.fit.options import FitOptions
from lookaway.search.fit.seconds import Seconds

RULE = Guarantee(0.03, 0.05)


def timed(speedup):
    return Seconds(1 / speedup, 1.0, speedup, (speedup, speedup), 8, 1, 8)


def choice(name, speedup, changed=0):
    same = np.arange(160) >= changed
    return Choice(name, "reduction", same, np.ones(160), 1 / speedup, name, seconds=timed(speedup))


def said(order, chosen, confirmed, speedup=2.0):
    result = SimpleNamespace(order=order, chosen=chosen, confirmed=None if confirmed is None else timed(confirmed))
    return not_fast_enough(result, FitOptions(speedup=speedup), RULE)


def test_what_was_timed_again_decides():
    safe = choice("safe", 2.1)
    assert said([safe], safe, 2.05) is None
    assert "the fastest policy that passed, safe, is 1.90 times" in said([safe], safe, 1.9)
    assert said([safe], None, None) is None  # nothing passed: another error says so


def test_the_safest_that_would_be_fast_enough_is_named_with_what_it_lost():
    safe, bold, bolder = choice("safe", 1.4), choice("bold", 2.2, changed=12), choice("bolder", 3.0, changed=40)
    text = said([safe, bold, bolder], safe, 1.4)
    assert "bold (2.20 times)" in text
    assert "12 of 160 answers changed" in text
    assert f"--epsilon {RULE.of_total(12, 160):.3f}" in text
    assert "more --data" not in text  # 12 of 160 are more than 3 %
    assert "more --data" in said([safe, choice("near", 2.2, changed=4)], safe, 1.4)


def test_where_nothing_is_fast_enough_the_fastest_is_named():
    text = said([choice("safe", 1.2), choice("next", 1.5)], choice("safe", 1.2), 1.2)
    assert "faster than 1.50 times" in text
    assert "Lower --speedup" in text


@pytest.mark.parametrize("speedup", [1.0, 0.5])
def test_a_speed_up_is_above_1(speedup):
    with pytest.raises(ValueError, match="above 1"):
        FitOptions(speedup=speedup)


@pytest.mark.parametrize(("split", "search_split", "words"), [
    ("calibration", "train", "--data mine"), ("calibration+test", "train", "its split test has certified this policy"),
    ("all", "train", "its split test has certified"), ("calibration", "test", "its split test has chose"),
])  # fmt: skip
def test_what_comes_next_are_samples_that_the_fit_has_not_seen(split, search_split, words):
    given = SimpleNamespace(model="model", data="mine", split=split, search_split=search_split)
    text = what_next(given, "out/policy")
    assert words in text
    assert ("--data OTHER" in text) is (words != "--data mine")


def after_testing(*choices):
    found = tuple(Tested(one, RULE.bound(one)) for one in choices)
    return SimpleNamespace(certificate=SimpleNamespace(tested=found), found=(), timed=())


def test_what_passed_and_saves_nothing_is_the_reason_and_not_the_answers():
    dear, bold = replace(choice("dear", 1.0), share=1.008), replace(choice("bold", 1.0, changed=6), share=0.977)
    text = why_none(after_testing(dear, bold), RULE)
    assert "No policy that passed saves anything: dear takes 100.8%" in text
    assert "bold (97.7%): 6 of 160 answers changed" in text
    assert "The next one" not in why_none(after_testing(dear), RULE)


def test_where_the_safest_fails_it_is_said_where_more_samples_come_from():
    few = choice("bold", 1.0, changed=3)
    text = why_none(after_testing(few), RULE, lambda needed: f"Add {needed} pictures")
    assert "The safest of the timed policies that are no slower than the full model, bold: 3 of 160" in text
    needed = samples_at_share(RULE, 3 / 160)
    assert RULE.of_total(np.ceil(needed * 3 / 160), needed) <= 0.03 < RULE.of_total(3, 160)
    assert needed > samples_needed(RULE, 3)  # the share stays as it is where there are more samples, not the count
    assert f"Add {needed} pictures, or allow --epsilon {np.ceil(1000 * RULE.of_total(3, 160)) / 1000:g} or more" in text


def test_no_samples_are_asked_for_where_more_of_them_would_show_the_same():
    text = why_none(after_testing(choice("bold", 1.0, changed=6)), RULE, lambda needed: f"Add {needed} pictures")
    assert "Add" not in text.replace("add safer", "")
    assert "3.75% changed is not below what is allowed, so more samples would show the same" in text
    assert samples_at_share(RULE, 0.03) is None
    assert "safer policies are that save less" in text
    by_flops = why_none(after_testing(replace(choice("bold", 1.0, changed=6), seconds=None)), RULE)
    assert "The safest of the policies that cost no more than the full model, bold" in by_flops
    assert "--speedup" not in by_flops


@pytest.mark.parametrize(("speedup", "changed", "words"), [
    (0.9, 0, "No policy that was timed is as fast as the full model on this machine, though 1 keep"),
    (0.9, 40, "and none keeps the answers"),
    (1.5, 40, "No policy that was timed and is as fast as the full model on this machine keeps the answers"),
])  # fmt: skip
def test_where_nothing_was_tested_the_fastest_that_was_timed_is_named(speedup, changed, words):
    one = choice("bold", speedup, changed)
    none = SimpleNamespace(certificate=SimpleNamespace(tested=()), order=(), found=(one,), timed=(one,))
    text = why_none(none, RULE, speedup=2.0)
    assert words in text
    assert f"the fastest of the 1 timed, bold, is {speedup:.2f} times as fast (2 times was asked for)" in text
    text = why_none(
        SimpleNamespace(certificate=none.certificate, order=(), found=(choice("a", 1), choice("b", 1)), timed=()), RULE
    )
    assert "No policy that costs less than the full model keeps the answers" in text


def test_seconds_that_are_not_saved_when_timed_again_are_no_success():
    text = said([choice("safe", 1.1)], choice("safe", 1.1), 0.97, speedup=None)
    assert "Timed again, safe is no faster than the full model on this machine (0.97 times)" in text
    assert said([choice("safe", 1.1)], choice("safe", 1.1), 1.05, speedup=None) is None


def test_what_cannot_run_on_the_certification_samples_is_named_with_the_reason():
    safe = choice("safe", 1.5)
    none = SimpleNamespace(certificate=SimpleNamespace(tested=()), order=(safe,), found=(safe,), timed=(),
                           refused={"safe": "Its grid is odd here.", "other": "no"})  # fmt: skip
    text = why_none(none, RULE)
    assert "safe, cannot run on the certification samples, so nothing was tested: Its grid is odd here." in text
    assert "no policy of this space" not in text.lower()


def test_what_a_batch_takes_by_the_rows_that_look_again_is_said_with_the_expected_time():
    measured = replace(timed(2.0), looks=((0, 0.2), (1, 0.3), (8, 0.9)))
    assert Seconds.from_plain(json.loads(json.dumps(measured.to_plain()))) == measured
    shown = {"share": 0.5, "changed": 0, "samples": 160, "bound": 0.02}
    summary = {"chosen": {"name": "look"}, "certificate": shown, "confirmed": measured.to_plain()}
    text = result_line(summary, FitOptions(speedup=1.5))
    assert (
        "A batch waits for its slowest row: 200 ms where no row looks again, 300 ms where 1 row looks again, 900 ms "
        in text
    )
    assert "where 8 rows look again." in text
    summary["confirmed"] = timed(2.0).to_plain()
    assert "waits" not in result_line(summary, FitOptions(speedup=1.5))
