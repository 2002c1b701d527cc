"""Folders that commands name and take over."""

import json
from pathlib import Path

import pytest

from lookaway.cli import demo
from lookaway.cli.calibrate import default_out
from lookaway.core.errors import StaleResults
from lookaway.data import load_samples


@pytest.mark.parametrize(("given", "wanted"), [
    ("gates", "gates-calibrated"), ("gates/", "gates-calibrated"), ("someone/gates", "gates-calibrated"),
    ("gates/.", "gates-calibrated"), ("gates/..", "home-calibrated"), (".", "home-calibrated"),
])  # fmt: skip
def test_calibrated_gates_lie_beside_the_given_ones(given, wanted, tmp_path, monkeypatch):
    (tmp_path / "home" / "gates").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "home")
    assert default_out(given).name == wanted


def test_a_demo_knows_the_pictures_that_it_calibrates_on(model_folder, tmp_path):
    from PIL import Image

    entries = []
    for number in range(240):
        if number % 6 == 0:
            Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number // 6}.png")
        entries.append({"id": str(number), "image": f"{number // 6}.png", "question": "what?", "answer": "ab"})
    (tmp_path / "d.json").write_text(json.dumps(entries))
    data, out = str(tmp_path / "d.json"), tmp_path / "out"
    options = demo.Options(model=str(model_folder), data=data, out=out, train=2, calibration=4, test=2)
    counts = {"train": 2, "calibration": 4, "test": 2}
    plain = [s for split, count in counts.items() for s in load_samples(data, split, count)]
    own = load_samples(data, "calibration", 4, distinct_images=True)
    (last, *_) = {str(s.images[0]) for s in own} - {str(s.images[0]) for s in plain}
    demo._claim(options, [])
    demo._claim(options, [])
    Image.new("RGB", (16, 16), "blue").save(Path(last))
    with pytest.raises(StaleResults, match="pictures"):
        demo._claim(options, [])
