"""Harder sets of scenes: true answers, splits apart, photographs kept out of `align`, names that the door knows."""

from __future__ import annotations

import re
import sys
from collections import Counter

import numpy as np
import pytest

from lookaway.core.errors import DataError, MissingDependency
from lookaway.data import GENERATED, load_samples
from lookaway.data.scenes import SETS, draw, full_scene, owners, stream
from lookaway.data.scenes.backgrounds import PHOTOGRAPHS, TRAINING_PHOTOGRAPHS, photograph
from lookaway.data.scenes.things import HELD_OUT

HARD = [name for name in GENERATED if name.startswith("mini:")]


def test_crowded_scenes_hold_7_to_12_things_and_all_can_be_seen():
    for index in range(12):
        kind = SETS["crowded"]
        scene, _ = full_scene(stream("train", 0, index, kind.number), 7 + index % 6, False, kind.families, kind.grid)
        shown = np.bincount(owners(scene).ravel(), minlength=len(scene.things) + 1)[1:]
        assert len(scene.things) == 7 + index % 6
        assert (shown > 60).all()  # nothing is hidden behind another thing


def test_answers_about_the_whole_picture_are_true():
    kind = SETS["whole"]
    asked = Counter()
    for index in range(60):
        scene, questions = full_scene(stream("train", 1, index, kind.number), 5 + index % 5, False, kind.families)
        colours, shapes = Counter(t.colour for t in scene.things), Counter(t.shape for t in scene.things)
        tally = colours + shapes
        for question in questions:
            asked[question.family, question.answer] += 1
            words = question.text.rstrip("?").split()
            if question.family == "count-all":
                assert question.answer == str(len(scene.things))
            elif question.family == "more":
                a, b = re.findall(r"(\w+) shapes", question.text)
                assert question.answer == ("yes" if tally[a] > tally[b] else "no")
                assert tally[a] != tally[b]
            elif question.family == "most":
                own = colours if words[1] == "color" else shapes
                assert own[question.answer] == max(own.values())
                assert list(own.values()).count(max(own.values())) == 1
            else:
                assert question.answer == str(tally[words[2]])
    assert min(asked["more", "yes"], asked["more", "no"]) > 15


def test_splits_of_the_hard_sets_share_nothing_and_seen_pairs_are_seen():
    for name in ("mini:crowded", "mini:whole"):
        found = {split: load_samples(name, split, 60) for split in ("train", "calibration", "test", "test-seen")}
        pictures = [sample.image_key for samples in found.values() for sample in samples]
        groups = {split: {sample.image_key for sample in samples} for split, samples in found.items()}
        assert len(set(pictures)) == sum(len(group) for group in groups.values())
        named = {split: any(f"{c} {s}" in sample.question for sample in samples for c, s in HELD_OUT)
                 for split, samples in found.items()}  # fmt: skip
        assert not any(named[split] for split in ("train", "calibration", "test-seen"))
        assert any(sample.meta["held_out"] for sample in found["test"])


def test_the_whole_of_mini_hard_is_in_equal_parts_and_one_question_an_image():
    pytest.importorskip("skimage")
    found = load_samples("mini-hard", "calibration", 31, distinct_images=True)
    assert Counter(sample.family for sample in found) == {"crowded": 11, "photo": 10, "whole": 10}
    assert len({sample.image_key for sample in found}) == 31
    assert found == load_samples("mini-hard", "calibration", 31, distinct_images=True)


def test_photographs_lie_below_a_rim_and_align_has_its_own():
    pytest.importorskip("skimage")
    assert not set(PHOTOGRAPHS) & set(TRAINING_PHOTOGRAPHS)
    names = {split: {photograph(stream(split, 0, i), split)[1] for i in range(60)} for split in ("align", "test")}
    assert names == {"align": set(TRAINING_PHOTOGRAPHS), "test": set(PHOTOGRAPHS)}
    ground, _ = photograph(stream("train", 0, 3), "train")
    scene, _ = full_scene(stream("train", 0, 4), 3)
    plain, owner = np.asarray(draw(scene)), owners(scene)
    shown = np.asarray(draw(scene, ground=ground))
    assert np.array_equal(shown[owner > 0], plain[owner > 0])  # the things are the same
    far = np.ones_like(owner, dtype=bool)
    for y, x in np.argwhere(owner > 0):
        far[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = False
    assert np.array_equal(shown[far], np.asarray(ground)[far])
    rim = ~far & (owner == 0)
    assert (shown[rim] == scene.background).all()


def test_without_scikit_image_the_cure_is_named(monkeypatch):
    from lookaway.data.scenes import backgrounds

    backgrounds._opened.cache_clear()
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"lookaway\[photos\]"):
        load_samples("mini:photo", "train", 3)


def test_test_seen_is_of_generated_sets_alone(tmp_path):
    (tmp_path / "d.json").write_text('[{"question": "what?"}]')
    with pytest.raises(DataError, match="Only the generated sets"):
        load_samples(str(tmp_path / "d.json"), "test-seen")
    with pytest.raises(DataError, match="test-seen"):
        load_samples("mini-hard", "all")
    assert {s.meta.get("held_out", False) for s in load_samples("mini", "test-seen", 40)} == {False}
