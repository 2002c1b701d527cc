"""What each process of a test of several runs: `torchrun many_driver.py JOBS.json`, one command after another."""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    import torch

    torch.set_num_threads(1)
    from lookaway.cli import app
    from lookaway.core import record

    jobs = json.loads(Path(sys.argv[1]).read_text())
    if jobs["dies"] is not None and os.environ["RANK"] == "1":
        kept, write = [], record.RecordWriter.write

        def dying(self, kind, **values):
            write(self, kind, **values)
            kept.extend([kind] if kind == jobs["dies"][0] else [])
            if len(kept) >= jobs["dies"][1]:
                os._exit(9)

        record.RecordWriter.write = dying
    for arguments in jobs["commands"]:
        sys.argv = ["lookaway", *arguments]
        try:
            app.main()
        except SystemExit as stopped:
            if stopped.code:
                raise


if __name__ == "__main__":
    main()
