"""Dense labels, lessons, and a loop that resumes to the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lookaway.data import scenes
from lookaway.training.default_model.dense import ATTRIBUTES, IGNORE, SIDE, scene_labels
from lookaway.training.default_model.loop import optimise


def test_labels_say_what_stands_where():
    thing = scenes.Thing("red", "rectangle", "large", "A", 0, 2, 92.0, 20.0)
    labels = scene_labels(scenes.Scene((thing,), (250, 250, 250), False)).reshape(SIDE, SIDE, -1)
    middle = dict(zip(ATTRIBUTES, labels[20 // 8, 92 // 8], strict=True))
    assert {n: ATTRIBUTES[n][v] for n, v in middle.items()} == {
        "colour": "red", "shape": "rectangle", "size": "large", "symbol": "A", "row": "top", "col": "right",
    }  # fmt: skip
    assert labels[10, 2].tolist() == [0] + [IGNORE] * 5


def test_derived_answers_agree_with_easy_vqa():
    easy_vqa = pytest.importorskip("lookaway.data.easy_vqa")
    pytest.importorskip("easy_vqa")
    from lookaway.training.default_model.dense import easy_facts
    from lookaway.training.default_model.lessons import easy_question

    known = {(i.image, i.text): i.answer for i in easy_vqa.items("align")}
    facts, strings = easy_facts("align"), {i.text for i in easy_vqa.items("align")}
    rng, met = np.random.default_rng(0), 0
    for image in [i for i, known_of in facts.items() if len(known_of) == 2][:600]:
        for _ in range(10):
            q = easy_question(rng, facts[image]["colour"], facts[image]["shape"])
            assert q.text in strings
            if (image, q.text) in known:
                met += 1
                assert known[image, q.text] == q.answer
    assert met > 300


def test_lessons_grow_harder_and_are_deterministic():
    pytest.importorskip("easy_vqa")
    from lookaway.training.default_model.lessons import lesson

    first, again = (lesson(scenes.stream("align", 0, 5), 0.9, 0.0, 16) for _ in range(2))
    assert first.questions == again.questions
    assert (first.pixels == again.pixels).all()
    assert len({q.text for q in first.questions}) == len(first.questions) > 6
    early = [lesson(scenes.stream("align", 0, i), 0.0, 0.0, 4).shown.sum() for i in range(20)]
    late = [lesson(scenes.stream("align", 0, i), 1.0, 0.0, 4).shown.sum() for i in range(20)]
    assert np.mean(late) > np.mean(early)


def test_a_killed_run_taken_up_again_ends_with_the_same_weights(tmp_path):
    def run(folder, stops):
        model = nn.Linear(4, 1)
        nn.init.constant_(model.weight, 0.5)
        nn.init.zeros_(model.bias)

        def step_fn(step):
            x = torch.from_numpy(np.random.default_rng([0, step]).normal(size=(8, 4))).float()
            return (model(x) - x.sum(1, keepdim=True)).pow(2).mean(), {}

        for stop in stops:
            optimise({"m": model}, {"m": 0.05}, step_fn, steps=20, stop=stop, folder=folder, warmup=3)
        return model.weight.detach().clone()

    assert torch.equal(run(tmp_path / "a", [20]), run(tmp_path / "b", [7, 20]))
