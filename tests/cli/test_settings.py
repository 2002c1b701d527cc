"""A long command says at its start what it runs on and in which batches, and which of these settings is slow."""

import os

import pytest
import torch

from lookaway.anatomy.tiny import tiny
from lookaway.cli import settings as module
from lookaway.cli.settings import free_cores, known_slow, tell_settings

GOOD = {"device": "cpu", "dtype": "float32", "threads": 2, "cores": 2, "free": 2.0, "batch_size": 8}


@pytest.mark.parametrize(("changes", "hints"), [
    ({}, []),
    ({"device": "cuda", "dtype": "bfloat16", "threads": 1, "free": 0.0}, []),
    ({"device": "cuda", "batch_size": 1}, ["batches of 1 leave most of a GPU idle; --batch-size 8"]),
    ({"batch_size": 1}, []),
    ({"threads": 1}, ["1 of 2 CPU cores are used. OMP_NUM_THREADS=2 uses all of them"]),
    ({"threads": 4}, ["4 threads share 2 CPU cores and wait for each other; OMP_NUM_THREADS=2 is faster"]),
    ({"free": 0.4}, ["other work leaves 0.4 of the CPU cores free for 2 threads"]),
    ({"free": 1.8}, []),
    ({"threads": 1, "cores": 8, "free": 1.0}, ["1 of 8 CPU cores are used"]),
    ({"dtype": "float16"}, ["float16 is slower than float32"]),
])  # fmt: skip
def test_each_slow_setting_has_its_hint_and_no_other(changes, hints):
    found = list(known_slow(**{**GOOD, **changes}))
    assert len(found) == len(hints)
    for line, wanted in zip(found, hints, strict=True):
        assert wanted in line


def test_the_line_names_device_threads_precision_and_batch_with_its_option(capsys, monkeypatch):
    monkeypatch.setattr(module, "known_slow", lambda *_: ["too slow."])
    threads = f"{torch.get_num_threads()} CPU thread{'s' * (torch.get_num_threads() > 1)}"
    tell_settings(tiny("llava").model, 16, "--label-batch")
    tell_settings()
    assert capsys.readouterr().err.splitlines() == [
        f"runs on cpu, {threads}, float32, batches of 16 (--label-batch)", "note: too slow.",
        f"runs on cpu, {threads}, float32, one sample at a time", "note: too slow.",
    ]  # fmt: skip


def test_free_cores_are_some_of_the_machine(monkeypatch):
    assert 0 <= free_cores(0.05) <= (os.cpu_count() or 1)
    ticks = iter([[100, 0, 0, 100, 0, 0, 0, 0], [130, 0, 0, 110, 0, 0, 0, 0]])
    monkeypatch.setattr(module, "_ticks", lambda: next(ticks))
    assert free_cores(0) == pytest.approx(0.25 * (os.cpu_count() or 1))
