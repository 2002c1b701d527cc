"""Tables: CSV, parquet with pictures inside, data sets saved to disk; and what is wrong with them, by file and row."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from lookaway.core.errors import DataError
from lookaway.data import load_samples
from lookaway.data.formats import read_samples, split_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKAWAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def table(pictures):
    datasets = pytest.importorskip("datasets")
    columns = {
        "question": [f"what {i}?" for i in range(len(pictures))],
        "answer": ["red"] * len(pictures),
        "answers": [["red", "dark red", "red"]] * len(pictures),
        "category": ["colour"] * len(pictures),
        "image": [{"bytes": picture, "path": None} for picture in pictures],
    }
    features = datasets.Features(
        {
            **dict.fromkeys(("question", "answer", "category"), datasets.Value("string")),
            "answers": datasets.List(datasets.Value("string")),
            "image": datasets.Image(),
        }
    )
    return datasets.Dataset.from_dict(columns, features=features)


def test_parquet_with_pictures_inside(tmp_path, cache):
    table([png("red"), png("blue"), png("red")]).to_parquet(str(tmp_path / "d.parquet"))
    first, second, third = read_samples(tmp_path / "d.parquet")
    assert (first.question, first.answer, first.family, first.id) == ("what 0?", "red", "colour", "1")
    assert first.meta["answers"] == ("red", "dark red", "red")
    assert first.images == third.images != second.images
    assert first.image_key == third.image_key != second.image_key
    assert Image.open(second.images[0]).getpixel((0, 0)) == (0, 0, 255)
    assert len(list((cache / "images").iterdir())) == 2  # each picture once, named by its content


def test_a_picture_in_a_table_falls_into_the_same_split_wherever_the_cache_lies(tmp_path, monkeypatch):
    table([png((i, 0, 0)) for i in range(8)]).to_parquet(str(tmp_path / "d.parquet"))
    here = [split_of(sample) for sample in read_samples(tmp_path / "d.parquet")]
    monkeypatch.setenv("LOOKAWAY_CACHE", str(tmp_path / "elsewhere"))
    assert [split_of(sample) for sample in read_samples(tmp_path / "d.parquet")] == here
    assert len(set(here)) > 1


def test_a_folder_of_parquet_files_and_a_saved_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "parts").mkdir()
    for number, colour in enumerate(("red", "green")):
        table([png(colour)]).to_parquet(str(tmp_path / "parts" / f"{number}.parquet"))
    assert len(load_samples(str(tmp_path / "parts"), "all")) == 2
    table([png("red")]).save_to_disk(str(tmp_path / "saved"))
    assert [s.answer for s in read_samples(tmp_path / "saved")] == ["red"]
    datasets.DatasetDict(test=table([png("red")])).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(DataError, match=r"several splits. Name one: .*splits/test"):
        read_samples(tmp_path / "splits")


def test_csv_beside_its_pictures(tmp_path):
    text = 'file_name,question,answer\n1.png,"how many, red?",05\n2.png,what?,\n,no picture?,None\n'
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8-sig")  # as spreadsheets write it
    first, second, third = read_samples(tmp_path)
    assert (first.question, first.answer, first.images) == ("how many, red?", "05", (str(tmp_path / "1.png"),))
    assert (second.answer, third.answer, third.images) == (None, "None", ())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.csv", "question,answer\na,b,c\n", "line 2 has another number of fields"),
        ("d.csv", 'question,answer\n"a,b\n', "is not valid CSV"),
        ("d.csv", "image,text\na.png,b\n", r"row 1 has the keys \['image', 'text'\]"),
        ("d.parquet", "no parquet", "cannot be read as a table"),
        ("d.csv", "question\n\xe9", "is not UTF-8 text"),
    ],
)
def test_damaged_tables_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        read_samples(tmp_path / name)


def test_a_folder_without_questions_or_pictures_says_what_to_write(tmp_path):
    (tmp_path / "1.txt").write_bytes(b"red")
    with pytest.raises(DataError, match=r"write a metadata\.jsonl with 'file_name'"):
        read_samples(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "question": "what?"}')
    assert read_samples(tmp_path)[0].images == (str(tmp_path / "1.png"),)


def test_numbers_of_a_column_with_gaps(tmp_path):
    """Integers with a gap come as floats: the answer is '3', not '3.0'. NaN, which is no gap, is refused."""
    datasets = pytest.importorskip("datasets")

    def saved(answers):
        rows = {"question": [f"{i}?" for i in range(len(answers))], "answer": answers}
        kinds = {"question": datasets.Value("string"), "answer": datasets.Value("float64")}
        made = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
        made.to_parquet(str(tmp_path / "d.parquet"))
        return tmp_path / "d.parquet"

    assert [sample.answer for sample in read_samples(saved([3.0, None, 0.5]))] == ["3", None, "0.5"]
    with pytest.raises(DataError, match="row 2: 'answer' is nan, which is no answer"):
        read_samples(saved([3.0, float("nan")]))
