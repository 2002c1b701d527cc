"""A queue of jobs that any number of workers take trials from: seeded, resumable, none lost, none counted twice.

Each job has a key. A worker takes the first job that nobody has, runs it, and writes its value down; who dies over a
job gives it back to the others (at once on the same machine, after the lease elsewhere). Optuna holds the trials and,
where a job leaves parameters open, suggests them: each job's sampler is seeded by the search's seed and its key, so one
worker that was killed and started again takes the very steps of one that was not. With several workers a suggestion
depends on who finished first, as in any parallel search; what is fixed beforehand does not.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...core.earlier_results import require_same
from ...core.errors import DataError
from .sampling import seeded_sampler
from .storage import alive, open_storage, optuna, this_worker

__all__ = ["Done", "Job", "Range", "TrialQueue"]

CURE = (
    "Give another --out, or --fresh to start anew in this one; where --storage is given, each search takes a file or "
    "database of its own."
)
Number = int | float
Evaluate = Callable[[Mapping[str, Number]], tuple[float, Mapping[str, Any]]]
"""Parameters -> (value, higher is better; plain values for the log)."""


@dataclass(frozen=True)
class Range:
    """Where a parameter lies, both ends included."""

    low: Number
    high: Number
    integer: bool = False
    log: bool = False


@dataclass(frozen=True)
class Job:
    """One trial to be made; parameters of the space that are not fixed are suggested by the sampler."""

    key: str
    params: Mapping[str, Number] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """One finished trial."""

    key: str
    params: dict[str, Number]
    value: float
    details: dict[str, Any]
    seconds: float
    worker: str

    def record(self) -> dict[str, Any]:
        """Payload of a record of kind 'trial' (docs/records.md)."""
        return {"key": self.key, "params": self.params, "value": self.value, "seconds": self.seconds,
                "worker": self.worker, **self.details}  # fmt: skip


class TrialQueue:
    """The jobs of one search in one storage.

    Args:
        storage: what `open_storage` takes, or an open storage.
        name: of the search within the storage.
        facts: what its trials depend on (`core.provenance`); a search of that name with other facts is refused.
        lease: seconds after which the trial of a worker on another machine is given to somebody else.
        fresh: remove the trials of a search of this name first, whatever they depend on.

    Raises:
        StaleResults: the storage holds a search of this name with other facts; the text names what differs.
        PreparationError, SettingsError, MissingDependency: see `open_storage`.
    """

    def __init__(
        self,
        storage: Any,
        name: str,
        seed: int = 0,
        facts: Mapping[str, Any] | None = None,
        lease: float = 1800.0,
        fresh: bool = False,
    ) -> None:
        self.storage = open_storage(storage) if isinstance(storage, str) or hasattr(storage, "suffix") else storage
        self.name, self.seed, self.lease = name, seed, lease
        self.worker = this_worker()
        self._studies: dict[str, Any] = {}
        self._facts = json.loads(json.dumps(dict(facts or {}) | {"seed": seed}))
        if fresh:
            self._forget()
        self._check()

    def run(
        self,
        jobs: Sequence[Job],
        evaluate: Evaluate,
        space: Mapping[str, Range] | None = None,
        group: str = "",
        on_done: Callable[[Done], object] = lambda done: None,
    ) -> list[Done]:
        """Make all trials of `jobs`, or wait for others who make them.

        Args:
            jobs: each key once.
            evaluate: runs a trial. What it raises ends this worker; its job goes back.
            space: all parameters of the group.
            group: trials of one group inform each other's suggestions, and no other's.
            on_done: called once for each finished job, earlier ones and other workers' too.

        Returns:
            In the order of `jobs`.
        """
        self._check(write=True)
        study = self._study(group)
        wanted = {job.key: job for job in jobs}
        told: set[str] = set()
        while True:
            trials = study.get_trials(deepcopy=False)
            finished = _finished(trials)
            for job in jobs:
                if job.key in finished and job.key not in told:
                    told.add(job.key)
                    on_done(finished[job.key])
            if len(told) == len(jobs):
                return [finished[job.key] for job in jobs]
            if self._reclaim(study, trials):
                continue
            trial = self._claim(study, trials, wanted)
            if trial is None:
                time.sleep(0.2)
                continue
            self._make(study, trial, evaluate, space or {})

    def log(self) -> list[Done]:
        """Every finished trial of the search, in the order in which they were begun."""
        prefix = f"{self.name}/"
        found: list[tuple[Any, Done]] = []
        for study in optuna().get_all_study_summaries(self.storage):
            if study.study_name.startswith(prefix):
                loaded = self._study(study.study_name.removeprefix(prefix))
                trials = loaded.get_trials(deepcopy=False)
                begun = {trial.user_attrs.get("key"): trial.datetime_start for trial in reversed(trials)}
                found += [(begun[key], done) for key, done in _finished(trials).items()]
        return [done for _, done in sorted(found, key=lambda pair: pair[0])]

    # the storage -----------------------------------------------------------------------------------------------------

    def _study(self, group: str) -> Any:
        if group not in self._studies:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna().exceptions.ExperimentalWarning)
                self._studies[group] = optuna().create_study(
                    storage=self.storage, study_name=f"{self.name}/{group}", direction="maximize", load_if_exists=True,
                    sampler=seeded_sampler(self.seed, group),
                )  # fmt: skip
        return self._studies[group]

    def _forget(self) -> None:
        for study in optuna().get_all_study_summaries(self.storage):
            if study.study_name.startswith(f"{self.name}/"):
                optuna().delete_study(study_name=study.study_name, storage=self.storage)

    def _check(self, write: bool = False) -> None:
        """Compare what trials depend on; written with the first trial, so that a refused search leaves nothing."""
        study, facts = self._study(""), self._facts
        known = study.user_attrs.get("facts")
        if known is None:
            if write:
                study.set_user_attr("facts", facts)
        else:
            require_same(known, facts, f"The storage of the search {self.name!r}", CURE)

    def _reclaim(self, study: Any, trials: Iterable[Any]) -> bool:
        """Give back the jobs of workers that are gone; True where there were some."""
        states = optuna().trial.TrialState
        found = False
        for trial in trials:
            if trial.state == states.RUNNING and not self._on(trial):
                self._fail(study, trial.number)
                found = True
        return found

    def _on(self, trial: Any) -> bool:
        worker = trial.user_attrs.get("worker")
        # a trial without a name on it was made by mistake, between two workers' steps
        return worker is not None and alive(worker, trial.datetime_start, self.lease)

    def _claim(self, study: Any, trials: Sequence[Any], wanted: Mapping[str, Job]) -> Any:
        """A trial of a job that nobody has; None where others have all that are left."""
        states = optuna().trial.TrialState
        taken = {t.user_attrs.get("key") for t in trials if t.state != states.FAIL}
        if not any(trial.state == states.WAITING for trial in trials):
            job = next((job for key, job in wanted.items() if key not in taken), None)
            if job is None:
                return None
            study.enqueue_trial(dict(job.params), user_attrs={"key": job.key, "worker": self.worker})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna().exceptions.ExperimentalWarning)
            trial = study.ask()
        key = trial.user_attrs.get("key")
        try:
            trial.set_user_attr("worker", self.worker)
        except optuna().exceptions.UpdateFinishedTrialError:
            return None  # taken for a dead worker's before it had a name on it
        rivals = [
            t for t in study.get_trials(deepcopy=False)
            if t.user_attrs.get("key") == key
            and (t.state == states.COMPLETE or (t.state == states.RUNNING and t.number < trial.number and self._on(t)))
        ]  # fmt: skip
        if key not in wanted or rivals:  # two workers thought of the same job: the first one's counts
            self._fail(study, trial.number)
            return None
        return trial

    def _make(self, study: Any, trial: Any, evaluate: Evaluate, space: Mapping[str, Range]) -> None:
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna().exceptions.ExperimentalWarning)
                params = {name: _suggest(trial, name, where) for name, where in space.items()}
            value, details = evaluate(params)
            if not math.isfinite(value):
                raise DataError(f"Trial {trial.user_attrs['key']} has the value {value}, which no search can use.")
            seconds = time.perf_counter() - start
            trial.set_user_attr("result", {"details": dict(details), "seconds": seconds, "params": params})
            study.tell(trial, value)
        except optuna().exceptions.UpdateFinishedTrialError:
            return  # the lease was over, and somebody else has the job now
        except BaseException:
            self._fail(study, trial.number)
            raise

    def _fail(self, study: Any, number: int) -> None:
        try:
            study.tell(number, state=optuna().trial.TrialState.FAIL)
        except (optuna().exceptions.UpdateFinishedTrialError, ValueError):
            pass  # another worker was faster


def _finished(trials: Iterable[Any]) -> dict[str, Done]:
    """Key -> its first finished trial."""
    complete = optuna().trial.TrialState.COMPLETE
    found: dict[str, Done] = {}
    for trial in trials:
        key = trial.user_attrs.get("key")
        if trial.state == complete and key is not None and key not in found:
            result, worker = trial.user_attrs["result"], trial.user_attrs["worker"]
            found[key] = Done(key, result["params"], float(trial.value), result["details"], result["seconds"],
                              f"{worker['host']}:{worker['pid']}")  # fmt: skip
    return found


def _suggest(trial: Any, name: str, where: Range) -> Number:
    if where.integer:
        return int(trial.suggest_int(name, int(where.low), int(where.high), log=where.log))
    return float(trial.suggest_float(name, float(where.low), float(where.high), log=where.log))
