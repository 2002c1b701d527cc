"""Exit gates from training to a report (`benchmarks/gates_end_to_end.py`), on a tiny model and a user's own file."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gates_end_to_end.py"


@pytest.mark.slow
def test_the_whole_story_on_a_model_of_ones_own(tmp_path):
    import sys

    import numpy as np
    from PIL import Image

    from lookaway.anatomy.tiny import tiny
    from lookaway.anatomy.tiny.processor import tiny_processor

    spec = importlib.util.spec_from_file_location("gates_end_to_end", SCRIPT)
    script = sys.modules["gates_end_to_end"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    tiny("llava").model.save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(1)
    entries = []
    for number in range(50):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        entries.append(
            {"id": str(number), "image": f"{number}.png", "question": "what?", "answer": "ab", "family": "x"}
        )
    (tmp_path / "d.json").write_text(json.dumps(entries))
    out = tmp_path / "gates"
    options = script.Options(
        model=str(tmp_path / "model"), data=str(tmp_path / "d.json"), out=out, repeats=2, exits=(1, 2), epsilon=0.9
    )
    found = script.run(options)
    page = (out / "report.html").read_text()
    for title in ("Pictures", "Measured speed", "The guarantee", "Samples", "published-preset, at equal cost"):
        assert title in page, title
    assert found["summary"][0]["samples"] >= 5
    assert {t["variant"] for t in found["timings"]} == {"exit at 1", "exit at 2", "idle", "policy"}

    before = (out / "gates" / "config.json").stat().st_mtime_ns
    script.run(options)  # what is done already is not done again
    assert (out / "gates" / "config.json").stat().st_mtime_ns == before
