"""GQA, TextVQA, POPE and MME in their authors' layouts; the exact prompts; what is wrong is named."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from lookaway.core.errors import DataError
from lookaway.data import load_samples

SHORT = "\nAnswer the question using a single word or phrase."


@pytest.fixture
def gqa(tmp_path):
    question = {"imageId": "n1", "question": "Is it red?", "answer": "yes", "types": {"structural": "verify"}}
    for part in ("train", "val", "testdev"):
        (tmp_path / f"{part}_balanced_questions.json").write_text(json.dumps({part: question}))
    return tmp_path


@pytest.fixture
def textvqa(tmp_path):
    for part in ("train", "val", "test"):
        rows = [
            {"question": "what is the BRAND?", "image_id": f"{part}{i}", "question_id": f"{part}-{i}",
             "answers": ["nokia"] * 10}
            for i in range(20)
        ]  # fmt: skip
        for row in rows if part == "test" else []:
            del row["answers"]
        (tmp_path / f"TextVQA_0.5.1_{part}.json").write_text(json.dumps({"data": rows}))
    return tmp_path


@pytest.fixture
def pope(tmp_path):
    for kind in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": i, "image": "COCO_val2014_1.jpg", "text": "Is there a dog?", "label": label}
            for i, label in enumerate(("yes", "no"))
        ]
        (tmp_path / f"coco_pope_{kind}.json").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.fixture
def mme(tmp_path):
    lines = "Is it a cat? Please answer yes or no.\tYes\nIs it a dog? Please answer yes or no.\tNo\n"
    for place in ("count/1.jpg", "OCR/images/2.png"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(b"")
    (tmp_path / "count" / "1.txt").write_text(lines)
    (tmp_path / "OCR" / "questions_answers_YN").mkdir()
    (tmp_path / "OCR" / "questions_answers_YN" / "2.txt").write_text(lines)
    return tmp_path


def test_gqa(gqa):
    (sample,) = load_samples(f"gqa:{gqa}", "test")
    assert (sample.id, sample.answer, sample.family) == ("testdev", "yes", "verify")
    assert sample.question == "Is it red?" + SHORT
    assert sample.images == (str(gqa / "images" / "n1.jpg"),)
    assert [s.id for s in load_samples(f"gqa:{gqa}", "all")] == ["train", "val", "testdev"]
    with pytest.raises(DataError, match="No split 'challenge' of GQA"):
        load_samples(f"gqa:{gqa}", "challenge")
    (gqa / "val_balanced_questions.json").write_text('{"1": {"question": "?"}}')
    with pytest.raises(DataError, match="question '1' has no 'imageId'"):
        load_samples(f"gqa:{gqa}", "calibration")


def test_textvqa(textvqa):
    parts = {split: load_samples(f"textvqa:{textvqa}", split) for split in ("train", "calibration", "test")}
    first = parts["train"][0]
    assert first.question == "What is the brand?" + SHORT
    assert (first.answer, first.meta["scorer"], len(first.meta["answers"])) == ("nokia", "textvqa", 10)
    assert first.images == (str(textvqa / "train_images" / "train0.jpg"),)
    assert len(parts["calibration"]) + len(parts["test"]) == 20
    assert not {s.images for s in parts["calibration"]} & {s.images for s in parts["test"]}
    assert len(load_samples(f"textvqa:{textvqa}", "all")) == 40
    (textvqa / "TextVQA_0.5.1_val.json").write_text('{"data": [{"question": "?"}]}')
    with pytest.raises(DataError, match="question 1 has no 'image_id'"):
        load_samples(f"textvqa:{textvqa}", "test")


def test_pope(pope):
    found = load_samples(f"pope:{pope}", "test")
    assert [(s.id, s.answer) for s in found[:2]] == [("random-0", "yes"), ("random-1", "no")]
    assert {s.family for s in found} == {"random", "popular", "adversarial"}
    assert found[0].question == "Is there a dog?" + SHORT
    assert found[0].images == (str(pope / "val2014" / "COCO_val2014_1.jpg"),)
    assert len(load_samples(f"pope:{pope}", "adversarial")) == 2
    assert len({s.image_key for s in found}) == 1
    with pytest.raises(DataError, match="POPE is for tests only: it has no split 'train'"):
        load_samples(f"pope:{pope}", "train")


def test_mme(mme):
    found = load_samples(f"mme:{mme}", "test")
    assert [s.family for s in found] == ["OCR", "OCR", "count", "count"]
    assert [s.answer for s in found[:2]] == ["Yes", "No"]
    assert found[0].question == "Is it a cat?" + SHORT
    assert found[0].meta["pair"] == found[1].meta["pair"] == "OCR/images/2.png"
    (mme / "count" / "1.txt").write_text("Is it?")
    with pytest.raises(DataError, match="must hold two lines"):
        load_samples(f"mme:{mme}", "count")
    with pytest.raises(DataError, match="No split 'colour' of MME; there are test, all and OCR, count"):
        load_samples(f"mme:{mme}", "colour")


@pytest.mark.parametrize("kind", ["gqa", "textvqa", "pope", "mme"])
def test_an_empty_folder_is_named(kind, tmp_path):
    with pytest.raises(DataError, match=r"docs/data\.md"):
        load_samples(f"{kind}:{tmp_path}", "test")


def test_one_question_an_image(pope):
    (pope / "val2014").mkdir()
    Image.new("RGB", (4, 4)).save(pope / "val2014" / "COCO_val2014_1.jpg")
    assert len(load_samples(f"pope:{pope}", "test", distinct_images=True)) == 1
