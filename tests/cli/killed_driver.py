"""Commands that die by SIGKILL at a known point: `python killed_driver.py JOBS.json`, each in a process of its own.

A job is a command's arguments and where it dies: after so many records of a kind, or so many finished batches of
labels. The processes are forks of this one, which has loaded the library once and started no thread. What became of
each is written into JOBS.ended.
"""

import json
import os
import signal
import sys
from pathlib import Path


def main() -> None:
    import torch

    torch.set_num_threads(1)
    from lookaway.cli import app
    from lookaway.core import exit_table, record

    jobs, ended = Path(sys.argv[1]), list[str]()
    for job in json.loads(jobs.read_text()):
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            ended.append("killed" if died else f"status {os.waitstatus_to_exitcode(status)}")
            continue
        kind, count = job["dies"]
        if kind == "labels":
            deadly(exit_table.ExitTable, "save", count)
        else:
            deadly(record.RecordWriter, "write", count, kind)
        sys.argv = ["lookaway", *job["arguments"]]
        try:
            app.main()
        finally:
            os._exit(0)
    jobs.with_suffix(".ended").write_text(json.dumps(ended))


def deadly(owner: type, method: str, count: int, first: str | None = None) -> None:
    """The `count`-th call of a method, with `first` as its first argument where it is given, is the last one."""
    whole, left = getattr(owner, method), [count]

    def dying(self, *arguments, **values):
        found = whole(self, *arguments, **values)
        left[0] -= first is None or arguments[0] == first
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, method, dying)


if __name__ == "__main__":
    main()
