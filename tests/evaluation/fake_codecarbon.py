"""A codecarbon of the tests' own: constant watts on a clock of its own."""

import sys
from types import ModuleType, SimpleNamespace

from lookaway.evaluation import energy_meter


class Clock:
    """Seconds that pass where somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def sleep(self, seconds):
        self.now += seconds

    def perf_counter(self):
        return self.now


class FakeTracker:
    """As much of `OfflineEmissionsTracker` as is used."""

    told: dict
    clock: Clock
    watts = gpu_watts = 0.0

    def __init__(self, **settings):
        type(self).told = settings
        self._hardware, self._start = [type("CPU", (), {"_mode": "cpu_load", "_tdp": 8})()], None

    def start_task(self):
        assert self._start is None, "a task is already under measure"
        self._start = self.clock.perf_counter()

    def stop_task(self):
        hours = (self.clock.perf_counter() - self._start) / 3600
        self._start = None
        return SimpleNamespace(
            cpu_energy=hours * self.watts / 1000, gpu_energy=hours * self.gpu_watts / 1000, ram_energy=hours
        )


def install(monkeypatch, watts=8.0, gpu_watts=0.0, clock=None):
    """Let `codecarbon` be this one, on a clock that stands still but for its `sleep`, or on a given one."""
    FakeTracker.watts, FakeTracker.gpu_watts, FakeTracker.clock = watts, gpu_watts, clock or Clock()
    module = ModuleType("codecarbon")
    module.OfflineEmissionsTracker = FakeTracker
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setattr(energy_meter, "time", FakeTracker.clock)
