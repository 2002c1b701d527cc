"""NLVR2's lines and Karpathy's JSON."""

from __future__ import annotations

import json

import pytest

from lookaway.core.errors import DataError
from lookaway.data import load_samples
from lookaway.data.nlvr2 import read_nlvr2
from lookaway.data.retrieval import read_retrieval


def line(identifier, label, **more):
    return json.dumps({"identifier": identifier, "sentence": "Two dogs run.", "label": label, **more})


@pytest.fixture
def nlvr2(tmp_path):
    (tmp_path / "train.json").write_text(line("train-10-0-1", "False", directory=39))
    (tmp_path / "dev.json").write_text(line("dev-5-2-0", "True") + "\n" + line("dev-5-2-1", "False") + "\n")
    (tmp_path / "test1.json").write_text(line("test1-0-0-0", "True"))
    return tmp_path


def test_two_images_a_statement(nlvr2):
    true, false = load_samples(f"nlvr2:{nlvr2}", "calibration")
    assert true.images == tuple(str(nlvr2 / f"images/dev/dev-5-2-img{i}.png") for i in (0, 1)) == false.images
    assert [part["type"] for part in true.messages[0]["content"]] == ["image", "image", "text"]
    assert (true.answer, true.meta["label"], false.answer, false.meta["label"]) == ("yes", 1, "no", 0)
    assert true.meta["sentence"] == "Two dogs run."
    assert true.question == "Two dogs run. Is this true of the two images? Answer yes or no."
    (train,) = read_nlvr2(nlvr2, "train")
    assert train.images[1] == str(nlvr2 / "images/train/39/train-10-0-img1.png")
    assert len(read_nlvr2(nlvr2, "all")) == 4


def test_what_is_wrong_in_nlvr2_is_named(nlvr2):
    with pytest.raises(DataError, match="No split 'dev'"):
        read_nlvr2(nlvr2, "dev")
    (nlvr2 / "dev.json").write_text(line("dev-1-0-0", "Maybe"))
    with pytest.raises(DataError, match=r"dev\.json, line 1: 'label' must be 'True' or 'False', not 'Maybe'"):
        read_nlvr2(nlvr2, "calibration")
    (nlvr2 / "train.json").write_text(line("train-1-0-0", "True") + "\n[]")
    with pytest.raises(DataError, match=r"line 2 is no JSON object"):
        read_nlvr2(nlvr2, "train")
    (nlvr2 / "train.json").write_text(line("train-1-0-0", "True"))
    with pytest.raises(DataError, match="line 1 has no 'directory'"):
        read_nlvr2(nlvr2, "train")


def image(name, split, *captions, **more):
    return {"filename": name, "split": split, "sentences": [{"raw": c, "tokens": []} for c in captions], **more}


def test_captions_and_their_images(tmp_path):
    file = tmp_path / "dataset_flickr30k.json"
    entries = [
        image("1.jpg", "test", "a", "b"), image("2.jpg", "train", "c"), image("3.jpg", "test", "d"),
        image("4.jpg", "restval", "e", filepath="val2014"),
    ]  # fmt: skip
    file.write_text(json.dumps({"images": entries, "dataset": "flickr30k"}))
    test = read_retrieval(file, tmp_path / "photos")
    assert test.images == (str(tmp_path / "photos" / "1.jpg"), str(tmp_path / "photos" / "3.jpg"))
    assert (test.captions, test.image_of) == (("a", "b", "d"), (0, 0, 1))
    assert test.captions_of(0) == ("a", "b")
    train = read_retrieval(file, split="train")
    assert train.images == (str(tmp_path / "2.jpg"), str(tmp_path / "val2014" / "4.jpg"))
    with pytest.raises(DataError, match="no image in the split 'calibration'"):
        read_retrieval(file, split="calibration")
    file.write_text(json.dumps({"images": [image("1.jpg", "test")]}))
    with pytest.raises(DataError, match=r"image 1 \(1.jpg\) has no caption"):
        read_retrieval(file)
    file.write_text(json.dumps({"images": [{"split": "test"}]}))
    with pytest.raises(DataError, match="image 1 has no 'sentences'"):
        read_retrieval(file)
