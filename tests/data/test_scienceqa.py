"""ScienceQA's layout: splits, images, the prompt as published, and answers that are read or not."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from lookaway.core.errors import DataError
from lookaway.data import load_samples
from lookaway.data.scienceqa import parse_answer, prompt_of, read_scienceqa, target_of

WITH_IMAGE = {
    "question": "Which  is north?", "choices": ["Maine", "Ohio"], "answer": 1, "hint": "Look at the map.",
    "image": "image.png", "grade": "grade3", "subject": "social science", "lecture": "Maps\nhelp.",
    "solution": "So Ohio.",
}  # fmt: skip
PLAIN = {
    "question": "Which rhymes?", "choices": ["cat", "dog", "log"], "answer": 0, "hint": "", "image": None,
    "grade": "grade8", "subject": "language science", "lecture": "", "solution": "",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "problems.json").write_text(json.dumps({"1": WITH_IMAGE, "2": PLAIN, "7": PLAIN}))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"train": ["2"], "val": ["7"], "test": ["1"]}))
    return tmp_path


def test_a_question_with_an_image(folder):
    (sample,) = read_scienceqa(folder)
    assert sample.images == (str(folder / "images" / "test" / "1" / "image.png"),)
    assert [part["type"] for part in sample.messages[0]["content"]] == ["image", "text"]
    assert (sample.id, sample.answer, sample.family) == ("1", "B", "social science")
    assert (sample.meta["has_text"], sample.meta["has_image"], sample.meta["grade"]) == (True, True, "grade3")
    assert sample.question == (
        "Question: Which is north?\nContext: Look at the map.\nOptions: (A) Maine (B) Ohio\nResponse:"
    )
    assert sample.meta["target"] == "The answer is B. BECAUSE: Maps\\nhelp. So Ohio."


def test_a_question_without_image_or_context(folder):
    (sample,) = read_scienceqa(folder, "calibration")
    assert (sample.id, sample.images, sample.meta["has_image"], sample.meta["has_text"]) == ("7", (), False, False)
    assert prompt_of(PLAIN) == "Question: Which rhymes?\nContext: N/A\nOptions: (A) cat (B) dog (C) log\nResponse:"
    assert target_of(PLAIN) == "The answer is A. BECAUSE:"


def test_captions_join_the_context(folder):
    (folder / "captions.json").write_text(json.dumps({"captions": {"1": "a map"}}))
    (sample,) = read_scienceqa(folder, "test", folder / "captions.json")
    assert "Context: Look at the map. a map\n" in sample.question
    assert "Context: a map\n" in prompt_of(PLAIN, "a map")


def test_the_door_of_all_data(folder):
    assert [s.id for s in load_samples(f"scienceqa:{folder}", "all")] == ["2", "7", "1"]
    assert [s.id for s in load_samples(f"scienceqa:{folder}", "train")] == ["2"]
    assert len(load_samples(f"scienceqa:{folder}", "all", limit=2)) == 2
    (folder / "images" / "test" / "1").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "images" / "test" / "1" / "image.png")
    assert [s.id for s in load_samples(f"scienceqa:{folder}", "all", distinct_images=True)] == ["1"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is B. BECAUSE: it is.", "B"),
        ("Sure. The answer is C", "C"),
        ("The answer is D.", None),  # no such choice
        ("The answer is A. No: The answer is B.", None),  # two answers are none
        ("The answer is Apple.", None),
        ("I think it is B", None),
        (" (A) ", "A"),
        ("C.", "C"),
        ("", None),
    ],
)
def test_answers_that_are_read_and_not(text, letter):
    assert parse_answer(text, ["a", "b", "c"]) == letter


def test_what_is_wrong_is_named(folder):
    with pytest.raises(DataError, match="No split 'dev'"):
        read_scienceqa(folder, "dev")
    with pytest.raises(DataError, match=r"no file .*problems\.json"):
        read_scienceqa(folder / "images")
    (folder / "pid_splits.json").write_text(json.dumps({"test": ["9"]}))
    with pytest.raises(DataError, match="Problem '9' of the split 'test' is not in"):
        read_scienceqa(folder)
    with pytest.raises(DataError, match="no split 'train'"):
        read_scienceqa(folder, "train")
    (folder / "pid_splits.json").write_text(json.dumps({"test": ["1"]}))
    (folder / "problems.json").write_text(json.dumps({"1": {"question": "?", "choices": ["a"]}}))
    with pytest.raises(DataError, match="has no 'answer'"):
        read_scienceqa(folder)
    (folder / "problems.json").write_text(json.dumps({"1": {"question": "?", "choices": ["a"], "answer": 1}}))
    with pytest.raises(DataError, match="1 choices and the answer 1"):
        read_scienceqa(folder)
    (folder / "problems.json").write_text("[]")
    with pytest.raises(DataError, match="must hold a JSON dict, not list"):
        read_scienceqa(folder)
    (folder / "problems.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_scienceqa(folder)
