"""kill -9 in the middle of `eval`, `analyze`, `train` and `calibrate`: the same command goes on, to the same result.

`fit` is in test_fit_interrupted.py, `eval --tasks` in tests/evaluation/lmms/test_tasks_resumed.py, and a process among
several in test_many_processes.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_many_processes import SOURCE, analyze_of, calibrate_of, eval_of, one, records_of, train_of


@pytest.fixture(scope="module")
def folders(model_folder, data_file, tmp_path_factory):
    """Name -> folder: `whole` of commands that nothing interrupts, `killed` of those that were."""
    return {name: tmp_path_factory.mktemp(name) for name in ("whole", "killed")}


def commands(model, data, folder, gates):
    """Command -> arguments, and where it is killed: in the middle of its samples."""
    return {
        "eval": (eval_of(model, data, folder / "eval"), ("sample", 16)),  # four into the baselines
        "analyze": (analyze_of(model, data, folder / "analyze"), ("study", 2)),
        "train": (train_of(model, data, folder / "gates"), ("labels", 3)),
        "calibrate": (calibrate_of(model, data, gates, folder / "calibrated"), ("labels", 5)),
    }


@pytest.fixture(scope="module")
def whole(model_folder, data_file, folders):
    """The results of commands that nothing interrupts, and then the remains of those that were killed."""
    import torch

    from lookaway.cli import app

    mine, theirs = folders["whole"], folders["killed"]
    threads, arguments, cache = torch.get_num_threads(), sys.argv, os.environ.get("LOOKAWAY_CACHE")
    torch.set_num_threads(1)
    os.environ["LOOKAWAY_CACHE"] = str(mine / "cache")
    try:
        for command, _ in commands(model_folder, data_file, mine, mine / "gates").values():
            sys.argv = ["lookaway", *map(str, command)]
            with pytest.raises(SystemExit) as stopped:
                app.main()
            assert not stopped.value.code
    finally:
        torch.set_num_threads(threads)
        sys.argv = arguments
        del os.environ["LOOKAWAY_CACHE"]
        if cache is not None:
            os.environ["LOOKAWAY_CACHE"] = cache
    jobs = [
        {"arguments": [str(a) for a in command], "dies": dies}
        for command, dies in commands(model_folder, data_file, theirs, mine / "gates").values()
    ]
    (theirs / "jobs.json").write_text(json.dumps(jobs))
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "LOOKAWAY_CACHE": str(theirs / "c")}
    done = subprocess.run([sys.executable, Path(__file__).parent / "killed_driver.py", theirs / "jobs.json"],
                          capture_output=True, text=True, timeout=300, check=False, env=environment)  # fmt: skip
    assert json.loads((theirs / "jobs.ended").read_text()) == ["killed"] * 4, done.stderr[-3000:]
    return mine


@pytest.mark.parametrize(("name", "kind", "kept"), [("eval", "sample", 16), ("analyze", "study", 2)])
def test_records(whole, folders, model_folder, data_file, name, kind, kept, call, monkeypatch):
    """Those that were written stay as they are, and the rest is what an uninterrupted run writes."""
    folder = folders["killed"]
    left = (folder / name / "records.jsonl").read_text().splitlines()
    assert sum(f'"kind": "{kind}"' in line for line in left) == kept
    assert not (folder / name / "report.html").exists()
    command, _ = commands(model_folder, data_file, folder, whole / "gates")[name]
    one(folder, [command], call, monkeypatch)
    lines = (folder / name / "records.jsonl").read_text().splitlines()
    assert lines[: len(left)] == left
    found, wanted = records_of(folder / name), records_of(whole / name)
    own = [sorted(json.dumps(r) for r in part if r["kind"] == kind) for part in (found, wanted)]
    assert own[0] == own[1]
    others = [[json.dumps(r) for r in part if r["kind"] != kind] for part in (found, wanted)]
    assert list(dict.fromkeys(others[0])) == others[1]  # a summary that was made before the kill stands there twice
    assert (folder / name / "report.html").exists()


@pytest.mark.parametrize(("name", "out", "kept"), [("train", "gates", 3), ("calibrate", "calibrated", 5)])
def test_labels(whole, folders, model_folder, data_file, name, out, kept, call, monkeypatch):
    """Batches that were labelled are not labelled again, and the gates are the same to the bit."""
    folder = folders["killed"]
    cache = folder / f"{out}-cache"
    left = {path: path.stat().st_mtime_ns for path in cache.glob("*.safetensors")}
    assert len(left) == kept
    assert not (folder / out).exists()
    command, _ = commands(model_folder, data_file, folder, whole / "gates")[name]
    one(folder, [command], call, monkeypatch)
    assert {path: path.stat().st_mtime_ns for path in left} == left
    names = {path.name for path in cache.glob("*.safetensors")}
    assert names == {path.name for path in (whole / f"{out}-cache").glob("*.safetensors")}
    assert len(names) > kept
    for file in ("model.safetensors", "config.json"):
        assert (folder / out / file).read_bytes() == (whole / out / file).read_bytes()
    last = [records_of(place / out)[-1] for place in (folder, whole)]
    for record in last:
        record.pop("seconds", None)
    assert last[0] == last[1]
