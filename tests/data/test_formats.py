"""A user's own files: what goes in comes out, and what is wrong is named with its place."""

import json

import pytest
from PIL import Image

from lookaway.core.errors import DataError
from lookaway.data import load_samples
from lookaway.data.formats import read_samples, split_of

QA = {"id": "a", "image": "x.png", "question": "What colour?", "answer": "red", "family": "colour"}
LLAVA = {
    "id": "b",
    "image": "y.png",
    "conversations": [{"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": "blue"}],
}
CHAT = {
    "id": "c",
    "images": ["x.png", "y.png"],
    "messages": [
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Same?"}]},
        {"role": "assistant", "content": "no"},
    ],
}


def write(path, entries):
    lines = path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, entries)) if lines else json.dumps(entries))
    return path


@pytest.mark.parametrize("name", ["d.json", "d.jsonl"])
def test_the_three_formats_in_one_file(tmp_path, name):
    qa, llava, chat = read_samples(write(tmp_path / name, [QA, LLAVA, CHAT]))
    assert qa.images == (str(tmp_path / "x.png"),)
    assert (qa.answer, qa.family, qa.question) == ("red", "colour", "What colour?")
    assert qa.messages == [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour?"}]}]
    assert llava.messages == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour?"}]}
    ]
    assert (llava.answer, chat.answer, len(chat.images), len(chat.messages)) == ("blue", "no", 2, 1)


def test_a_folder_with_one_file_and_questions_without_image_or_answer(tmp_path):
    write(tmp_path / "d.jsonl", [{"question": "What is 1 plus 1?"}])
    (sample,) = read_samples(tmp_path)
    assert (sample.images, sample.answer, sample.id) == ((), None, "1")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([QA, QA], "entry 2 has the id 'a' of entry 1"),
        ([{"text": "?"}], r"entry 1 has the keys \['text'\]"),
        ([QA | {"image": ["x", "y"]}, LLAVA | {"image": ["x", "y"]}], "entry 2 has 2 images for 1 image placeholders"),
        ([{k: v for k, v in LLAVA.items() if k != "image"}], "0 images for 1 image placeholders"),
        ([LLAVA | {"conversations": [{"from": "robot", "value": ""}]}], "must be a list of 'from'"),
        ([CHAT | {"messages": []}], "ends with the user's"),
        ([CHAT | {"messages": CHAT["messages"][1:]}], "ends with the user's"),
        (["x"], "no JSON object"),
        ([], "holds no samples"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, entries, message):
    with pytest.raises(DataError, match=message):
        read_samples(write(tmp_path / "d.json", entries))


def test_damaged_and_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match="No data at"):
        load_samples(str(tmp_path / "none.json"))
    (tmp_path / "d.jsonl").write_text(json.dumps(QA) + "\n{")
    with pytest.raises(DataError, match="line 2 is not valid JSON"):
        read_samples(tmp_path / "d.jsonl")
    (tmp_path / "e.json").write_text("{}")
    with pytest.raises(DataError, match="must hold a JSON list"):
        read_samples(tmp_path / "e.json")
    with pytest.raises(DataError, match=r"found d\.jsonl, e\.json"):
        read_samples(tmp_path)
    (tmp_path / "f.txt").write_text("")
    with pytest.raises(DataError, match=r"neither \.json nor \.jsonl"):
        read_samples(tmp_path / "f.txt")


def test_splits_never_share_a_picture_and_do_not_depend_on_the_folder(tmp_path):
    entries = [QA | {"id": str(i), "image": f"{i // 3}.png"} for i in range(300)]
    (tmp_path / "moved").mkdir()
    here, there = write(tmp_path / "d.json", entries), write(tmp_path / "moved" / "d.json", entries)
    pictures = {s: {x.images for x in load_samples(str(here), s)} for s in ("train", "calibration", "test")}
    assert sum(map(len, pictures.values())) == len(set.union(*pictures.values())) == 100
    assert [split_of(a) for a in read_samples(here)] == [split_of(b) for b in read_samples(there)]
    assert 45 <= len(pictures["train"]) <= 75


def test_limit_is_seeded_and_splits_are_checked(tmp_path):
    file = str(write(tmp_path / "d.json", [QA | {"id": str(i), "image": f"{i}.png"} for i in range(50)]))
    first = [s.id for s in load_samples(file, "all", limit=5, seed=1)]
    assert first == [s.id for s in load_samples(file, "all", limit=5, seed=1)]
    assert len(first) == 5
    assert first != [s.id for s in load_samples(file, "all", limit=5, seed=2)]
    for call in (
        lambda: load_samples(file, "dev"),
        lambda: load_samples(file, limit=0),
        lambda: load_samples("mini", "all"),
    ):
        with pytest.raises(DataError):
            call()


def test_the_default_sets_are_mixed_and_disjoint():
    parts = {split: load_samples("mini", split, limit=40) for split in ("train", "calibration", "test")}
    assert all(len(found) == 40 for found in parts.values())
    assert {"easy-yesno", "colour", "read"} <= {s.family for s in parts["test"]}
    ids = [s.id for found in parts.values() for s in found]
    assert len(ids) == len(set(ids))


def test_one_path_in_two_spellings_is_one_image(tmp_path):
    entries = [QA | {"id": str(i), "image": ("x.png", "./x.png", "a/../x.png")[i % 3]} for i in range(3)]
    found = read_samples(write(tmp_path / "d.json", entries))
    assert {sample.image_key for sample in found} == {"x.png"}
    assert len({split_of(sample) for sample in found}) == 1


def test_a_family_of_the_name_of_all_is_refused(tmp_path):
    """Its row took the place of all questions in records and figures."""
    with pytest.raises(DataError, match="family of question 'a' is 'all', which is what tables call all questions"):
        read_samples(write(tmp_path / "d.json", [QA | {"family": "all"}]))


def test_independent_samples_are_drawn_from_the_whole_file_and_copies_count_as_one(tmp_path):
    """A file that holds a picture a question, exported under names of their own, is no file of so many pictures: a
    certificate counted each copy. And the first so many of a file that is sorted by kind are of one kind."""
    for number in range(30):
        Image.new("RGB", (4, 4), (number // 3, 0, 0)).save(tmp_path / f"{number}.png")
    entries = [QA | {"id": str(i), "image": f"{i}.png", "family": "ab"[i >= 15]} for i in range(30)]
    file = str(write(tmp_path / "d.json", entries))
    found = load_samples(file, "all", distinct_images=True)
    assert [sample.id for sample in found] == [str(3 * i) for i in range(10)]
    few = load_samples(file, "all", limit=6, seed=3, distinct_images=True)
    assert len(few) == len({int(sample.id) // 3 for sample in few}) == 6
    assert {sample.family for sample in few} == {"a", "b"}
    assert few == load_samples(file, "all", limit=6, seed=3, distinct_images=True)
    assert few != load_samples(file, "all", limit=6, seed=4, distinct_images=True)
    (tmp_path / "0.png").write_text("no picture")
    with pytest.raises(DataError, match=r"Sample '0': The file .*0\.png' is no picture"):
        load_samples(file, "all", distinct_images=True)
