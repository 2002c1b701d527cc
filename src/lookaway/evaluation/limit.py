"""The least time that a machine could take: per layer, arithmetic at its matrix rate or bytes at its bandwidth.

Both rates are measured in the same process, as the best that was seen. The limit counts only what no implementation can
leave out: each weight read once a forward, the causal half of the attention, keys and values written once in prefill
and read once a step. So a measured time below it means that the model of the cost or the rates are wrong.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.cost import DecoderShape
from ..core.record import Trace

__all__ = ["Machine", "decode_limit", "layer_seconds", "measure_machine", "prefill_limit"]


@dataclass(frozen=True)
class Machine:
    """What one device can do at most."""

    flops: float
    """FLOPs a second of large matrix products (2 a multiply-add)."""
    bandwidth: float
    """Bytes a second that are read from memory."""

    def better(self, other: Machine) -> Machine:
        """The higher of each rate."""
        return Machine(max(self.flops, other.flops), max(self.bandwidth, other.bandwidth))

    def seconds(self, flops: float, size: float) -> float:
        """At least this long for `flops` of arithmetic on `size` bytes."""
        return max(flops / self.flops, size / self.bandwidth)


def layer_seconds(
    shape: DecoderShape, machine: Machine, new: Sequence[int], before: Sequence[int], layer: int, attends: bool = True
) -> float:
    """The least seconds of one decoder layer.

    Args:
        new: tokens of each row that the layer processes.
        before: tokens of each row that its cache holds already.
        attends: False where its attention is skipped.
    """
    sizes = shape.layer(layer)
    matrices = sizes.ffn + (sizes.queries + sizes.keys if attends else 0)
    flops = 2 * matrices * sum(new)
    size = matrices * shape.dtype_bytes
    if attends:
        pairs = sum(n * old + n * (n + 1) // 2 for n, old in zip(new, before, strict=True))  # the causal half
        flops += 2 * sizes.scores * pairs
        size += sum(shape.kv_bytes(n + old, layer) for n, old in zip(new, before, strict=True))
    return machine.seconds(flops, size)


def prefill_limit(trace: Trace, machine: Machine) -> float:
    """The least seconds of a decoder's prefill that did what `trace` says, with the head on one position a row.

    A layer that ran twice for rows that looked again counts twice: for all rows, and for those alone.
    """
    shape, total = trace.shape, 0.0
    for layer, tokens in enumerate(trace.tokens):
        new, first = list(tokens), trace.first_seen(layer)
        if layer in trace.held:  # of frozen tokens only keys and values are made
            new = [n - visual for n, visual in zip(tokens, trace.visual_tokens[layer], strict=True)]
        if trace.tail is not None and layer >= trace.tail:
            new, first = [1] * len(tokens), [min(1, seen) for seen in first]
        again = [n for n, seen in zip(new, first, strict=True) if seen]
        passes = [[seen or n for n, seen in zip(new, first, strict=True)], again] if again else [new]
        for ran in passes:
            total += layer_seconds(shape, machine, ran, [0] * len(ran), layer, layer not in trace.skipped)
    return total + _head(shape, machine, len(trace.exit_layers))


def decode_limit(trace: Trace, machine: Machine, steps: int) -> float:
    """The least seconds of `steps` decoding steps behind that prefill."""
    shape, rows, total = trace.shape, len(trace.exit_layers), 0.0
    for step in range(steps):
        for layer, tokens in enumerate(trace.tokens):
            held = [n + step for n in tokens]
            total += layer_seconds(shape, machine, [1] * rows, held, layer, layer not in trace.skipped)
        total += _head(shape, machine, rows)
    return total


def _head(shape: DecoderShape, machine: Machine, rows: int) -> float:
    entries = shape.hidden_size * shape.vocab_size
    return machine.seconds(2 * entries * rows, entries * shape.dtype_bytes)


def measure_machine(shape: DecoderShape, dtype: torch.dtype, device: Any, tokens: int, seconds: float = 0.2) -> Machine:
    """The best rates that this device shows for this decoder's dtype and sizes.

    Args:
        tokens: positions of a prefill, all rows together; products of that height are among those that are tried.
        seconds: spent on each product at least, five runs at least.
    """
    device = torch.device(device)
    side = 8192 if device.type == "cuda" else 1536
    sizes = [(side, side, side), (tokens, shape.hidden_size, max(shape.intermediate_size, shape.hidden_size))]
    weights = min(2**30, max(2**16, _decoder_bytes(shape)))  # as much as a step reads: what fits in a cache, may
    data = torch.ones(weights // dtype.itemsize, dtype=dtype, device=device)
    width = min(data.numel(), 4096)
    matrix = data[: data.numel() // width * width].view(-1, width)
    with torch.no_grad():
        flops = max(_product(*size, dtype, device, seconds) for size in sizes)
        vector = torch.ones(width, dtype=dtype, device=device)
        read = matrix.numel() * dtype.itemsize / _best(lambda: matrix @ vector, device, seconds)
        summed = data.numel() * dtype.itemsize / _best(lambda: data.sum(), device, seconds)
    return Machine(flops, max(read, summed))


def _decoder_bytes(shape: DecoderShape) -> int:
    layers = [shape.layer(index) for index in range(shape.num_layers)]
    return sum(one.ffn + one.queries + one.keys for one in layers) * shape.dtype_bytes


def _product(rows: int, inner: int, columns: int, dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    left, right = (torch.ones(size, dtype=dtype, device=device) for size in ((rows, inner), (columns, inner)))
    return 2 * rows * inner * columns / _best(lambda: left @ right.T, device, seconds)


def _best(run: Any, device: torch.device, seconds: float) -> float:
    best, count, begun = float("inf"), 0, time.perf_counter()
    while count < 5 or time.perf_counter() - begun < seconds:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best, count = min(best, time.perf_counter() - start), count + 1
    return best
