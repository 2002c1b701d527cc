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
