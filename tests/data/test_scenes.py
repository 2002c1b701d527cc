"""The generator: deterministic, splits apart, answers true, held-out pairs held out."""

from __future__ import annotations

import numpy as np
import pytest

from lookaway.core.errors import DataError
from lookaway.data import scenes


def test_same_seed_same_samples_and_splits_differ():
    first, again = scenes.samples("train", 20, seed=3), scenes.samples("train", 20, seed=3)
    other = scenes.samples("calibration", 20, seed=3)
    assert [s.question for s in first] == [s.question for s in again]
    assert np.array_equal(np.asarray(first[0].images[0]), np.asarray(again[0].images[0]))
    assert [s.question for s in first] != [s.question for s in other]


def test_every_family_comes_equally_often_and_text_has_no_image():
    found = scenes.samples("test", 50)
    assert sorted(s.family for s in found) == sorted(list(scenes.FAMILIES) * 5)
    assert all(bool(s.images) == (s.family != "text") for s in found)
    assert len({s.id for s in found}) == 50


@pytest.mark.parametrize("split", ["align", "train", "calibration"])
def test_held_out_pairs_are_neither_drawn_nor_asked_outside_the_test_split(split):
    for index in range(40):
        scene, asked = scenes.full_scene(scenes.stream(split, 0, index), 2 + index % 5)
        assert not {(t.colour, t.shape) for t in scene.things} & scenes.HELD_OUT
        assert not any(f"{c} {s}" in q.text for q in asked for c, s in scenes.HELD_OUT)


def test_test_split_shows_held_out_pairs():
    drawn = [scenes.full_scene(scenes.stream("test", 0, i), 4, unseen=True)[0] for i in range(20)]
    assert any((t.colour, t.shape) in scenes.HELD_OUT for s in drawn for t in s.things)


def test_answers_are_true():
    things = (
        scenes.Thing("red", "circle", "large", "A", 0, 0, 18, 18),
        scenes.Thing("blue", "star", "small", None, 0, 1, 55, 18),
    )
    scene, rng = scenes.Scene(things, (250, 250, 250), True), np.random.default_rng(0)
    facts = {
        "what color is the circle?": "red", "what is the blue shape?": "star", "is there a red circle?": "yes",
        "what color is right of the red circle?": "blue", "what shape is left of the blue star?": "circle",
        "is the red circle larger than the blue star?": "yes", "is the blue star above the red circle?": None,
        "is the red circle left of the blue star?": "yes", "is the blue star left of the red circle?": "no",
        "what size is the blue star?": "small", "what is written on the red circle?": "A",
        "how many red shapes?": "1", "how many green shapes?": "0", "is there a red star?": "no",
    }  # fmt: skip
    asked = {q.text: q.answer for q in scenes.questions(scene, rng, list(scenes.FAMILIES) * 60)}
    for text, answer in facts.items():
        assert asked.get(text) == answer, text


def test_yes_and_no_come_equally_often():
    answers = [s.answer for s in scenes.samples("train", 4000) if s.answer in ("yes", "no")]
    assert 0.46 < answers.count("yes") / len(answers) < 0.54


def test_unknown_split_is_named():
    with pytest.raises(DataError, match="'dev'"):
        scenes.samples("dev", 1)
