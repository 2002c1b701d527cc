"""What tests of the command line and of training share."""

import json

import pytest


@pytest.fixture(scope="session")
def write_questions():
    """(folder, count, seed, **keys of all entries) -> data.json there: a question about each of `count` pictures."""
    import numpy as np
    from PIL import Image

    def write(folder, count, seed, question="what is it?", **keys):
        rng = np.random.default_rng(seed)
        entries = []
        for number in range(count):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
            entries.append({"id": str(number), "image": f"{number}.png", "question": question, **keys})
        (folder / "data.json").write_text(json.dumps(entries))
        return folder / "data.json"

    return write


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `lookaway ...` in this process: (exit status, stdout, stderr)."""
    import sys

    from lookaway.cli import app

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lookaway", *map(str, arguments)])
        try:
            app.main()
            status = 0
        except SystemExit as stopped:
            status = stopped.code or 0
        out = capsys.readouterr()
        return status, out.out, out.err

    return run
