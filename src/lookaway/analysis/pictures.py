"""Which samples a page should show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.record import RecordWriter, Sample
from ..models.seen_picture import seen_picture
from .stopping import earliest_safe

__all__ = ["choose", "write_looks"]

REASONS = ("earliest", "latest", "wrong_after", "right_only_after", "changed_after")


def choose(
    records: Sequence[dict[str, Any]], exits: Mapping[str, int | None] | None = None, count: int = 12
) -> dict[str, list[str]]:
    """Samples worth a look, with why: earliest and latest exits, wrong after an exit, right only after one.

    Args:
        records: 'study' records.
        exits: sample id -> layer before which all visual tokens left under a policy (None: never). Without it an exit
            is the earliest safe one, 'wrong after' is judged at half of the depth, and 'right only after' at any exit.
        count: at most so many samples, spread over the reasons.

    Returns:
        Sample id -> reasons, in the order of REASONS; without ground truth a changed answer stands for a wrong one.
    """
    known = [record for record in records if exits is None or record["id"] in exits]
    by_depth = sorted(known, key=lambda record: _exit_of(record, exits))
    groups: dict[str, list[dict[str, Any]]] = {"earliest": by_depth, "latest": by_depth[::-1]}
    groups["wrong_after"] = [r for r in known if r["exits"]["full_right"] and _right_at(r, exits) is False]
    groups["right_only_after"] = [r for r in known if r["exits"]["full_right"] is False and _ever_right(r, exits)]
    groups["changed_after"] = [r for r in known if r["exits"]["full_right"] is None and not _at(r, "same", exits)]
    share = max(1, count // sum(bool(group) for group in groups.values())) if known else 0
    found: dict[str, list[str]] = {}
    for reason in REASONS:
        new = 0
        for record in groups[reason]:
            if record["id"] in found:
                if new < share:
                    found[record["id"]].append(reason)
            elif new < share and len(found) < count:
                found[record["id"]] = [reason]
                new += 1
    return found


def write_looks(
    writer: RecordWriter,
    processor: Any,
    samples: Sequence[Sample],
    records: Sequence[dict[str, Any]],
    exits: Mapping[str, int | None] | None = None,
    count: int = 12,
    with_policy: bool = False,
) -> None:
    """Write one 'look' record for each chosen sample: its picture, why it was chosen, where its exit is.

    `with_policy`: there are 'sample' records of a policy, even where `exits` is None because it always keeps some
    tokens.
    """
    by_id = {record["id"]: record for record in records}
    images = {sample.id: sample for sample in samples}
    for name, reasons in choose(records, exits, count).items():
        png, aligned = seen_picture(processor, images[name])
        layer = _exit_of(by_id[name], exits)
        writer.write(
            "look", id=name, reasons=reasons, png=png, aligned=aligned, by_policy=exits is not None,
            with_policy=with_policy, exit_layer=None if layer == by_id[name]["num_layers"] else layer,
        )  # fmt: skip


def _exit_of(record: dict[str, Any], exits: Mapping[str, int | None] | None) -> int:
    """The layer of a sample's exit; the depth where it has none."""
    depth = record["num_layers"]
    if exits is not None:
        layer = exits[record["id"]]
        return depth if layer is None else layer
    return earliest_safe(record["exits"]["layers"], record["exits"]["same"], depth)


def _at(record: dict[str, Any], what: str, exits: Mapping[str, int | None] | None) -> Any:
    """`what` of the exits table at the policy's exit, or at half of the depth."""
    layer = (
        _exit_of(record, exits) if exits is not None else max(record["num_layers"] // 2, record["exits"]["layers"][0])
    )
    if layer not in record["exits"]["layers"]:
        return record["exits"][f"full_{what}"] if what == "right" else True
    return record["exits"][what][record["exits"]["layers"].index(layer)]


def _right_at(record: dict[str, Any], exits: Mapping[str, int | None] | None) -> bool | None:
    return None if record["exits"]["right"] is None else bool(_at(record, "right", exits))


def _ever_right(record: dict[str, Any], exits: Mapping[str, int | None] | None) -> bool:
    return bool(_right_at(record, exits)) if exits is not None else any(record["exits"]["right"])
