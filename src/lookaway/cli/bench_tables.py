"""The tables that `lookaway bench` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from .common import tell
from .tables import show_table

if TYPE_CHECKING:
    from ..evaluation.energy import EnergyRow
    from ..evaluation.speed_row import SpeedRow
    from ..evaluation.time_shares import TimeShares

__all__ = ["show", "show_energies", "show_shares"]

Row = TypeVar("Row", "SpeedRow", "EnergyRow")


def show(rows: Sequence[SpeedRow]) -> None:
    """One table a part, size of the batch and length of the answer, one line a variant."""
    for (part, size, length), timed in _by_part(rows).items():
        cells = {
            "variant": [row.variant for row in timed],
            "visual tokens": [row.tokens_text for row in timed],
            "ms": [f"{1000 * row.seconds:.1f}" for row in timed],
            "speed-up": [f"{row.speedup:.2f}" for row in timed],
            "quartiles": ["{:.2f}–{:.2f}".format(*row.speedup_quartiles) for row in timed],
        }
        if any(row.implied_flops is not None for row in timed):
            cells |= {
                "implied": ["–" if row.implied is None else f"{row.implied:.2f}" for row in timed],
                "of implied": ["–" if row.efficiency is None else f"{row.efficiency:.0%}" for row in timed],
                "by FLOPs": ["–" if row.implied_flops is None else f"{row.implied_flops:.2f}" for row in timed],
            }
        if any(row.tokens_per_second is not None for row in timed):
            cells["tokens a s"] = [
                "–" if row.tokens_per_second is None else f"{row.tokens_per_second:.1f}" for row in timed
            ]
        if any(row.draft is not None for row in timed):
            cells["accepted"] = [accepted(row) for row in timed]
        if any(row.per_token is not None for row in timed):
            cells["ms a token"] = ["–" if row.per_token is None else f"{1000 * row.per_token:.1f}" for row in timed]
        cells["limit, ms"] = ["–" if row.limit is None else f"{1000 * row.limit:.1f}" for row in timed]
        if part == "decoder":
            cells["KV cache, MB"] = ["–" if row.kv_bytes is None else f"{row.kv_bytes / 1e6:.1f}" for row in timed]
        if any(row.peak_bytes is not None for row in timed):
            cells["peak, GB"] = ["–" if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.2f}" for row in timed]
        words = f"{part}, {1000 * timed[0].baseline_seconds:.1f} ms without a policy"
        rate = timed[0].baseline_tokens_per_second
        words += f", {length} tokens" + (f", {rate:.1f} a second" if rate else "") if length > 1 else ""
        title = words + (f", batch of {size}" if size > 1 else "")
        show_table(list(cells), list(zip(*cells.values(), strict=True)), title=title, texts=("variant",))


def accepted(row: SpeedRow) -> str:
    """'12 of 20 (60%)': guessed tokens that the model accepted."""
    if row.acceptance is None:
        return "–" if row.draft is None else "none guessed"
    return f"{row.accepted} of {row.drafted} ({row.acceptance:.0%})"


def show_shares(shares: Sequence[TimeShares]) -> None:
    """One table a size of the batch, one line a variant, one column a part of the run."""
    for size in dict.fromkeys(one.batch_size for one in shares):
        found = [one for one in shares if one.batch_size == size]
        kinds = list(found[0].shares)
        lines = [
            (one.variant, *("–" if part is None else f"{part:.1%}" for part in one.shares.values())) for one in found
        ]
        title = "share of the time until the first token, profiled" + (f", batch of {size}" if size > 1 else "")
        show_table(["variant", *kinds], lines, title=title, texts=("variant",))


def show_energies(energies: Sequence[EnergyRow]) -> None:
    """One table a part, size of the batch and length of the answer, one line a variant; then how they were got."""
    for (part, size, length), found in _by_part(energies).items():
        cells = {
            "variant": [row.variant for row in found],
            "J": [f"{row.joules:.3g}" for row in found],
            "bare / variant": [f"{row.ratio:.2f}" for row in found],
            "ms": [f"{1000 * row.seconds:.1f}" for row in found],
        }
        if any(row.gpu_joules for row in found):
            cells["GPU, J"] = [f"{row.gpu_joules:.3g}" for row in found]
        if length > 1:
            cells["J a token"] = ["–" if row.per_token is None else f"{row.per_token:.3g}" for row in found]
        called = "energy" if found[0].measured else "energy, estimated"
        each = found[0].baseline_per_token
        words = f"{called}, {part}, {found[0].baseline_joules:.3g} J without a policy"
        words += "" if each is None else f" ({each:.3g} a token)"
        words += (f", {length} tokens" if length > 1 else "") + (f", batch of {size}" if size > 1 else "")
        show_table(list(cells), list(zip(*cells.values(), strict=True)), title=words, texts=("variant",))
    if energies:
        last = energies[-1]
        how = "measured" if last.measured else "not measured but estimated from the time, so it says what seconds say"
        tell(f"note: energy was {how}. {last.source}. Of the whole machine while each variant ran, memory left out.")


def _by_part(rows: Iterable[Row]) -> dict[tuple[str, int, int], list[Row]]:
    """(part, size of the batch, length of the answer) -> its rows."""
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.part, row.batch_size, row.new_tokens), []).append(row)
    return groups
