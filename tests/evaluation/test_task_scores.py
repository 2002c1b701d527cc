"""Scores of public tasks against slow and obvious reference implementations."""

from __future__ import annotations

import itertools

import pytest
import torch

from lookaway.core.errors import DataError
from lookaway.core.record import Sample
from lookaway.evaluation.scorers.vqa import soft_accuracy
from lookaway.evaluation.task_scores import recall_at, scienceqa_accuracy


@pytest.mark.parametrize(("agreeing", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_of_ten_people(agreeing, score):
    truths = ["Two "] * agreeing + [f"word{i}" for i in range(10 - agreeing)]
    assert soft_accuracy("2", truths) == pytest.approx(score)
    subsets = itertools.combinations([truth == "Two " for truth in truths], 9)
    assert soft_accuracy("2", truths) == pytest.approx(sum(min(sum(s) / 3, 1) for s in subsets) / 10)


def question(number, subject, letter, grade="grade2", text=False, image=False):
    meta = {"choices": ("x", "y"), "grade": grade, "has_text": text, "has_image": image}
    return Sample(number, [{"role": "user", "content": "?"}], (), letter, subject, meta)


def test_scienceqas_table():
    samples = [
        question("a", "natural science", "A", "grade6", text=True, image=True),
        question("b", "natural science", "B", "grade7", text=True),
        question("c", "social science", "B", "grade12"),
        question("d", "social science", "A", "grade1", image=True),
    ]
    texts = {"a": "The answer is A.", "b": "no idea", "c": "The answer is B. BECAUSE: x", "d": "The answer is B."}
    assert scienceqa_accuracy(samples, texts) == {
        "natural": 0.5, "social": 0.5, "language": None, "text": 0.5, "image": 0.5, "no context": 1.0,
        "grades 1-6": 0.5, "grades 7-12": 0.5, "average": 0.5,
    }  # fmt: skip
    with pytest.raises(DataError, match="'d' has not been answered; 3 of 4 were"):
        scienceqa_accuracy(samples, {k: v for k, v in texts.items() if k != "d"})


def test_recall_equals_sorting():
    draw = torch.Generator().manual_seed(0)
    image_of = [i // 5 for i in range(60)]
    scores = torch.randn(60, 12, generator=draw)
    scores[range(60), image_of] += 1.0
    found = recall_at(scores, image_of, (1, 3))
    for k in (1, 3):
        images = [image_of[c] in scores[c].argsort(descending=True)[:k].tolist() for c in range(60)]
        texts = [any(image_of[c] == i for c in scores[:, i].argsort(descending=True)[:k].tolist()) for i in range(12)]
        assert found[f"image@{k}"] == pytest.approx(sum(images) / 60)
        assert found[f"text@{k}"] == pytest.approx(sum(texts) / 12)
    assert 0 < found["image@1"] < found["image@3"] < 1


def test_a_model_that_scores_all_alike_finds_nothing():
    assert set(recall_at(torch.zeros(20, 20), range(20)).values()) == {0.0}


def test_scores_must_fit():
    with pytest.raises(DataError, match=r"\(2, 3\) for 2 captions of 2 images"):
        recall_at(torch.zeros(2, 3), [0, 1])
    with pytest.raises(DataError, match="needs several people's answers"):
        soft_accuracy("x", ())
