"""A tiny LLaVA as an ordinary folder, and questions of a user's own about pictures made here."""

import json

import pytest


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    from lookaway.anatomy.tiny import tiny
    from lookaway.anatomy.tiny.processor import tiny_processor

    path = tmp_path_factory.mktemp("model")
    tiny("llava").model.save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def data_file(tmp_path_factory):
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    entries = []
    for number in range(40):
        name = f"{number // 2}.png"
        if number % 2 == 0:
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / name)
        entries.append({"id": str(number), "image": name, "question": f"what is {number}?", "answer": "ab",
                        "family": ("even", "odd")[number % 2]})  # fmt: skip
    (folder / "data.json").write_text(json.dumps(entries))
    return folder / "data.json"


@pytest.fixture(scope="session")
def loaded(model_folder):
    from lookaway.models.loading import load_model

    return load_model(model_folder, device="cpu")


@pytest.fixture(scope="session")
def answered(tmp_path_factory, loaded, write_questions):
    """90 pictures, one question each; for two thirds the answer is what the model says."""
    from fit_cases import live

    import lookaway as la
    from lookaway.data import load_samples

    data = write_questions(tmp_path_factory.mktemp("answered"), 90, seed=3, answer="x")
    entries, samples = json.loads(data.read_text()), load_samples(str(data), "all")
    said = {sample.id: live(loaded, sample, la.KeepAll())[0] for sample in samples}
    for number, entry in enumerate(entries):
        entry["answer"] = said[entry["id"]] if number % 3 else "nothing of the kind"
    data.write_text(json.dumps(entries))
    return data
