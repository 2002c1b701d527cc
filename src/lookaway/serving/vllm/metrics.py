"""What the policies saved, as Prometheus counters beside vLLM's own.

They are counted in the worker. Where that is another process than the API server, as usual in vLLM, `/metrics` shows
them if the server was started with the variable PROMETHEUS_MULTIPROC_DIR set to an empty folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...core.cost import DecoderShape

if TYPE_CHECKING:
    from .step import StepRequest

__all__ = ["Savings", "saved_flops"]

LABELS = ("policy",)
PROMPT_LABELS = ("policy", "exit_layer")


@dataclass(frozen=True)
class Savings:
    """Counts what the prefill of each prompt with visual tokens saved."""

    shape: DecoderShape
    """Of the decoder."""

    def count_first_look(self, request: StepRequest, lost: NDArray[np.int64]) -> None:
        """Count a first pass that a second one replaces, and note what it cost: so much a second look costs more.

        Args:
            request: with its whole prompt in this step.
            lost: int64 [L], rows that did not enter each layer.
        """
        looks, flops = _second_looks()
        every = np.full_like(lost, request.rows)
        cost = (saved_flops(self.shape, request.rows, 0, np.zeros_like(lost), which) for which in (every, lost))
        whole, saved = cost
        looks.labels(request.held.policy).inc()
        flops.labels(request.held.policy).inc(whole - saved)
        request.held.first_look_flops = whole - saved

    def count_before(self, policy: str, tokens: int, pictures: Sequence[tuple[int, int]], all_of_it: bool) -> None:
        """Count a prompt that was shortened before the decoder, as if none of it were in the prefix cache.

        Args:
            tokens: of the shorter prompt.
            pictures: (visual tokens at first, those that are left) of each.
            all_of_it: nothing happens to them inside the decoder; else those that are left are counted there.
        """
        prompts, every, dropped, flops = _counters()
        layers = self.shape.num_layers
        whole, left = (sum(counts) for counts in zip(*pictures, strict=True))
        lost = np.full(layers, whole - left)
        if all_of_it:
            prompts.labels(policy, "never").inc()
        every.labels(policy).inc((whole if all_of_it else whole - left) * layers)
        dropped.labels(policy).inc(int(lost.sum()))
        flops.labels(policy).inc(saved_flops(self.shape, tokens + whole - left, 0, np.zeros_like(lost), lost))

    def count(self, request: StepRequest, lost: NDArray[np.int64]) -> None:
        """Count one request's part of a step.

        Args:
            request: with visual rows in this step.
            lost: int64 [L], rows of this step that did not enter each layer.
        """
        prompts, every, dropped, flops = _counters()
        policy, rows = request.held.policy, int(request.visual.sum())
        every.labels(policy).inc(rows * len(lost))
        dropped.labels(policy).inc(int(lost.sum()))
        flops.labels(policy).inc(saved_flops(self.shape, request.rows, request.done, request.held.gone, lost))
        if not request.held.visual[request.done + request.rows :].any():  # its last visual row was in this step
            gone = np.flatnonzero(lost == rows)
            prompts.labels(policy, str(gone[0]) if len(gone) else "never").inc()


def saved_flops(shape: DecoderShape, rows: int, done: int, gone: NDArray[np.int64], lost: NDArray[np.int64]) -> int:
    """FLOPs, by the counting of `core.cost`, that one request's part of a step did not need.

    Args:
        rows: tokens of the step. done: tokens of earlier steps.
        gone: int64 [L], tokens of earlier steps that each layer does not hold. lost: int64 [L], tokens of the step that
            did not enter it.
    """
    shapes = [shape.layer(layer) for layer in range(shape.num_layers)]
    attention = np.array([2 * layer.scores for layer in shapes])  # a query and a key
    each = np.array([2 * (layer.ffn + layer.queries + layer.keys) for layer in shapes])  # a token's matrices
    left, keys = rows - lost, rows - lost + done - gone
    return int((each * lost + attention * (rows * (rows + done) - left * keys)).sum())


@cache
def _second_looks() -> tuple[Any, Any]:
    from prometheus_client import Counter

    return (
        Counter("lookaway_second_looks", "Prompts that were unsure of their first answer token and ran again.", LABELS),
        Counter("lookaway_second_look_flops", "FLOPs of the decoder that their first pass needed.", LABELS),
    )


@cache  # a counter's name may be registered once a process
def _counters() -> tuple[Any, Any, Any, Any]:
    from prometheus_client import Counter

    visual = "Visual tokens of prompts, times the decoder's layers"
    return (
        Counter("lookaway_prompts", "Prompts with pictures, by the layer that no visual token reached.", PROMPT_LABELS),
        Counter("lookaway_visual_tokens", f"{visual}.", LABELS),
        Counter("lookaway_visual_tokens_dropped", f"{visual}: those that a layer did not compute.", LABELS),
        Counter("lookaway_prefill_flops_saved", "FLOPs of the decoder that prompts did not need.", LABELS),
    )
