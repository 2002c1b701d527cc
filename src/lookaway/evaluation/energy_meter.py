"""codecarbon as a meter of this machine: counters where it finds some, and where not an estimate that is called one.

It runs offline: it sends nothing, asks for no place or grid, and writes no file, whatever its own configuration says.
Of that configuration only `force_cpu_power` counts, the watts of a CPU that it does not know.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..core.errors import LookawayError, MissingDependency
from .latency import synchronise

__all__ = ["EnergyMeter", "Reading", "source_of"]

JOULES = 3.6e6
"""Joules of a kilowatt-hour."""

COUNTERS = {
    "intel_rapl": "RAPL counters",
    "windows_emi": "counters of the Energy Meter Interface",
    "intel_power_gadget": "Intel Power Gadget",
}
"""How codecarbon calls what reads a CPU's own counters -> in words."""

CHIPS = {"AppleSiliconChip": "powermetrics", "Raspberry": "sensors of the board", "GPU": "counters of the driver"}
"""The same of other hardware, by class."""


@dataclass(frozen=True)
class Reading:
    """Energy of several runs of one thing."""

    joules: float
    """Of one run, on the mean: CPU and GPU."""
    gpu_joules: float
    """The GPU's part of it."""
    seconds: float
    """Of one run, on the mean."""


class EnergyMeter:
    """The meters of this machine: of its whole CPU and of all GPUs that this process may use, idle draw included.

    Raises:
        MissingDependency: codecarbon is not installed.
        LookawayError: it cannot be set up.
    """

    def __init__(self) -> None:
        try:
            from codecarbon import OfflineEmissionsTracker
        except ImportError:
            raise MissingDependency.of("codecarbon", "energy") from None
        logging.getLogger("codecarbon").setLevel(logging.ERROR)  # it says much before it hears of `log_level`
        self._tracker: Any = OfflineEmissionsTracker(
            country_iso_code="FRA", country_2letter_iso_code=None, region=None, cloud_provider=None, cloud_region=None,
            force_carbon_intensity_g_co2e_kwh=0.0, electricitymaps_api_token="", output_methods=[], output_handlers=[],
            emissions_endpoint=None, log_level="error", tracking_mode="machine", allow_multiple_runs=True, pue=1.0,
            wue=0.0, logger_preamble="", metadata=None, output_dir=".", measure_power_secs=15.0,
        )  # fmt: skip
        if not hasattr(self._tracker, "_hardware"):  # it keeps its own errors to itself
            raise LookawayError("codecarbon could not be set up: look at ~/.codecarbon.config, or leave --energy out.")

    def read(self, run: Callable[[], object], least: float, device: Any = None) -> Reading:
        """Energy of `run`, repeated until it has run for `least` seconds.

        Args:
            device: a CUDA device is waited for after each run.

        Raises:
            LookawayError: codecarbon gives no number.
        """
        synchronise(device)
        runs, taken = 0, 0.0
        self._tracker.start_task()
        start = time.perf_counter()
        try:
            while not runs or taken < least:
                run()
                synchronise(device)
                runs, taken = runs + 1, time.perf_counter() - start
        finally:
            found = self._tracker.stop_task()
        energy = 0.0 if found is None else found.cpu_energy + found.gpu_energy
        if energy <= 0:
            raise LookawayError(
                "codecarbon gives no energy on this machine: no counter can be read, and it knows no power of this "
                "CPU. Say its power in watts in ~/.codecarbon.config (force_cpu_power), or leave --energy out."
            )
        return Reading(energy * JOULES / runs, found.gpu_energy * JOULES / runs, taken / runs)

    @property
    def source(self) -> tuple[str, bool]:
        """How it knows, in words, and whether all of it was measured; known once something was read."""
        return source_of(getattr(self._tracker, "_hardware", ()))


def source_of(hardware: Iterable[Any]) -> tuple[str, bool]:
    """How codecarbon knows what its parts of `hardware` draw, in words, and whether all of it is measured."""
    words, measured = list[str](), True
    for part in hardware:
        kind, mode = type(part).__name__, getattr(part, "_mode", None)
        if kind == "RAM":
            continue  # a constant: it is not in the readings
        if (counter := COUNTERS.get(str(mode)) or CHIPS.get(kind)) is not None:
            words.append(f"{'GPU' if kind == 'GPU' else 'CPU'}: {counter}")
            continue
        watts, measured = getattr(part, "_tdp", None), False
        load = " x the machine's load" if mode == "cpu_load" else ""
        words.append(f"CPU: an estimate, seconds x {watts} W{load}" if watts else "CPU: an estimate")
    return ("; ".join(words), measured) if words else ("an estimate", False)
