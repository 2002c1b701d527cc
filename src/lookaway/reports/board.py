"""Folders of records -> the rows of a leaderboard. Pure: nothing is drawn here.

Rows stand in one group exactly if their numbers may be compared: the same weights, settings and processor of the model,
the same questions, answers and pictures, the same scorer and length of answers. Digests decide that; names are labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.record import read_records
from .collect import records_in
from .policy_words import policy_words

__all__ = ["BoardRow", "Group", "collect_board", "on_front"]

SETTINGS = ("max_new_tokens", "conversation", "include_path", "task_defaults")
"""Options that change what the model is asked, or how long it may answer, beside the samples."""


@dataclass(frozen=True)
class BoardRow:
    """One policy on one set of samples."""

    method: str
    """What rows are filtered by: the policy's kind, or the baseline's name."""
    words: str
    numbers: Mapping[str, Any]
    """A row of a 'summary' (`evaluation.summary.SummaryRow` as plain values)."""
    accuracy: Sequence[float] | None
    """[value, low, high] where the records hold an interval."""
    source: str
    """Command, folder, date and machine."""
    note: str = ""


@dataclass
class Group:
    """Rows that may be compared."""

    models: list[str]
    """What users called the model."""
    weights: str
    data: list[str]
    samples: str
    """Digest of the questions."""
    scorer: str | None
    facts: str
    """dtype, attention and settings, in words."""
    rows: list[BoardRow] = field(default_factory=list)

    @property
    def without(self) -> list[float]:
        """The full model's score: one number, or several where the runs did not find the same."""
        found = (row.numbers["accuracy_without"] for row in self.rows)
        return sorted({value for value in found if value is not None})


def collect_board(folders: Iterable[str | Path], version: str) -> list[Group]:
    """Groups by model, then by data, their rows from cheap to dear.

    Args:
        folders: each with the records of one `lookaway eval`, `eval --tasks` or `fit`.
        version: of lookaway; records of another one are refused.

    Raises:
        DataError: a folder has no records, no finished result for the board, or records of another version.
    """
    groups: dict[str, Group] = {}
    for folder in dict.fromkeys(Path(folder).resolve() for folder in folders):
        found = list(_read_folder(folder, version))
        if not found:
            raise DataError(
                f"{folder} holds records, but no finished result for the board: those of lookaway eval, "
                "eval --tasks, or fit with held-out samples."
            )
        for key, run, data, row in found:
            model, scorer = run["provenance"]["model"], key["scorer"]
            facts = [run["dtype"], f"{run['attention']} attention"]
            facts += [f"{name} {value}" for name, value in key["settings"].items() if value not in (None, True)]
            samples = key["samples"] if isinstance(key["samples"], str) else key["samples"]["questions"]
            new = Group([], model["weights"], [], samples, scorer, ", ".join(facts))
            group = groups.setdefault(json.dumps(key, sort_keys=True), new)
            for names, name in ((group.models, run["model"]), (group.data, data)):
                if name not in names:
                    names.append(name)
            if row not in group.rows:
                group.rows.append(row)
    for group in groups.values():
        group.rows.sort(key=lambda row: (row.numbers["flops_share"], -row.numbers["agreement"][0]))
    return sorted(groups.values(), key=lambda group: (group.models, group.weights, group.data, group.samples))


def on_front(row: BoardRow, rows: Sequence[BoardRow]) -> bool:
    """Whether no other row is at least as cheap and as faithful, and better in one of them."""

    def place(one: BoardRow) -> tuple[float, float]:
        return one.numbers["flops_share"], -one.numbers["agreement"][0]

    own = place(row)
    return not any(a <= own[0] and b <= own[1] and (a, b) != own for a, b in map(place, rows))


Found = tuple[dict[str, Any], Mapping[str, Any], str, BoardRow]
"""(what must be equal to compare, the run's header, name of the data, row)."""


def _read_folder(folder: Path, version: str) -> Iterator[Found]:
    for file in records_in(folder):
        run: dict[str, Any] | None = None
        latest: dict[str, dict[str, Any]] = {}  # of several records for one variant the last counts
        for record in read_records(file):
            if record["kind"] == "run":
                run = _checked(record, file, version)
            elif record["kind"] in ("summary", "beside"):
                if run is None:
                    raise DataError(f"{file}: results stand before the 'run' header that says what they are of.")
                latest[str(record.get("variant") or record["name"])] = record
        if run is None:
            continue
        source = f"{run['command']}, {folder.name}, {run['created'][:10]}, {run['hardware']}"
        scorer = next((record["scorer"] for record in latest.values() if record.get("scorer")), None)
        for record in latest.values():
            make = (
                _of_fit if record["kind"] == "beside" else _of_tasks if "questions" in run["provenance"] else _of_eval
            )
            yield from make(run, record, scorer, source)


def _checked(run: dict[str, Any], file: Path, version: str) -> dict[str, Any]:
    """The header of a run whose numbers this version computed.

    Raises:
        DataError: it is of another version, or does not say what it depends on.
    """
    written = run.get("versions", {}).get("lookaway", "an unknown version")
    if written != version:
        raise DataError(
            f"{file} was written by lookaway {written}, this is {version}: numbers may be counted otherwise. "
            "Run the command again."
        )
    if "model" not in run.get("provenance", {}):
        raise DataError(
            f"{file} was written before records named what they depend on by content (no provenance in its 'run' "
            "header), so nothing can be compared with it. Run the command again."
        )
    return run


def _key(run: Mapping[str, Any], samples: Any, scorer: str | None) -> dict[str, Any]:
    settings = {name: run["options"].get(name) for name in SETTINGS}
    if "questions" not in run["provenance"]:  # these two are about tasks
        settings |= {"include_path": None, "task_defaults": None}
    return {"model": run["provenance"]["model"], "dtype": run["dtype"], "samples": samples, "scorer": scorer,
            "settings": settings}  # fmt: skip


def _of_eval(run: Mapping[str, Any], record: Mapping[str, Any], scorer: str | None, source: str) -> Iterator[Found]:
    numbers = record["rows"][0]
    if scorer is None:  # only agreement was asked for
        numbers = numbers | {"accuracy_with": None, "accuracy_without": None, "retention": None}
    row = BoardRow(*_named(run, record["variant"]), numbers, None, source, _note(run))
    yield _key(run, run["provenance"]["samples"], scorer), run, run["data"], row


def _of_tasks(run: Mapping[str, Any], record: Mapping[str, Any], _: str | None, source: str) -> Iterator[Found]:
    """One row a task; the row 'all' mixes tasks, and is left out."""
    digests, harness = run["provenance"]["questions"], run["provenance"]["harness"]
    for numbers in record["rows"]:
        task = numbers["family"]
        if task in digests:
            method, words = _named(run, record["variant"])
            words = record.get("tasks", {}).get(task, {}).get("name", words)  # a baseline's cost is of each task
            row = BoardRow(method, words, numbers, None, source, _note(run))
            yield _key(run, f"{task} {digests[task]}", f"the task's own, {harness}"), run, task, row


def _of_fit(run: Mapping[str, Any], record: Mapping[str, Any], scorer: str | None, source: str) -> Iterator[Found]:
    own = record["name"] == "this policy"
    method, words = (record["policy"]["name"], policy_words(record["policy"])) if own else (record["name"],) * 2
    row = BoardRow(method, words, record["families"][0], record["accuracy"], source, _note(run))
    yield _key(run, run["provenance"]["samples"], scorer), run, f"{run['data']} ({record['split']}, held out)", row


def _named(run: Mapping[str, Any], variant: str) -> tuple[str, str]:
    """Method and words of a variant of `lookaway eval`: the policy that was given, or a baseline beside it."""
    policy = run["provenance"].get("policy")
    if policy is None or variant != run["options"].get("name"):
        return variant, variant
    words = policy_words({"name": policy["name"], "config": policy["settings"]})
    return policy["name"], words if variant in ("policy", "gates") else f"{variant}: {words}"


def _note(run: Mapping[str, Any]) -> str:
    return "made for another model" if run.get("allowed_other_model") else ""
