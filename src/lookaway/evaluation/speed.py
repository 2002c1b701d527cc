"""Is the work that was saved also time saved? Measured against implied speed-up, idle overhead, and what gates cost.

What the remaining work implies is measured too, on the same machine and in the same rounds: the bare decoder is timed
on prompts of the lengths that the policy leaves. FLOPs alone suggest more than any engine could give, since a layer
over a few text tokens is bound by reading its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ..anatomy.find import anatomy_of
from ..core.decision import Policy
from ..core.draft import Draft
from ..core.record import RecordWriter, Trace
from ..engine.api import attach
from .decoder_alone import DecoderAlone
from .drafted_speed import drafted_answers
from .latency import Timing, measure
from .limit import Machine, decode_limit, measure_machine, prefill_limit
from .memory import kv_cache_bytes, peak_bytes
from .speed_row import SpeedRow
from .time_shares import TimeShares, time_shares
from .timed_runs import Idle, generating, timed_parts, timed_policies, variants_of_run

__all__ = ["Idle", "SpeedRow", "measure_speed", "profile_speed", "remaining_work"]


def measure_speed(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    exits: Sequence[int],
    policies: Mapping[str, Policy] | None = None,
    drafts: Mapping[str, Draft] | None = None,
    new_tokens: Sequence[int] = (16,),
    repeats: int = 15,
    warmup: int = 2,
    writer: RecordWriter | None = None,
    progress: Callable[[int], object] = lambda count: None,
    finished: Callable[[Sequence[SpeedRow]], object] = lambda rows: None,
) -> list[SpeedRow]:
    """Time fixed exits, the attached but idle engine and policies, all in turns with the bare model.

    The image's features are computed once for the 'decoder' part, so that it times what a policy changes. A second look
    is timed as it decides on this prompt and with set numbers of rows that look again (`variants_of`).

    Args:
        inputs: keyword arguments of the model's forward, on its device, with `input_ids` int64 [B, S].
        policies: what the records call each -> the policy.
        drafts: what the records call each -> the draft, timed in the 'decode' parts without a policy and with each.
        new_tokens: lengths of the answers of the 'decode' part; a 1 is the 'first token', which is timed anyway.
        writer: gets the rows of each part as soon as it is timed.
        progress: called with 1 after each round, `warmup + repeats` of each part; there are 2 parts and one more a
            length above 1.
        finished: called with the rows of each part, after they were written.

    Raises:
        UnsupportedModel, SettingsError: a draft does not fit this model, or a batch of several rows is to be drafted.
    """
    batch_size = len(inputs["input_ids"])
    timed = timed_policies(exits, policies or {}, batch_size)
    rows: list[SpeedRow] = []
    shape, height = anatomy_of(model).shape, int(inputs["input_ids"].numel())
    machine = measure_machine(shape, model.dtype, model.device, height)
    decoder = DecoderAlone(model, dict(inputs))
    parts = timed_parts(model, inputs, new_tokens, decoder)
    drafted = {
        n: drafted_answers(model, policies or {}, drafts or {}, inputs, n, run) for _, n, run in parts if n > 1
    }  # before anything is timed: a draft may not fit
    held = {name: kv_bytes_of(model, policy, inputs) for name, policy in timed.items()}
    for part, length, run in parts:
        variants = variants_of_run(model, timed, run)
        sizes = _sizes(variants, list(timed)) if part == "decoder" else []
        shorter = {f"{n} tokens of {count} rows": decoder.last(n, count) for count, n in sizes}
        guessed = drafted.get(length, {})
        around = {name: one.attached for name, one in guessed.items()}
        times = measure(
            {**variants, **shorter, **guessed}, repeats=repeats, warmup=warmup, device=model.device, progress=progress,
            around=partial(_around, around),
        )  # fmt: skip
        remaining = {(count, n): times[f"{n} tokens of {count} rows"] for count, n in sizes}
        peaks = {name: peak_bytes(variants[name], model.device) for name in ("bare", *timed)}
        machine = machine.better(measure_machine(shape, model.dtype, model.device, height))
        if writer is not None:
            writer.write("machine", batch_size=batch_size, **vars(machine))
        whole, done = variants["idle"].trace, len(rows)
        for name in timed:
            trace = variants[name].trace
            row = replace(
                _row(name, part, times["bare"], times[name], trace, remaining), batch_size=batch_size,
                new_tokens=length, kv_bytes=held[name], baseline_kv_bytes=held["idle"], peak_bytes=peaks[name],
                baseline_peak_bytes=peaks["bare"],
            )  # fmt: skip
            rows.append(_with_limit(row, trace, whole, machine, rows))
        rows += [one.row(name, times["bare"], times[name]) for name, one in guessed.items()]
        if writer is not None:
            for row in rows[done:]:
                writer.write("timing", **vars(row))
        finished(rows[done:])
    return rows


def profile_speed(
    model: Any, inputs: Mapping[str, Any], exits: Sequence[int], policies: Mapping[str, Policy]
) -> list[TimeShares]:
    """Where the time until the first token goes, one profiled run for each variant of `measure_speed`."""
    size = len(inputs["input_ids"])
    return time_shares(model, timed_policies(exits, policies, size), generating(model, inputs, 1), size)


def _around(
    contexts: Mapping[str, Callable[[], AbstractContextManager[Any]]], name: str
) -> AbstractContextManager[Any]:
    """What is entered around a variant's runs."""
    return contexts[name]() if name in contexts else nullcontext()


def kv_bytes_of(model: Any, policy: Policy, inputs: Mapping[str, Any]) -> int:
    """Bytes of the KV cache after a prefill under `policy`."""
    with attach(model, policy):
        return kv_cache_bytes(model, inputs)


def _with_limit(row: SpeedRow, trace: Trace, whole: Trace, machine: Machine, rows: Sequence[SpeedRow]) -> SpeedRow:
    """The row with the machine's limit for it and, of a 'decode', seconds of an output token after the first."""
    steps = row.new_tokens - 1
    limits = [prefill_limit(one, machine) + decode_limit(one, machine, steps) for one in (trace, whole)]
    row = replace(row, limit=limits[0], baseline_limit=limits[1])
    if not steps:
        return row
    first = next(one for one in rows if one.part == "first token" and one.variant == row.variant)
    own, bare = row.seconds - first.seconds, row.baseline_seconds - first.baseline_seconds
    each = [seconds / steps if seconds > 0 else None for seconds in (own, bare)]
    tokens = row.new_tokens * row.batch_size
    return replace(row, per_token=each[0], baseline_per_token=each[1], tokens_per_second=tokens / row.seconds,
                   baseline_tokens_per_second=tokens / row.baseline_seconds)  # fmt: skip


def _passes(trace: Trace) -> list[tuple[int, list[int]]]:
    """(rows, tokens of each layer that ran) of each pass of a prefill: two where rows looked again, of which the second
    runs those rows alone."""
    again = [row for row, looked in enumerate(trace.looked_again) if looked]
    if not again:
        return [(len(trace.exit_layers), trace.cache_slots)]
    first, second = list(trace.cache_slots), []
    for layer, seen in enumerate(trace.first_pass_tokens):
        if any(seen):  # it ran twice; what its cache holds in the end is of both passes
            tokens = trace.tokens[layer]
            first[layer] = max(old or new for old, new in zip(seen, tokens, strict=True))
            second.append(max(tokens[row] for row in again))
    return [(len(trace.exit_layers), first), (len(again), second)]


def _sizes(variants: dict[str, Any], names: Sequence[str], most: int = 8) -> list[tuple[int, int]]:
    """(rows, tokens) at which the decoder's layers run, thinned to `most` lengths for each number of rows: times
    between them are interpolated."""
    with torch.no_grad():
        for name in names:
            variants[name]()
    passes = [one for name in names for one in _passes(variants[name].trace)]
    sizes = []
    for rows in dict.fromkeys(count for count, _ in passes):
        found = sorted({slots for count, each in passes if count == rows for slots in each if slots})
        if len(found) > most:
            found = [found[i] for i in sorted({round(i * (len(found) - 1) / (most - 1)) for i in range(most)})]
        sizes += [(rows, tokens) for tokens in found]
    return sizes


def _row(
    name: str, part: str, bare: Timing, found: Timing, trace: Trace, sizes: Mapping[tuple[int, int], Timing]
) -> SpeedRow:
    implied = by_flops = efficiency = None
    if part == "decoder":
        cost = trace.cost()
        head = 2 * trace.shape.hidden_size * trace.shape.vocab_size * len(trace.exit_layers)
        by_flops = (cost.full_flops + head) / (cost.flops + head)
    if part == "decoder" and not trace.skipped:  # a skipped attention is no shorter decoder: no length implies its time
        work = np.zeros(len(found.runs))
        for rows, slots in _passes(trace):
            seconds = {n: timing.runs for (count, n), timing in sizes.items() if count == rows}
            work += remaining_work(slots, seconds) * len(slots) / trace.shape.num_layers
        implied = float(np.median(np.asarray(bare.runs) / work))
        efficiency = float(np.median(work / np.asarray(found.runs)))
    row = SpeedRow.of(name, part, bare, found, trace)
    return replace(row, implied=implied, implied_flops=by_flops, efficiency=efficiency)


def remaining_work(slots: Sequence[int], seconds: Mapping[int, Sequence[float]]) -> np.ndarray:
    """Seconds a round that a decoder's layers take over `slots` tokens each.

    Args:
        slots: tokens of each layer, [L].
        seconds: length -> seconds a round of a whole decoder of L layers at that length; lengths between are
            interpolated linearly.

    Returns:
        float64 [rounds]: the mean over the layers of the decoder's time at their length.
    """
    lengths = sorted(seconds)
    rounds = np.asarray([seconds[n] for n in lengths], dtype=float)  # [lengths, rounds]
    each = [np.mean(np.interp(slots, lengths, column)) for column in rounds.T]
    return np.asarray(each)
