"""VQAv2's layout, its normal form of answers, and the classifier's labels."""

from __future__ import annotations

import json

import pytest
import torch

from lookaway.core.errors import DataError
from lookaway.data import load_samples
from lookaway.data.vqa_words import normal_answer, soft_scores
from lookaway.data.vqav2 import VqaLabels, read_vqav2


def write(folder, part, images, answers=True):
    """Two questions an image, the second answered 'yes' by seven people, 'no' by two and 'Yes!' by one."""
    questions = [{"image_id": i, "question_id": 10 * i + j, "question": f"Q{j}?"} for i in images for j in (0, 1)]
    (folder / f"v2_OpenEnded_mscoco_{part}_questions.json").write_text(json.dumps({"questions": questions}))
    if answers:
        people = [["two"] * 10, ["yes"] * 7 + ["no"] * 2 + ["Yes!"]]
        rows = [
            {
                "question_id": q["question_id"],
                "answer_type": ["number", "yes/no"][q["question_id"] % 10],
                "multiple_choice_answer": ["two", "yes"][q["question_id"] % 10],
                "answers": [{"answer": a} for a in people[q["question_id"] % 10]],
            }
            for q in questions
        ]
        (folder / f"v2_mscoco_{part}_annotations.json").write_text(json.dumps({"annotations": rows}))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "train2014", range(5))
    write(tmp_path, "val2014", range(100, 140))
    write(tmp_path, "test2015", [7], answers=False)
    return tmp_path


def test_questions_answers_and_image_names(folder):
    first, second, *rest = read_vqav2(folder, "train")
    assert len(rest) == 8
    assert first.images == (str(folder / "train2014" / "COCO_train2014_000000000000.jpg"),)
    assert first.question == "Q0?\nAnswer the question using a single word or phrase."
    assert (first.id, first.meta["question"], first.answer, first.family) == ("0", "Q0?", "two", "number")
    assert soft_scores(second.meta["answers"]) == {"yes": 1.0, "no": 0.6, "Yes!": 0.3}


def test_calibration_and_test_are_halves_of_val_by_image(folder):
    parts = {split: load_samples(f"vqav2:{folder}", split) for split in ("calibration", "test")}
    images = {split: {s.images for s in found} for split, found in parts.items()}
    assert not images["calibration"] & images["test"]
    assert sum(map(len, images.values())) == 40
    assert min(map(len, images.values())) >= 10
    assert all(len(parts[split]) == 2 * len(images[split]) for split in parts)
    assert len(read_vqav2(folder, "all")) == 90


def test_parts_without_answers(folder):
    sample, _ = read_vqav2(folder, "test2015")
    assert (sample.answer, sample.meta["answers"]) == (None, ())
    assert sample.images[0].endswith("test2015/COCO_test2015_000000000007.jpg")


def test_labels_are_the_frequent_answers_in_order_of_occurrence(folder, tmp_path):
    samples = read_vqav2(folder, "train")
    assert VqaLabels.from_samples(samples, least=5).answers == ("2", "yes")
    assert VqaLabels.from_samples(samples, least=6).answers == ()
    labels = VqaLabels(["no", "two", "yes"])
    expected = torch.tensor([[0.0, 1.0, 0.0], [0.6, 0.0, 1.0]])
    torch.testing.assert_close(labels.targets(samples[:2]), expected)
    assert labels.named(torch.tensor([[0.1, 3.0, 1.0], [0.0, -1.0, 0.5]])) == ["two", "yes"]
    (tmp_path / "ans2label.json").write_text(json.dumps({"yes": 1, "no": 0}))
    assert VqaLabels.read(tmp_path / "ans2label.json").answers == ("no", "yes")
    with pytest.raises(DataError, match="'yes' stands twice"):
        VqaLabels(["yes", "no", "yes"])


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The  Dogs, dont!", "dogs don't"),
        ("two", "2"),
        ("None", "0"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("Mr. T.", "mr t"),
        ("black-and-white", "black and white"),
        ("well", "well"),  # no contraction of "we'll"
        ("a", ""),
        ("o'clock", "o'clock"),
        ("oclock", "o'clock"),
    ],
)
def test_normal_form(answer, normal):
    assert normal_answer(answer) == normal


def test_what_is_wrong_is_named(folder):
    with pytest.raises(DataError, match="No split 'dev' of VQAv2"):
        read_vqav2(folder, "dev")
    (folder / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": [
        {"question_id": 0, "answers": [], "multiple_choice_answer": "x"}]}))  # fmt: skip
    with pytest.raises(DataError, match="Question 1 of"):
        read_vqav2(folder, "train")
    (folder / "v2_mscoco_train2014_annotations.json").unlink()
    with pytest.raises(DataError, match="There is no file"):
        read_vqav2(folder, "train")
    (folder / "labels.json").write_text("3")
    with pytest.raises(DataError, match="must hold a list of answers"):
        VqaLabels.read(folder / "labels.json")
