"""`lookaway demo` from its first to its last step, on a tiny model and a user's own file."""

import json

import pytest

from lookaway.cli.demo import Options, run


@pytest.mark.slow
def test_the_whole_story_on_a_model_of_ones_own(model_folder, tmp_path):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(1)
    entries = []
    for number in range(50):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        entries.append(
            {"id": str(number), "image": f"{number}.png", "question": "what?", "answer": "ab", "family": "x"}
        )
    (tmp_path / "d.json").write_text(json.dumps(entries))
    out = tmp_path / "demo"
    options = Options(
        model=str(model_folder), data=str(tmp_path / "d.json"), out=out, repeats=2, exits=(1, 2), epsilon=0.9
    )
    found = run(options)
    page = (out / "report.html").read_text()
    for title in ("Pictures", "Measured speed", "The guarantee", "Samples", "published-preset, at equal cost"):
        assert title in page, title
    assert found["summary"][0]["samples"] >= 5
    assert {t["variant"] for t in found["timings"]} == {"exit at 1", "exit at 2", "idle", "policy"}

    before = (out / "gates" / "config.json").stat().st_mtime_ns
    run(options)  # what is done already is not done again
    assert (out / "gates" / "config.json").stat().st_mtime_ns == before
