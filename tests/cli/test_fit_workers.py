"""Several `lookaway fit` at once on one storage: one of them is killed, and all come to the result of one alone."""

import glob
import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from fit_cases import arguments, record_of

from lookaway.core.record import read_records
from lookaway.search.trials.storage import open_storage, optuna

FEW = ("--methods", "reduction", "--methods", "exit", "--methods", "second-look", "--shares", 0.2, "--shares", 0.4,
       "--shares", 0.6, "--thresholds", 0.1, "--halvings", 0, "--held-out", 3, "--pictures", 1)  # fmt: skip
RESULT = ("chosen", "certificate", "tested", "order", "tried", "second_looks", "policy")


def work(folder, jobs):
    """Run jobs (command, group, trial that it dies over or 0) at once; what became of each."""
    file = folder / "jobs.json"
    file.write_text(json.dumps([
        {"arguments": [str(part) for part in command], "group": group, "dies": dies} for command, group, dies in jobs
    ]))  # fmt: skip
    driver = Path(__file__).with_name("workers_driver.py")
    done = subprocess.run([sys.executable, driver, file], env={**os.environ, "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, timeout=540)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(file.with_suffix(".ended").read_text()), done.stdout + done.stderr


def trials_of(storage):
    """(how often each trial was finished, which workers finished some)."""
    opened, complete, workers = open_storage(storage), Counter(), set()
    for study in optuna().get_all_study_summaries(opened):
        for trial in optuna().load_study(study_name=study.study_name, storage=opened).get_trials():
            if trial.state == optuna().trial.TrialState.COMPLETE:
                complete[trial.user_attrs["key"]] += 1
                workers.add(trial.user_attrs["worker"]["pid"])
    return complete, workers


def result_of(out):
    found = record_of(out)
    return {key: found[key] for key in RESULT}


def one_dies(call, model_folder, answered, folder, storage):
    """Two workers with an --out each; the first dies over its second trial, and is started again."""
    outs = [folder / "first", folder / "second"]
    commands = [arguments(model_folder, answered, out, *FEW, "--storage", storage) for out in outs]
    ended, printed = work(folder, [(commands[0], "one dies", 2), (commands[1], "one dies", 0)])
    assert ended == ["killed", "status 0"], printed[-3000:]
    status, _, error = call(*commands[0])
    assert status == 0, error
    assert result_of(outs[0]) == result_of(outs[1])
    finished, workers = trials_of(storage)
    assert set(finished.values()) == {1}  # the dead one's trial was made by the other, and none twice
    assert len(workers) > 1
    return result_of(outs[0])


def test_two_workers_of_which_one_dies_and_two_in_one_folder_come_to_the_same(call, model_folder, answered, tmp_path):
    found = one_dies(call, model_folder, answered, tmp_path, tmp_path / "shared.journal")
    (tmp_path / "together").mkdir()
    out = tmp_path / "together" / "fit"
    command = arguments(model_folder, answered, out, *FEW)
    ended, printed = work(tmp_path / "together", [(command, "one folder", 0)] * 2)
    assert ended == ["status 0"] * 2, printed[-3000:]
    assert result_of(out) == found
    finished, workers = trials_of(out / "trials.journal")
    assert set(finished.values()) == {1}
    assert len(workers) == 2
    held = [record for record in read_records(out / "held-out.jsonl") if record["kind"] == "sample"]
    assert held
    assert set(Counter((record["variant"], record["id"]) for record in held).values()) == {1}
    assert not (out / "best-so-far").exists()


def server_programs():
    """Folder of PostgreSQL's own programs; None: they are not here, or nobody but root could run them."""
    found = shutil.which("initdb")
    places = (
        [Path(found).resolve().parent]
        if found
        else sorted(map(Path, glob.glob("/usr/lib/postgresql/*/bin")), reverse=True)
    )
    there = next((place for place in places if (place / "initdb").exists()), None)
    if there is None or importlib.util.find_spec("psycopg") is None or (os.geteuid() == 0 and server_user() is None):
        return None
    return there


def server_user():
    """PostgreSQL refuses to run as root."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


@pytest.fixture
def database():
    """URL of an empty database of a server of our own, on a socket in a folder of its own."""
    programs = server_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server or no psycopg here")
    folder, user = Path(tempfile.mkdtemp(prefix="lookaway-pg-")), server_user() if os.geteuid() == 0 else None
    how = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **how}
    server = None
    try:
        made = [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "lookaway"]
        subprocess.run(made, check=True, timeout=120, **quiet)
        run = [programs / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        server = subprocess.Popen(run, **quiet)
        for _ in range(300):
            ready = [programs / "pg_isready", "-h", folder, "-U", "lookaway", "-d", "postgres"]
            if subprocess.run(ready, timeout=30, **quiet).returncode == 0:
                break
            time.sleep(0.1)
        subprocess.run(
            [programs / "createdb", "-h", folder, "-U", "lookaway", "trials"], check=True, timeout=60, **quiet
        )
        yield f"postgresql+psycopg://lookaway@/trials?host={folder}"
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # at once: SIGTERM would wait for connections that a pool keeps open
            server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def test_the_same_over_postgresql(call, model_folder, answered, tmp_path, database):
    one_dies(call, model_folder, answered, tmp_path, database)
