"""A task of lmms-eval on this disk: easy-VQA questions in a parquet file, scored by lmms-eval's own exact match."""

from __future__ import annotations

import io
from pathlib import Path

from lookaway.core.record import Sample
from lookaway.data import easy_vqa

YAML = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: {output_type}
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 8
  temperature: 0
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
"""
UTILS = """
def doc_to_visual(doc):
    return [doc["image"].convert("RGB")]


def doc_to_text(doc):
    return doc["question"]
"""


def write_task(
    folder: Path, count: int, name: str = "easy_vqa_local", output_type: str = "generate_until", **change: tuple
) -> Path:
    """The folder for --include-path, with YAML, functions and data; the questions are `samples(count)`.

    Args:
        change: column=(row, value) puts a value in the place of one.
    """
    import datasets

    rows: dict[str, list] = {"question": [], "answer": [], "image": []}
    for sample in samples(count):
        buffer = io.BytesIO()
        sample.images[0].save(buffer, "PNG")
        rows["question"].append(sample.question)
        rows["answer"].append(sample.answer)
        rows["image"].append({"bytes": buffer.getvalue(), "path": None})
    for column, (row, value) in change.items():
        rows[column][row] = value
    kinds = {"question": datasets.Value("string"), "answer": datasets.Value("string"), "image": datasets.Image()}
    folder.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).to_parquet(str(folder / "test.parquet"))
    (folder / f"{name}.yaml").write_text(YAML.format(name=name, file=folder / "test.parquet", output_type=output_type))
    (folder / "utils.py").write_text(UTILS)
    return folder


def samples(count: int) -> list[Sample]:
    """The same questions for lookaway's own runner."""
    return [
        Sample(str(i), s.messages, s.images, s.answer, s.family) for i, s in enumerate(easy_vqa.samples("test", count))
    ]
