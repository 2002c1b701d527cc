"""Random and uniform tokens at a policy's cost, and the questions for which uniform tokens are not enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.record import Sample
from lookaway.evaluation.runner import evaluate_policy
from lookaway.evaluation.scores import PairedScores
from lookaway.evaluation.token_baselines import equal_share, hard_questions, run_token_baselines


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
    share = equal_share(results, 1)
    assert share == pytest.approx((5 - 1) / (8 - 1))
    found = run_token_baselines(model, tiny_processor(), samples, results, batch_size=3, max_new_tokens=3)
    assert list(found) == ["random tokens", "uniform tokens"]
    for rows in found.values():
        assert [row.id for row in rows] == [sample.id for sample in samples]
        assert [row.answer_without for row in rows] == [result.answer_without for result in results]
        assert all(abs(sum(row.visual_tokens) - 5 * 16) <= 7 / 2 for row in rows[:4])  # rounded in seven layers
        assert rows[4].visual_tokens == [0] * 8


def test_without_a_policy_run_twice_the_answers_are_the_same(ran):
    """`without` given or made: one and the same."""
    model, samples, results = ran
    known = {result.id: result.answer_without for result in results}
    again = evaluate_policy(
        model, tiny_processor(), la.ExitAt(5), samples, batch_size=3, max_new_tokens=3, without=known
    )
    assert again == results


def test_where_there_is_no_such_baseline(ran):
    _, _, results = ran
    assert equal_share(results, 6) is None
    assert equal_share(results[4:], 1) is None  # no image
    assert equal_share([replace(results[0], visual_tokens=[16] * 8)], 1) is None  # nothing was dropped


def test_questions_that_uniform_tokens_cannot_answer_stand_apart(ran):
    _, _, results = ran
    scores = PairedScores("exact", [1.0, 0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0, 1.0], {}, {})
    uniform = replace(scores, with_policy=[0.0, 0.0, 1.0, 0.0, 0.0])
    count, share = hard_questions(results, scores, uniform)
    assert count == 3  # the third is answered by uniform tokens too, the fourth the full model does not know
    assert share.value == pytest.approx(1 / 3)
    assert hard_questions(results, scores, replace(scores, with_policy=scores.without)) is None
