"""Baselines at a policy's cost, and the questions for which downsampling and uniform tokens are not enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.record import Sample
from lookaway.evaluation.beside import at_cost, shows_what_is_hard
from lookaway.evaluation.runner import evaluate_policy
from lookaway.evaluation.scores import PairedScores
from lookaway.evaluation.token_baselines import equal_share, hard_questions, prompt_tokens
from lookaway.models.encoding import encode


@pytest.fixture(scope="module")
def ran():
    draw = np.random.default_rng(0)
    samples = []
    for number in range(5):
        images = (Image.fromarray(draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)),) if number < 4 else ()
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": f"what is {number}?"}]
        samples.append(Sample(str(number), [{"role": "user", "content": content}], images, "a"))
    model = tiny("llava", 8).model
    results = evaluate_policy(model, tiny_processor(), la.ExitAt(5), samples, batch_size=3, max_new_tokens=3)
    return model, samples, results


def test_the_baselines_process_as_many_tokens_a_layer_as_the_policy(ran):
    model, samples, results = ran
    shape = la.anatomy(model).shape
    share = equal_share(results, shape, 1)
    assert (5 - 1) / (8 - 1) - 0.06 < share < (5 - 1) / (8 - 1) + 0.06
    without = {result.id: result.answer_without for result in results}
    found = {
        one.name: evaluate_policy(model, tiny_processor(), one.policy, samples, batch_size=3, max_new_tokens=3,
                                  without=without)
        for one in at_cost(results, la.anatomy(model))
    }  # fmt: skip
    assert list(found) == ["random tokens", "uniform tokens", "downsampling 2 x 2", "fixed exit before layer 5"]
    one_more = 7 * shape.layer_flops(40) - 7 * shape.layer_flops(39)  # one token in each of seven layers
    for name, rows in found.items():
        assert [row.id for row in rows] == [sample.id for sample in samples]
        assert [row.answer_without for row in rows] == [result.answer_without for result in results]
        spent, allowed = (sum(r.flops for r in part[:4]) for part in (rows, results))
        if name in ("random tokens", "uniform tokens"):
            assert allowed <= spent <= allowed + 4 * one_more
        assert rows[4].visual_tokens == [0] * 8
    assert [row.visual_tokens for row in found["downsampling 2 x 2"][:4]] == [[4] * 8] * 4
    assert found["fixed exit before layer 5"] == [replace(r, variant="policy") for r in results]  # the same exit
    assert [name for name in found if shows_what_is_hard(name)] == ["uniform tokens", "downsampling 2 x 2"]


def test_downsampling_gets_the_policy_s_cost_or_says_that_it_has_its_own(ran):
    """Four of 16 tokens in all layers cost less than an exit before layer 5 of 8, and more than one before layer 1."""
    model, samples, results = ran
    own = {one.name: one.own_cost for one in at_cost(results, la.anatomy(model))}
    assert own == {"random tokens": False, "uniform tokens": False, "downsampling 2 x 2": True,
                   "fixed exit before layer 5": False}  # fmt: skip
    cheap = evaluate_policy(model, tiny_processor(), la.ExitAt(1), samples, batch_size=3, max_new_tokens=3)
    (found,) = [one for one in at_cost(cheap, la.anatomy(model)) if "downsampling" in one.name]
    assert not found.own_cost
    theirs = evaluate_policy(model, tiny_processor(), found.policy, samples, batch_size=3, max_new_tokens=3)
    assert sum(r.flops for r in theirs[:4]) >= sum(r.flops for r in cheap[:4])


def test_without_a_policy_run_twice_the_answers_are_the_same(ran):
    """`without` given or made: one and the same."""
    model, samples, results = ran
    known = {result.id: result.answer_without for result in results}
    again = evaluate_policy(
        model, tiny_processor(), la.ExitAt(5), samples, batch_size=3, max_new_tokens=3, without=known
    )
    assert again == results


def test_where_there_is_no_such_baseline(ran):
    model, _, results = ran
    shape = la.anatomy(model).shape
    assert equal_share(results, shape, 6) is None
    assert equal_share(results[4:], shape, 1) is None  # no image
    nothing = replace(results[0], visual_tokens=[16] * 8, flops=results[0].full_flops)
    assert equal_share([nothing], shape, 1) is None


def test_questions_that_a_baseline_cannot_answer_stand_apart(ran):
    _, _, results = ran
    scores = PairedScores("exact", [1.0, 0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0, 1.0], {}, {})
    uniform = replace(scores, with_policy=[0.0, 0.0, 1.0, 0.0, 0.0])
    count, share = hard_questions(results, scores, uniform)
    assert count == 3  # the third is answered by uniform tokens too, the fourth the full model does not know
    assert share.value == pytest.approx(1 / 3)
    assert hard_questions(results, scores, replace(scores, with_policy=scores.without)) is None


def test_what_a_second_look_spends_twice_is_granted_to_the_baselines(ran):
    """All rows look again: the visual tokens of the last pass alone would understate the cost."""
    model, samples, _ = ran
    shape = la.anatomy(model).shape
    policy = la.SecondLook(la.FastV(1, 0.75), la.FastV(1, 0.75), 1.0)
    twice = evaluate_policy(model, tiny_processor(), policy, samples[:4], batch_size=2, max_new_tokens=2)
    once = evaluate_policy(model, tiny_processor(), policy.first, samples[:4], batch_size=2, max_new_tokens=2)
    assert [r.visual_tokens for r in twice] == [r.visual_tokens for r in once]
    assert equal_share(once, shape, 1) == pytest.approx(0.25, abs=0.04)
    assert (equal_share(twice, shape, 1) or 1.0) > 0.4


def test_prompt_tokens_are_those_of_the_processor(ran):
    model, samples, results = ran
    shape = la.anatomy(model).shape
    for sample, result in zip(samples, results, strict=True):
        inputs = encode(tiny_processor(), [sample]).inputs
        assert prompt_tokens(result, shape) == inputs["input_ids"].shape[1]
