"""Several processes at one job (torchrun, accelerate launch): each does a share, and all of them have the one result.

Nothing is shared unless it is asked for (`sharing`), so a script that was started several times and divides its work by
itself is left alone. Work is dealt out by whole items, so each item (a batch) is the very computation that one process
does, and the results are the same bits in the same order. Processes meet through torch.distributed: gloo, unless a
trainer has joined them already.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

from .errors import LookawayError, SettingsError

__all__ = ["ALONE", "OtherProcessFailed", "Processes", "alone", "processes", "share", "sharing", "started"]

W = TypeVar("W")
R = TypeVar("R")

WAIT = "LOOKAWAY_PROCESS_TIMEOUT"
"""Environment variable: seconds that a process waits for the others."""
HOURS = 6
"""The default: as long as one process may take for what the others wait for, such as the training of gates."""


class OtherProcessFailed(LookawayError):
    """Another process of this job met an error; it says which."""


class Processes:
    """This process among those of the job.

    Args:
        rank: its number, from 0.
        count: how many there are.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self._made_group = False
        self._store: Any = None
        self._shares = 0

    @property
    def is_first(self) -> bool:
        """The one that prints and writes."""
        return self.rank == 0

    def gather(self, value: R) -> list[R]:
        """Every process's value, by rank, in every process."""
        if self.count == 1:
            return [value]
        self._join()
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        try:
            dist.all_gather_object(found, value)
        except RuntimeError as error:  # what gloo raises where a process is gone, or too late
            raise OtherProcessFailed(
                f"Another of the {self.count} processes ended or did not answer in time ({WAIT}, seconds; "
                f"{str(error).splitlines()[0][:120]}). Its own message says why. What was finished is kept; the same "
                "command goes on from there, with any number of processes."
            ) from error
        return found

    def all_ok(self, error: LookawayError | None) -> None:
        """Meet the others; where one of them has an error, all raise it: the one of the lowest rank."""
        for rank, found in enumerate(self.gather(error)):
            if found is not None and rank == self.rank:
                raise found
            if found is not None:
                raise OtherProcessFailed(f"process {rank} of {self.count}: {found}") from found

    def first(self, run: Callable[[], R]) -> R:
        """What process 0 finds by `run`, in all processes; the others wait for it. An error of it is raised in all."""
        if self.count == 1:
            return run()
        value, failed = None, None
        if self.is_first:
            try:
                with alone():
                    value = run()
            except LookawayError as error:
                failed = error
        self.all_ok(failed)
        found: Any = self.gather(value)[0]
        return found

    @contextmanager
    def first_in_turn(self) -> Iterator[None]:
        """All do what is inside, process 0 before the others: it fetches or prepares what they find then."""
        if self.count == 1:
            yield
        elif self.is_first:
            try:
                yield
            except LookawayError as error:
                self.all_ok(error)
            self.all_ok(None)
        else:
            self.all_ok(None)
            yield

    def close(self) -> None:
        """Leave the group, where it was made here."""
        if self._made_group:
            import torch.distributed as dist

            dist.destroy_process_group()
            self._made_group = False

    def _join(self) -> None:
        import torch.distributed as dist

        if dist.is_initialized():
            return
        seconds = os.environ.get(WAIT, str(HOURS * 3600))
        if not seconds.isdigit() or int(seconds) < 1:
            raise SettingsError(f"{WAIT} must be a number of seconds, not {seconds!r}.")
        wait = timedelta(seconds=int(seconds))
        store, *_ = next(dist.rendezvous("env://", self.rank, self.count, timeout=wait))
        self._store = dist.PrefixStore(f"lookaway-{next(_groups)}", store)  # a launcher's store outlives a group
        dist.init_process_group(
            "gloo", store=dist.PrefixStore("group", self._store), rank=self.rank, world_size=self.count, timeout=wait
        )
        self._made_group = True

    def _begin_share(self) -> None:
        self._join()
        self._shares += 1

    def _fail(self) -> None:
        """Let the others stop at their next item."""
        if self._store is not None:
            self._store.set(f"failed-{self._shares}", "yes")

    def _others_failed(self) -> bool:
        return self._store is not None and bool(self._store.check([f"failed-{self._shares}"]))


ALONE = Processes()
_groups = count()
_current: ContextVar[Processes] = ContextVar("processes", default=ALONE)


def processes() -> Processes:
    """Those that share the work of this place; where nobody asked for sharing: one."""
    return _current.get()


@contextmanager
def sharing(group: Processes) -> Iterator[Processes]:
    """Inside, loops over samples are shared by `group`: every process of it must run the same code."""
    token = _current.set(group)
    try:
        yield group
    finally:
        _current.reset(token)


def alone() -> Any:
    """A context inside which this process shares nothing: what it does, it does whole."""
    return sharing(ALONE)


def started(environment: Mapping[str, str] = os.environ) -> Processes:
    """The processes that a launcher says it has started (RANK and WORLD_SIZE); one where it says nothing.

    Raises:
        SettingsError: what it says makes no sense.
    """
    size, rank = environment.get("WORLD_SIZE", "1"), environment.get("RANK", "0")
    if not size.isdigit() or int(size) < 1:
        raise SettingsError(f"WORLD_SIZE is {size!r}, not a number of processes. Unset it, or start with torchrun.")
    if int(size) > 1 and not ("RANK" in environment and rank.isdigit() and int(rank) < int(size)):
        raise SettingsError(
            f"WORLD_SIZE says that {size} processes were started, and RANK ({environment.get('RANK', 'not set')}) does "
            "not say which of them this is. Start with torchrun or accelerate launch, or unset WORLD_SIZE."
        )
    return Processes(int(rank), int(size)) if int(size) > 1 else ALONE


def share(
    work: Iterable[W],
    run: Callable[[W], R],
    *,
    keep: Callable[[R], object] = lambda result: None,
    size: Callable[[R], int],
    progress: Callable[[int], object] | None = None,
) -> list[R]:
    """Run every item once, somewhere, and have all results in the order of the items.

    Args:
        work: the same items in every process; with several processes a sequence, of which only own items are looked at.
        run: makes one item's result, plain values; it runs alone, so what it calls shares nothing.
        keep: called with each own result as soon as it is there, to keep it for a rerun.
        size: what a result counts for the progress.
        progress: called with what was just done, here and, as far as can be guessed, in the other processes.

    Raises:
        LookawayError: what `run` raised, in all processes: in the others as OtherProcessFailed.
    """
    told, group = 0, processes()
    if group.count == 1:
        return [_done(run(item), keep, size, progress)[0] for item in work]
    items: Sequence[W] = work if isinstance(work, Sequence) else list(work)
    own: list[R] = []
    failed: LookawayError | None = None
    group._begin_share()
    for place in range(group.rank, len(items), group.count):
        if group._others_failed():
            break
        try:
            with alone():
                result, counted = _done(run(items[place]), keep, size, None)
        except LookawayError as error:
            failed = error
            group._fail()
            break
        own.append(result)
        guessed = counted * min(group.count, len(items) - place)
        told += guessed
        if progress is not None:
            progress(guessed)
    group.all_ok(failed)
    shares = group.gather(own)
    found = [shares[place % group.count][place // group.count] for place in range(len(items))]
    if progress is not None and (rest := sum(map(size, found)) - told):
        progress(rest)
    return found


def _done(
    result: R, keep: Callable[[R], object], size: Callable[[R], int], progress: Callable[[int], object] | None
) -> tuple[R, int]:
    keep(result)
    count = size(result)
    if progress is not None:
        progress(count)
    return result, count
