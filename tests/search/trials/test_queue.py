"""Trials survive kills, are shared by workers, and are neither lost nor made twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_evaluator import Near

from lookaway.core.errors import DataError, MissingDependency, PreparationError, SettingsError
from lookaway.search.schedules.budget import Budget, solve
from lookaway.search.schedules.p_sigmoid import PSigmoidOptions, p_sigmoid
from lookaway.search.schedules.schedule_shapes import logistic
from lookaway.search.trials import storage as storages
from lookaway.search.trials.queue import Job, Range, TrialQueue

HERE = Path(__file__).parent
WORKER = """
import sys, time
from pathlib import Path
from test_queue import search
from lookaway.search.trials.queue import TrialQueue
search(TrialQueue(sys.argv[1], "s", seed=3, facts={"data": "d"}), trials=int(sys.argv[2]), log=Path(sys.argv[3]),
       pause=float(sys.argv[4]))
"""


def search(queue, trials=9, log=None, pause=0.0):
    """A P-Sigmoid search on a made-up evaluator; each evaluation leaves a line in `log`."""
    evaluator = Near([1.0] * 10, 60)
    budget = Budget(0.5, "flops", evaluator.workload, evaluator.span)
    evaluator.rates = solve(logistic(evaluator.span, 0.5), budget).rates
    plain = evaluator.evaluate

    def noted(schedule, needed=0.0):
        if log is not None:
            with log.open("a") as file:
                file.write(f"{os.getpid()} {schedule.counts}\n")
        time.sleep(pause)
        return plain(schedule)

    evaluator.evaluate = noted
    return p_sigmoid(evaluator, queue, budget, PSigmoidOptions(trials=trials))


def worker(storage, trials, log, pause):
    paths = os.pathsep.join([str(HERE), *(p for p in sys.path if p)])
    arguments = [sys.executable, "-c", WORKER, str(storage), str(trials), str(log), str(pause)]
    return subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": paths})


def rows(queue):
    return [(done.key, done.params, done.value) for done in queue.log()]


def test_a_killed_and_resumed_search_is_the_uninterrupted_one(tmp_path):
    storage, log = tmp_path / "s.journal", tmp_path / "log"
    process = worker(storage, 9, log, 0.3)
    while not log.exists() or len(log.read_text().splitlines()) < 6:  # over a trial that a Gaussian process suggested
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    interrupted = TrialQueue(str(storage), "s", seed=3, facts={"data": "d"})
    assert 4 <= len(interrupted.log()) < 9
    found = search(interrupted)
    whole = TrialQueue("memory", "s", seed=3)
    wanted = search(whole)
    assert rows(interrupted) == rows(whole)
    assert found.schedule == wanted.schedule
    assert found.details == wanted.details


def test_two_workers_lose_no_trial_and_make_none_twice(tmp_path):
    storage, logs = tmp_path / "s.journal", [tmp_path / "a", tmp_path / "b"]
    processes = [worker(storage, 14, log, 0.25) for log in logs]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    queue = TrialQueue(str(storage), "s", seed=3, facts={"data": "d"})
    keys = [done.key for done in queue.log()]
    assert sorted(keys) == sorted([f"p-sigmoid/start-{n}" for n in range(4)] + [f"p-sigmoid/{n}" for n in range(4, 14)])
    workers = {done.worker for done in queue.log()}
    assert len(workers) == 2  # both took part
    made = sum(len(log.read_text().splitlines()) for log in logs)
    assert made == 14 + 2  # each worker also looks at the winner at the end


def test_sqlite_keeps_what_was_finished(tmp_path):
    made = []
    for jobs in ("ab", "abc"):
        queue = TrialQueue(str(tmp_path / "s.db"), "s")
        queue.run([Job(key, {"x": 0.5}) for key in jobs], lambda p: (made.append(1) or p["x"], {}), {"x": Range(0, 1)})
    assert len(made) == 3
    assert [done.key for done in queue.log()] == ["a", "b", "c"]


def test_jobs_of_workers_that_died_or_went_silent_are_made_again():
    queue = TrialQueue("memory", "s", lease=0.0)
    other = {"host": "elsewhere", "pid": 1, "born": ""}
    gone = {**storages.this_worker(), "pid": 2**22 + 1}
    for key, who in (("a", other), ("b", gone)):
        queue._study("").enqueue_trial({"x": 0.5}, user_attrs={"key": key, "worker": who})
        queue._study("").ask()
    done = queue.run([Job("a", {"x": 0.5}), Job("b", {"x": 0.25})], lambda p: (p["x"], {}), {"x": Range(0, 1)})
    assert [one.value for one in done] == [0.5, 0.25]


def test_the_job_of_a_living_worker_is_left_to_it():
    assert storages.alive(storages.this_worker(), None, 0.0)
    assert not storages.alive({**storages.this_worker(), "born": "another process of this number"}, None, 1e9)


def test_an_error_gives_the_job_back():
    queue = TrialQueue("memory", "s")

    def broken(params):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        queue.run([Job("a")], broken)
    with pytest.raises(DataError, match="has the value nan"):
        queue.run([Job("a")], lambda params: (float("nan"), {}))
    assert queue.run([Job("a")], lambda params: (1.0, {}))[0].value == 1.0


def test_another_search_of_that_name_is_refused(tmp_path):
    storage = str(tmp_path / "s.journal")
    TrialQueue(storage, "s", seed=1, facts={"data": "mini", "budget": 0.3})  # began nothing, so it binds nobody
    TrialQueue(storage, "s", seed=1, facts={"data": "mini", "budget": 0.5}).run([Job("a")], lambda params: (1.0, {}))
    TrialQueue(storage, "s", seed=1, facts={"data": "mini", "budget": 0.5})
    TrialQueue(storage, "other", seed=2)
    with pytest.raises(DataError, match=r"budget: 0\.5 -> 0\.4"):
        TrialQueue(storage, "s", seed=1, facts={"data": "mini", "budget": 0.4})


def test_storages_that_cannot_be_used_say_why_without_the_password(tmp_path):
    with pytest.raises(SettingsError, match=r"neither a \.journal, \.db or \.sqlite file nor a database URL"):
        storages.open_storage("trials.txt")
    (tmp_path / "file").write_text("")
    with pytest.raises(PreparationError, match="cannot be used"):
        storages.open_storage(str(tmp_path / "file" / "s.journal"))
    with pytest.raises(PreparationError, match="cannot be used") as found:
        storages.open_storage("postgresql://anna:secret@127.0.0.1:1/none")
    assert "secret" not in str(found.value)
    assert "anna:***@127.0.0.1:1/none" in str(found.value)


def test_workers_that_begin_at_once_on_an_empty_database_wait_for_its_tables(monkeypatch, tmp_path):
    """What PostgreSQL answers to the second of two that make the same tables (tried with a real one)."""
    tries, real = [], storages.optuna().storages.RDBStorage

    class IntegrityError(Exception):
        pass

    def racing(url):
        tries.append(url)
        if len(tries) < 3:
            raise [IntegrityError("duplicate key"), RuntimeError('relation "studies" already exists')][len(tries) - 1]
        return real(url)

    monkeypatch.setattr(storages.optuna().storages, "RDBStorage", racing)
    monkeypatch.setattr(storages.time, "sleep", lambda seconds: None)
    assert isinstance(storages.open_storage(str(tmp_path / "s.db")), real)
    assert len(tries) == 3


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependency, match=r"pip install 'lookaway\[search\]'"):
        TrialQueue("memory", "s")


def test_importing_the_searches_imports_no_optuna():
    modules = ("schedules.g_search", "schedules.p_sigmoid", "trials.queue")
    code = "import sys, " + ", ".join(f"lookaway.search.{name}" for name in modules) + "\n"
    code += "print('optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})  # fmt: skip
    assert done.stdout.strip() == "False"


def test_a_parameter_that_nothing_could_suggest_is_an_error_not_a_guess():
    from lookaway.core.errors import LookawayError

    with pytest.raises(LookawayError, match="cannot be suggested"):
        TrialQueue("memory", "s").run([Job("a")], lambda p: (p["x"], {}), {"x": Range(0, 1)})
