"""easy-VQA: splits by image, balance, and the answers that alignment derives agree with the author's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lookaway.core.errors import DataError

pytest.importorskip("easy_vqa")
from lookaway.data import easy_vqa


def test_splits_share_no_image_and_cover_everything():
    ids = {split: {i.image for i in easy_vqa.items(split)} for split in ("align", "train", "calibration")}
    assert not ids["align"] & ids["train"]
    assert not ids["train"] & ids["calibration"]
    assert sum(len(easy_vqa.items(s)) for s in ids) == 38_575
    assert len(easy_vqa.items("test")) == 9_673


def test_families_are_told_apart_by_question_and_answer():
    for item in easy_vqa.items("test"):
        assert (item.family == "easy-yesno") == (item.answer in ("yes", "no"))
        assert (item.family == "easy-shape") == (item.answer in ("circle", "rectangle", "triangle"))


def test_balanced_has_as_many_yes_as_no_for_every_string():
    counts = Counter((i.text, i.answer) for i in easy_vqa.balanced("align", np.random.default_rng(0)))
    for (text, answer), n in counts.items():
        if answer == "yes":
            assert counts[text, "no"] == n


def test_samples_are_deterministic_and_too_many_are_refused():
    first, again = easy_vqa.samples("test", 30, seed=1), easy_vqa.samples("test", 30, seed=1)
    assert [s.id for s in first] == [s.id for s in again]
    assert len({s.id for s in first}) == 30
    assert first[0].images[0].size == (64, 64)
    with pytest.raises(DataError, match="9673"):
        easy_vqa.samples("test", 10_000)
