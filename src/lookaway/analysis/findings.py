"""Study records -> every table, as 'finding' records: what reports draw. Pure but for writing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..core.errors import DataError
from ..core.record import RecordWriter
from .attention_flow import entropy_table, flow_table
from .knockout import causes_table
from .rank_stability import rank_table
from .saliency import saliency_table
from .stages import stage_table
from .stopping import stopping_table

__all__ = ["find", "write_findings"]

TABLES: dict[str, Callable[[Sequence[dict[str, Any]]], Any]] = {
    "flow": flow_table,
    "entropy": entropy_table,
    "stages": stage_table,
    "causes": causes_table,
    "saliency": saliency_table,
    "stopping": stopping_table,
    "ranks": rank_table,
}


def find(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All tables of these 'study' records, by name; a table that these records do not allow is None.

    Raises:
        DataError: there is none, or they are of models of different depth or of different settings.
    """
    if not records:
        raise DataError("There are no study records. Make them: lookaway analyze --model ... --data ...")
    first = records[0]
    for record in records[1:]:
        for name, ours, theirs in (
            ("layers", first["num_layers"], record["num_layers"]),
            ("knockout windows", first["knockout"]["windows"], record["knockout"]["windows"]),
            ("exits", first["exits"]["layers"], record["exits"]["layers"]),
            ("entropy exits", list(first["entropy_after_exit"]), list(record["entropy_after_exit"])),
            ("top share", first["ranks"]["top_share"], record["ranks"]["top_share"]),
        ):
            if ours != theirs:
                raise DataError(
                    f"Study records of different models or settings are mixed: {name} of {first['id']!r} and "
                    f"{record['id']!r} are {ours} and {theirs}. Make one report for each."
                )
    return {name: table(records) for name, table in TABLES.items()}


def write_findings(writer: RecordWriter, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write one 'finding' record a table and return them."""
    found = find(records)
    for name, table in found.items():
        writer.write("finding", name=name, table=_plain(table))
    return found


def _plain(values: Any) -> Any:
    """NaN, which JSON does not know, as None."""
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values
