"""The trials of a fit in the shared queue: each candidate on each part of a split, and each measurement, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from ...core.errors import SettingsError, UnsupportedModel
from ...core.provenance import provenance_key
from ..trials.queue import Done, Job, Range, TrialQueue
from .candidates import FULL, Candidate
from .outcomes import Outcomes
from .sample_runs import SampleRuns

__all__ = ["SplitTrials", "timed_once"]

OF_FULL = "full model"


class SplitTrials:
    """Trials of single candidates on some samples; each is run once, by whichever worker comes first.

    Args:
        name: of the samples, in the queue.
        runs: makes the samples' full runs; called where some trial has to run here, and not before.
    """

    def __init__(
        self, tried: Sequence[Candidate], queue: TrialQueue, name: str, runs: Callable[[], SampleRuns]
    ) -> None:  # fmt: skip
        self.tried, self.queue, self.name, self._make = tried, queue, name, runs
        self.number = {candidate.key: index for index, candidate in enumerate(tried)}
        self.known: dict[str, Outcomes] = {}
        self.refused: dict[str, str] = {}
        """Candidates that the model cannot run -> why."""
        self._runs: SampleRuns | None = None

    @property
    def full(self) -> Outcomes:
        """The full model on these samples."""
        return Outcomes.from_plain(self._of_full)

    @property
    def second_look_from(self) -> int:
        """See `SampleRuns`."""
        return int(self._of_full["second_look_from"])

    def run(
        self, keys: Sequence[str], on_refused: Callable[[str, str], object] = lambda key, why: None,
        on_outcome: Callable[[str, Outcomes], object] = lambda key, found: None,
    ) -> dict[str, Outcomes]:  # fmt: skip
        """Candidate key -> outcomes, of all keys that were asked for so far and could run."""
        if FULL in keys and FULL not in self.known:  # it ran before all others
            self.known[FULL] = self.full
            on_outcome(FULL, self.full)
        wanted = [key for key in keys if key not in self.known and key not in self.refused]
        jobs = [Job(f"{self.name}/{key}", {"candidate": self.number[key]}) for key in wanted]

        def evaluate(params: Mapping[str, Any]) -> tuple[float, Mapping[str, Any]]:
            candidate, runs = self.tried[int(params["candidate"])], self.runs
            try:
                found = runs.outcomes(candidate.policy)
            except (SettingsError, UnsupportedModel) as error:
                if candidate.method == "own":  # asked for by name: the user must hear of it
                    raise
                return 0.0, {"refused": str(error)}
            return float(found.same.mean()), found.to_plain()

        def done(trial: Done) -> None:
            key = trial.key.removeprefix(f"{self.name}/")
            if "refused" in trial.details:
                self.refused[key] = trial.details["refused"]
                on_refused(key, self.refused[key])
            else:
                self.known[key] = Outcomes.from_plain(trial.details)
                on_outcome(key, self.known[key])

        self.queue.run(jobs, evaluate, self._space, self.name, done)
        return self.known

    @property
    def runs(self) -> SampleRuns:
        if self._runs is None:
            self._runs = self._make()
        return self._runs

    def close(self) -> None:
        if self._runs is not None:
            self._runs.close()

    @cached_property
    def _of_full(self) -> dict[str, Any]:
        def evaluate(params: Mapping[str, Any]) -> tuple[float, Mapping[str, Any]]:
            return 1.0, {**self.runs.full.to_plain(), "second_look_from": self.runs.second_look_from}

        job = Job(f"{self.name}/{OF_FULL}", {"candidate": len(self.tried)})
        return self.queue.run([job], evaluate, self._space, self.name)[0].details

    @property
    def _space(self) -> dict[str, Range]:
        return {"candidate": Range(0, len(self.tried), integer=True)}


def timed_once(
    queue: TrialQueue, job: str, of: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """A measurement by one worker, in one process; the others, and a fit that goes on, take what it found.

    Args:
        of: what it depends on beside the facts of the queue, as JSON takes it; of something else it is made anew.
    """

    def evaluate(params: Mapping[str, Any]) -> tuple[float, Mapping[str, Any]]:
        return 1.0, {"found": dict(measure())}

    found: Mapping[str, Any] = queue.run(
        [Job(f"{job}/{provenance_key(of)}", {"run": 0})], evaluate, {"run": Range(0, 1, integer=True)}, job
    )[0].details["found"]
    return found
