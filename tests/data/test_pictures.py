"""A folder of pictures without questions: generic prompts, stable by content, splits without copies in common."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from lookaway.core.errors import DataError
from lookaway.data import load_samples
from lookaway.data.pictures import GENERIC, PROMPTS


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(5)
    (tmp_path / "inside").mkdir()
    (tmp_path / ".hidden").mkdir()
    for number in range(40):
        place = tmp_path / "inside" if number % 2 else tmp_path
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(place / f"{number}.png")
    shutil.copy(tmp_path / "0.png", tmp_path / ".hidden" / "h.png")
    (tmp_path / "notes.txt").write_text("no question here")
    return tmp_path


def test_every_picture_gets_one_prompt_by_its_content(folder):
    first = load_samples(str(folder), "all")
    assert len(first) == 40
    assert {s.question for s in first} == set(PROMPTS.values())
    assert all(PROMPTS[s.family] == s.question and s.answer is None and s.meta[GENERIC] for s in first)
    moved = folder / "inside" / "renamed.PNG"
    (folder / "0.png").rename(moved)
    again = {s.id: s for s in load_samples(str(folder), "all")}
    before = next(s for s in first if s.id == "0.png")
    assert again["inside/renamed.PNG"].question == before.question
    assert again["inside/renamed.PNG"].image_key == before.image_key


def test_a_copy_of_a_picture_is_the_same_image_in_the_same_split(folder):
    for number in range(40):
        where = folder / "inside" if number % 2 else folder
        shutil.copy(where / f"{number}.png", folder / f"copy-{number}.png")
    splits = {split: load_samples(str(folder), split) for split in ("train", "calibration", "test")}
    keys = {split: {s.image_key for s in samples} for split, samples in splits.items()}
    assert sum(map(len, splits.values())) == 80
    assert sum(map(len, keys.values())) == len(set.union(*keys.values())) == 40
    assert len(load_samples(str(folder), "all", distinct_images=True)) == 40


def test_a_folder_with_a_file_of_questions_is_read_by_that_file(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "question": "what?"}\n')
    (found,) = load_samples(str(folder), "all")
    assert found.question == "what?"
    assert GENERIC not in found.meta


def test_a_picture_that_cannot_be_read_is_named(folder):
    (folder / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.jpg cannot be read as a picture"):
        load_samples(str(folder), "all")
