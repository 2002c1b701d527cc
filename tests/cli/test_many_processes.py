"""Two real processes (torchrun, gloo) on a tiny model: the result is that of one, also after one of them died."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

import lookaway
from lookaway.core.exit_table import ExitTable
from lookaway.core.record import read_records

SOURCE = Path(lookaway.__file__).parents[1]


def launch(folder, commands, processes=2, dies=None):
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps({"commands": [[str(a) for a in c] for c in commands], "dies": dies}))
    driver = Path(__file__).parent / "many_driver.py"
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", driver, jobs],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "LOOKAWAY_PROCESS_TIMEOUT": "120",
             "LOOKAWAY_CACHE": str(folder / "cache")},
    )  # fmt: skip


def eval_of(model, data, out):
    return ["eval", "--model", model, "--data", data, "--split", "all", "--limit", 12, "--exit-at", 2, "--batch-size",
            2, "--max-new-tokens", 3, "--device", "cpu", "--pictures", 2, "--out", out]  # fmt: skip


def analyze_of(model, data, out):
    return ["analyze", "--model", model, "--data", data, "--split", "all", "--limit", 4, "--max-new-tokens", 2,
            "--device", "cpu", "--pictures", 2, "--out", out]  # fmt: skip


def train_of(model, data, out):
    return ["train", "--model", model, "--data", data, "--split", "all", "--limit", 12, "--target", "own",
            "--epochs", 2, "--label-batch", 2, "--max-new-tokens", 3, "--device", "cpu", "--out", out,
            "--cache", f"{out}-cache"]  # fmt: skip


def calibrate_of(model, data, gates, out):
    return ["calibrate", "--model", model, "--policy", gates, "--data", data, "--split", "all", "--no-one-per-image",
            "--epsilon", 0.6, "--delta", 0.4, "--label-batch", 2, "--max-new-tokens", 3, "--device", "cpu",
            "--out", out, "--cache", f"{out}-cache"]  # fmt: skip


def records_of(folder):
    return [r for r in read_records(folder / "records.jsonl") if r["kind"] != "run"]


def one(tmp, commands, call, monkeypatch):
    import torch

    monkeypatch.setenv("LOOKAWAY_CACHE", str(tmp / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for command in commands:
            status, _, err = call(*command)
            assert status == 0, err
    finally:
        torch.set_num_threads(threads)


def by_id(records, kind):
    return {(r.get("variant"), r["id"]): r for r in records if r["kind"] == kind}


def test_two_processes_leave_what_one_leaves(model_folder, data_file, tmp_path, call, monkeypatch):
    m, d = model_folder, data_file
    folders = {name: tmp_path / name for name in ("one", "two")}
    for folder in folders.values():
        folder.mkdir()
    commands = {
        name: [eval_of(m, d, f / "eval"), analyze_of(m, d, f / "analyze"), train_of(m, d, f / "gates"),
               calibrate_of(m, d, f / "gates", f / "calibrated")]
        for name, f in folders.items()
    }  # fmt: skip
    one(folders["one"], commands["one"], call, monkeypatch)
    done = launch(folders["two"], commands["two"])
    assert done.returncode == 0, done.stderr[-3000:]
    for part in ("eval", "analyze"):  # record for record, in order
        assert records_of(folders["two"] / part) == records_of(folders["one"] / part)
        assert (folders["two"] / part / "report.html").exists()
        assert not list((folders["two"] / part).glob("*.part-*"))
    for part in ("gates", "calibrated"):  # bit for bit
        weights = [(folders[name] / part / "model.safetensors").read_bytes() for name in ("two", "one")]
        assert weights[0] == weights[1]
    assert done.stdout.count("saved ") == 2  # one line each of train and calibrate: the first process alone prints
    tables = [{p.name: ExitTable.load(p) for p in (folders[n] / "gates-cache").glob("*.safetensors")}
              for n in ("one", "two")]  # fmt: skip
    assert tables[0].keys() == tables[1].keys()
    assert all(bool((tables[0][k].loss == tables[1][k].loss).all()) for k in tables[0])


def test_a_killed_process_ends_all_and_others_go_on(model_folder, data_file, tmp_path, call, monkeypatch):
    m, d = model_folder, data_file
    (tmp_path / "one").mkdir()
    one(tmp_path / "one", [eval_of(m, d, tmp_path / "one" / "eval")], call, monkeypatch)
    killed = launch(tmp_path, [eval_of(m, d, tmp_path / "eval")], dies=["sample", 3])
    assert killed.returncode != 0
    parts = sorted((tmp_path / "eval").glob("records.part-*.jsonl"))
    assert parts  # what was finished is there
    finished = {r["id"] for part in parts for r in read_records(part) if r["kind"] == "sample"}
    one(tmp_path, [eval_of(m, d, tmp_path / "eval")], call, monkeypatch)  # one process goes on where two were
    found, wanted = records_of(tmp_path / "eval"), records_of(tmp_path / "one" / "eval")
    assert by_id(found, "sample") == by_id(wanted, "sample")
    assert finished
    assert [r for r in found if r["kind"] != "sample"] == [r for r in wanted if r["kind"] != "sample"]
    assert not list((tmp_path / "eval").glob("*.part-*"))


def test_fit_and_adapters_in_two_processes(model_folder, answered, data_file, tmp_path, call, monkeypatch):
    fits = {
        name: ["fit", "--model", model_folder, "--data", answered, "--out", tmp_path / name, "--max-new-tokens", 2,
               "--epsilon", 0.9, "--limit", 24, "--shares", 0.5, "--shares", 0.9, "--methods", "reduction",
               "--held-out", 4, "--pictures", 1, "--device", "cpu"]
        for name in ("one", "two")
    }  # fmt: skip
    trained = ["--model", model_folder, "--data", data_file, "--split", "all", "--limit", 8, "--max-steps", 2,
               "--batch-size", 2, "--device", "cpu", "--fresh"]  # fmt: skip
    eas = ["train", "--method", "eas", *trained, "--width", 4, "--skip", 2, "--out", tmp_path / "eas"]
    one(tmp_path, [fits["one"]], call, monkeypatch)
    done = launch(tmp_path, [fits["two"], eas, eas])  # --fresh of one process removes nothing of the others'
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: records_of(tmp_path / name)[0] for name in fits}
    for key in ("certificate", "chosen"):
        assert found["two"][key] == found["one"][key]
    assert (tmp_path / "two" / "policy" / "config.json").read_text() == (
        tmp_path / "one" / "policy" / "config.json"
    ).read_text()
    held = [[r for r in read_records(tmp_path / n / "held-out.jsonl") if r["kind"] != "run"] for n in fits]
    assert held[0] == held[1]
    assert done.stdout.count("saved ") == 3
    assert [r["kind"] for r in read_records(tmp_path / "eas" / "records.jsonl")] == ["run", "training"]
    assert (tmp_path / "eas" / "config.json").exists()


def test_a_twig_of_two_processes_is_that_of_one_and_goes_on_with_either(
    model_folder, data_file, tmp_path, call, monkeypatch
):
    """Weights in float32 within 1e-6 after four steps (Adam, sums in another order), whatever was killed between."""

    def command(out):
        return ["train", "--method", "twig", "--model", model_folder, "--data", data_file, "--split", "all",
                "--limit", 8, "--target", "own", "--max-new-tokens", 2, "--start", 1, "--depth", 2, "--max-steps", 4,
                "--batch-size", 2, "--accumulate", 2, "--save-steps", 2, "--lr", 0.01, "--device", "cpu",
                "--out", out]  # fmt: skip

    def weights(out):
        return load_file(tmp_path / out / "checkpoints" / "checkpoint-4" / "model.safetensors")

    def killed(left, out):
        """`out` as if its run had been killed behind the second step of `left`'s."""
        shutil.copytree(tmp_path / left, tmp_path / out)
        shutil.rmtree(tmp_path / out / "checkpoints" / "checkpoint-4")

    one(tmp_path, [command(tmp_path / "one")], call, monkeypatch)
    killed("one", "by two")
    done = launch(tmp_path, [command(tmp_path / "two"), command(tmp_path / "by two")])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("next:") == 2  # the first process alone prints
    killed("two", "by one")
    one(tmp_path, [command(tmp_path / "by one")], call, monkeypatch)
    wanted = weights("one")
    for out in ("two", "by two", "by one"):
        for name, value in weights(out).items():
            torch.testing.assert_close(value, wanted[name], atol=1e-6, rtol=0)
    answers = {name: list(read_records(tmp_path / name / "answers.jsonl")) for name in ("one", "two")}
    assert [r["tokens"] for r in answers["one"]] == [r["tokens"] for r in answers["two"]]
