"""A folder for each family: its tiny model as a user would have it, and questions about pictures."""

import json
from functools import cache

import pytest
import torch
from checks import Workplace
from family_processor import family_processor
from prepared import CLASSIFIERS, picture, prepared

from lookaway.anatomy.tiny import IMAGE, VIDEO, tiny
from lookaway.core.record import Sample

ANSWERS = ("ab", "cd")


@pytest.fixture(scope="session")
def data_file(tmp_path_factory):
    """Six questions about three pictures."""
    folder = tmp_path_factory.mktemp("matrix-data")
    entries = []
    for number in range(6):
        picture(number // 2).save(folder / f"{number // 2}.png")
        words = f"what is {number}" + "?" * (1 + 3 * (number % 3))
        entries.append({"id": str(number), "image": f"{number // 2}.png", "question": words,
                        "answer": ANSWERS[number % 2]})  # fmt: skip
    (folder / "data.json").write_text(json.dumps(entries))
    return folder / "data.json"


@pytest.fixture(scope="session")
def samples(data_file):
    """The same questions as the judge reads them: not through the package's own loading."""

    def sample(entry):
        content = [{"type": "image"}, {"type": "text", "text": entry["question"]}]
        picture = str(data_file.parent / entry["image"])
        return Sample(entry["id"], [{"role": "user", "content": content}], (picture,), entry["answer"])

    return [sample(entry) for entry in json.loads(data_file.read_text())]


@pytest.fixture(scope="session")
def model_folder_of(tmp_path_factory):
    @cache
    def make(family):
        folder = tmp_path_factory.mktemp(family)
        if family in CLASSIFIERS:
            CLASSIFIERS[family]().save_pretrained(folder)
            return folder
        ready = prepared(family)
        ready.model.save_pretrained(folder)
        ready.processor.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session", params=["lfm2_vl", "qwen3_5"])
def before_only(request, tmp_path_factory):
    """A folder of a family that tokens may leave before the decoder only (convolutions, linear attention), with
    data.json: 14 questions about as many pictures."""
    made, path = tiny(request.param), tmp_path_factory.mktemp(request.param)
    with torch.no_grad():  # random weights would say tokens that stand for pictures
        head = made.model.get_output_embeddings().weight
        head[[IMAGE, VIDEO, *range(90, 97)]] = 0.0
    made.model.save_pretrained(path)
    family_processor(made).save_pretrained(path)
    entries = []
    for number in range(14):
        picture(3 * number).save(path / f"{number}.png")
        entries.append({"id": str(number), "image": f"{number}.png", "question": f"what is {number}" + "?" * number})
    (path / "data.json").write_text(json.dumps(entries))
    return path


@pytest.fixture
def workplace(model_folder_of, data_file, samples, call, tmp_path):
    def at(family):
        ready = None if family in CLASSIFIERS else prepared(family)
        judge, first = (ready.judge, ready.first) if ready else (None, 1)
        return Workplace(family, judge, first, model_folder_of(family), data_file, samples, call, tmp_path)

    return at
