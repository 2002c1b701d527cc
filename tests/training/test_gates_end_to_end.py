"""Exit gates from training to a report (`benchmarks/gates_end_to_end.py`), on a tiny model and a user's own file."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.errors import StaleResults
from lookaway.data import load_samples

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gates_end_to_end.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gates_end_to_end", SCRIPT)
    found = sys.modules["gates_end_to_end"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny("llava").model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def test_the_script_knows_the_pictures_that_it_calibrates_on(script, model_folder, tmp_path):
    entries = []
    for number in range(240):
        if number % 6 == 0:
            Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number // 6}.png")
        entries.append({"id": str(number), "image": f"{number // 6}.png", "question": "what?", "answer": "ab"})
    (tmp_path / "d.json").write_text(json.dumps(entries))
    counts = {"train": 2, "calibration": 4, "test": 2}
    data = str(tmp_path / "d.json")
    options = script.Options(model=str(model_folder), data=data, out=tmp_path / "out", **counts)
    plain = [s for split, count in counts.items() for s in load_samples(data, split, count)]
    own = load_samples(data, "calibration", 4, distinct_images=True)
    (last, *_) = {str(s.images[0]) for s in own} - {str(s.images[0]) for s in plain}
    script._claim(options, [])
    script._claim(options, [])
    Image.new("RGB", (16, 16), "blue").save(Path(last))
    with pytest.raises(StaleResults, match="pictures"):
        script._claim(options, [])


@pytest.mark.slow
def test_the_whole_story_on_a_model_of_ones_own(script, model_folder, tmp_path, write_questions):
    data = write_questions(tmp_path, 50, seed=1, question="what?", answer="ab", family="x")
    out = tmp_path / "gates"
    options = script.Options(model=str(model_folder), data=str(data), out=out, repeats=2, exits=(1, 2), epsilon=0.9)
    found = script.run(options)
    page = (out / "report.html").read_text()
    for title in ("Pictures", "Measured speed", "The guarantee", "Samples", "published-preset, at equal cost"):
        assert title in page, title
    assert found["summary"][0]["samples"] >= 5
    assert {t["variant"] for t in found["timings"]} == {"exit at 1", "exit at 2", "idle", "policy"}

    before = (out / "gates" / "config.json").stat().st_mtime_ns
    script.run(options)  # what is done already is not done again
    assert (out / "gates" / "config.json").stat().st_mtime_ns == before
