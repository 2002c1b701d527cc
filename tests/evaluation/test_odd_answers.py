"""Samples whose answer holds the token of pictures: left out with a count, and the others go on as without them."""

import pytest
import torch
from PIL import Image

from lookaway.anatomy.tiny import IMAGE, tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.errors import DataError
from lookaway.core.record import Sample
from lookaway.evaluation import exits
from lookaway.training.exit_labels import LabelOptions, make_exit_table


def sample(number, answer="ab"):
    content = [{"type": "image"}, {"type": "text", "text": f"what is {number}?"}]
    picture = Image.new("RGB", (16, 16), (40 * number, 90, 200))
    return Sample(str(number), [{"role": "user", "content": content}], (picture,), answer)


@pytest.fixture(scope="module")
def world():
    return tiny("llava").model, tiny_processor()


def test_an_answer_of_the_data_that_holds_it_is_left_out(world):
    samples = [sample(0), sample(1, "a <image> b"), sample(2)]
    with pytest.warns(UserWarning, match=r"1 of 3 samples are left out \(the first: '1'\): their answer holds"):
        table, outcomes = exits.collect_outcomes(*world, samples, max_new_tokens=2)
    assert table.ids == ("0", "2")
    alone, others = exits.collect_outcomes(*world, [samples[0], samples[2]], max_new_tokens=2)
    assert torch.equal(table.loss, alone.loss)
    assert (outcomes.agree == others.agree).all()
    assert len(outcomes) == 2


def test_what_the_model_says_itself_is_left_out_too(world, monkeypatch):
    """Random weights may say the token of pictures; here they are made to."""
    real = exits.own_answers

    def said(*arguments):
        return {name: [IMAGE, 9] if name == "1" else ids for name, ids in real(*arguments).items()}

    monkeypatch.setattr(exits, "own_answers", said)
    samples = [sample(number) for number in range(3)]
    with pytest.warns(UserWarning, match=r"1 of 3 samples are left out .* the model's own answer holds '<image>'"):
        table, outcomes = exits.collect_outcomes(*world, samples, max_new_tokens=2)
    assert table.ids == ("0", "2")
    assert len(outcomes) == 2


def test_where_all_are_odd_it_says_so(world):
    with pytest.warns(UserWarning, match="1 of 1"), pytest.raises(DataError, match="No sample is left"):
        exits.collect_outcomes(*world, [sample(0, "<image>")], max_new_tokens=2)


def test_labels_for_training_leave_it_out_and_those_of_a_bound_do_not(world):
    samples, options = [sample(0), sample(1, "<image>")], LabelOptions(target="answer")
    with pytest.warns(UserWarning, match="1 of 2 samples are left out"):
        assert make_exit_table(*world, samples, options, leave_out=True).ids == ("0",)
    with pytest.raises(DataError, match=r"The answer of sample '1' .* Leave this sample out"):
        make_exit_table(*world, samples, options)
