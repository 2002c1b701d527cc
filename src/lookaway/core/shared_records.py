"""records.jsonl of a job of several processes: process 0 writes it; what each has finished lies in a part beside it.

A part is only there so that a rerun goes on where a process died. It holds the job's own header, so what another job
left is refused, and it is read whatever the number of processes that wrote it or that read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

from .processes import processes, share
from .record import RecordWriter, read_records

__all__ = ["SharedRecords", "merge_parts", "parts_of", "share_records"]

W = TypeVar("W")


class SharedRecords(RecordWriter):
    """A `RecordWriter` that only process 0 writes with; in one process it is nothing else.

    Args:
        path: of the one file.
        header: written first, with kind 'run', into the file and into this process's part; None: there is none.

    As a context that ends well it removes the parts, whose records are in the file by then.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any] | None = None) -> None:
        group = processes()
        self.part: RecordWriter | None = None
        self._writes = group.is_first
        if group.is_first:
            super().__init__(path)
        else:
            self.path = Path(path)
        if group.count > 1:
            self.part = RecordWriter(_part(self.path, group.rank))
        if header is not None:
            self.write("run", **header)
            if self.part is not None:
                self.part.write("run", **header)

    def write(self, kind: str, **values: Any) -> None:
        if self._writes:
            super().write(kind, **values)

    def close(self) -> None:
        if self._writes:
            super().close()
        if self.part is not None:
            self.part.close()

    def __exit__(self, *exc: object) -> None:
        self.close()
        if self.part is not None and exc[0] is None:
            processes().first(lambda: remove_parts(self.path))


def share_records(
    work: Iterable[W],
    run: Callable[[W], Sequence[Mapping[str, Any]]],
    writer: RecordWriter | None,
    kind: str,
    *,
    size: Callable[[Sequence[Mapping[str, Any]]], int] = len,
    progress: Callable[[int], object] | None = None,
) -> list[Sequence[Mapping[str, Any]]]:
    """`share` of work whose results are records: each is written as soon as it is made, and merged in order.

    Args:
        run: the values of an item's records.
        writer: gets them, with `kind`; where several processes work it must be a `SharedRecords`. None: kept nowhere.

    Returns:
        The values, item by item.
    """
    several = processes().count > 1

    def keep(rows: Sequence[Mapping[str, Any]]) -> None:
        own: RecordWriter | None = getattr(writer, "part", None) if several else writer
        if own is not None:
            for row in rows:
                own.write(kind, **row)

    found = share(work, run, keep=keep, size=size, progress=progress)
    if several and writer is not None:
        for rows in found:
            for row in rows:
                writer.write(kind, **row)
    return found


def parts_of(path: Path) -> list[Path]:
    """The parts beside `path` that jobs of several processes left."""
    return sorted(path.parent.glob(f"{escape(path.stem)}.part-*{path.suffix}"))


def merge_parts(path: Path, check: Callable[[Mapping[str, Any]], object] = lambda header: None) -> None:
    """Move what died processes finished into the one file; one process of a job calls it, before all work.

    Args:
        check: called with each part's header; raises where it is another job's, and nothing is moved then.
    """
    parts = parts_of(path)
    found: list[dict[str, Any]] = []
    for part in parts:
        RecordWriter(part).close()  # drops a line that a kill cut short
        records = list(read_records(part))
        for record in records:
            if record["kind"] == "run":
                check(record)
        found += records
    if found:
        with RecordWriter(path) as writer:  # drops a line that a kill cut short
            headed = any(record["kind"] == "run" for record in read_records(path))
            for record in found:
                if record["kind"] != "run" or not headed:
                    headed = headed or record["kind"] == "run"
                    writer.write(**record)
    remove_parts(path)


def remove_parts(path: Path) -> None:
    """Forget what died processes finished."""
    for part in parts_of(path):
        part.unlink(missing_ok=True)


def _part(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.stem}.part-{rank}{path.suffix}")
