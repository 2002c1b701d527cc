"""Answers that are known already: an interrupted evaluation of tasks goes on question by question.

An answer is known by content: the model and the versions by the file's header, the policy by its digest, the question
by its task, words, pictures and settings. Each process adds to a file of its own and reads those of all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...core.decision import Policy
from ...core.earlier_results import require_same
from ...core.errors import LookawayError
from ...core.processes import Processes
from ...core.provenance import picture_digests, policy_digest
from ...core.record import RecordWriter, Sample, read_records
from .efficiency import Efficiency

__all__ = ["Answer", "KnownAnswers", "answer_files", "answer_key"]


@dataclass(frozen=True)
class Answer:
    """What a model said to one question of a task."""

    text: str
    input_tokens: int
    output_tokens: int
    seconds: float
    """The batch's `generate`, divided by its questions."""
    efficiency: Efficiency | None
    """None: without a policy."""


class KnownAnswers:
    """Those of earlier runs of one job, and those that are added.

    Args:
        folder: of the files.
        header: of the job; its `provenance` says which model, policy and versions the answers are of.
        group: the processes of the job; all of them make this object.

    Raises:
        StaleResults: the folder holds answers of another job.
        LookawayError: its files cannot be read or written.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], group: Processes) -> None:
        self._known: dict[str, Answer] = {}
        failed = None
        try:
            if group.is_first:
                for path in answer_files(folder):
                    RecordWriter(path).close()  # drops a line that a kill cut short
        except LookawayError as error:
            failed = error
        group.all_ok(failed)
        for path in answer_files(folder):
            for record in read_records(path):
                if record["kind"] == "run":
                    require_same(record.get("provenance"), header["provenance"], path.parent)
                elif record["kind"] == "answer":
                    self._known[record["key"]] = _answer(record)
        group.gather(None)  # nobody writes while another still reads
        path = folder / f"answers-{group.rank}.jsonl"
        new = not path.exists() or not path.stat().st_size
        self._writer = RecordWriter(path)
        if new:
            self._writer.write("run", **header)

    def get(self, key: str) -> Answer | None:
        return self._known.get(key)

    def add(self, key: str, answer: Answer, **more: Any) -> None:
        """Keep an answer at once; `more` is for readers of the file."""
        if key not in self._known:
            self._known[key] = answer
            self._writer.write("answer", key=key, **more, **asdict(answer))

    def close(self) -> None:
        self._writer.close()


def answer_files(folder: Path) -> list[Path]:
    """The files of known answers in a folder, of whatever number of processes."""
    return sorted(folder.glob("answers-*.jsonl"))


def answer_key(task: str, sample: Sample, settings: Mapping[str, Any], policy: Policy | None) -> str:
    """Equal exactly for the same question, asked with the same settings under the same policy.

    Args:
        settings: the task's generation settings.
        policy: None: the model without one.
    """
    asked = [
        task,
        sample.messages,
        picture_digests(sample),
        sorted(settings.items(), key=str),
    ]
    return hashlib.sha256(
        json.dumps([asked, None if policy is None else policy_digest(policy)], default=str).encode()
    ).hexdigest()[:32]


def _answer(record: Mapping[str, Any]) -> Answer:
    found = record["efficiency"]
    values = {name: record[name] for name in ("text", "input_tokens", "output_tokens", "seconds")}
    return Answer(**values, efficiency=None if found is None else Efficiency(**found))
