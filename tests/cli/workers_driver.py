"""Workers that begin at once: `python workers_driver.py JOBS.json`, each a command in a process of its own.

A job is a command's arguments, the name of its group, and which of its trials it dies over by SIGKILL, if any. The
workers of a group wait for each other before their first trial, and those that live for the death of the one that
dies, so that all of them work and the dead one leaves a trial behind. What became of each is written into JOBS.ended.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

PATIENCE = 120.0


def main() -> None:
    import torch

    torch.set_num_threads(1)
    from lookaway.cli import app

    path = Path(sys.argv[1])
    jobs, children = json.loads(path.read_text()), []
    for number, job in enumerate(jobs):
        child = os.fork()
        if child:
            children.append(child)
            continue
        together(path.parent, number, jobs)
        sys.argv, status = ["lookaway", *job["arguments"]], 1
        try:
            app.main()
            status = 0
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        finally:
            sys.stdout.flush()
            os._exit(status)
    ended = [os.waitpid(child, 0)[1] for child in children]
    killed = ["killed" if os.WIFSIGNALED(status) else f"status {os.waitstatus_to_exitcode(status)}" for status in ended]
    path.with_suffix(".ended").write_text(json.dumps(killed))


def together(folder: Path, number: int, jobs: list[dict]) -> None:
    """Make this worker's trials wait for the others of its group, and die over one of them where it is told to."""
    from lookaway.search.fit.sample_runs import SampleRuns

    whole, made = SampleRuns.outcomes, [0]
    others = [place for place, job in enumerate(jobs) if job["group"] == jobs[number]["group"] and place != number]
    dying = [place for place in others if jobs[place]["dies"]]

    def wait_for(name: str, places: list[int]) -> None:
        end = time.monotonic() + PATIENCE
        while not all((folder / f"{name}-{place}").exists() for place in places) and time.monotonic() < end:
            time.sleep(0.02)

    def outcomes(self: SampleRuns, policy: object) -> object:
        made[0] += 1
        if made[0] == 1:
            (folder / f"here-{number}").touch()
            wait_for("here", others)
        if made[0] == 2:
            wait_for("dying", dying)
        if made[0] == jobs[number]["dies"]:
            (folder / f"dying-{number}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, policy)

    SampleRuns.outcomes = outcomes


if __name__ == "__main__":
    main()
