"""What each prompt with pictures saved, on its way from the worker to the response.

The worker knows it when a prompt is computed; scheduler and front end hand it on with the first token, in a field that
only KV transfer uses, which the plugin refuses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.cost import DecoderShape, prefill_cost
from .pictures import visual_ranges
from .short_prompt import marked
from .step import Held

__all__ = ["Reports", "hand_on", "take"]

KEY = "lookaway"


class Reports:
    """Of the prompts that one step of the worker ended, by request id.

    Args:
        shape: of the decoder.
    """

    def __init__(self, shape: DecoderShape) -> None:
        self.shape = shape
        self._found: dict[str, dict[str, Any]] = {}

    def note(self, runner: Any, held: dict[str, Held]) -> None:
        """After the decoder's step: the prompts that end in it.

        Args:
            held: request id -> what its layers hold; empty where tokens cannot leave inside the decoder.
        """
        starts = runner.query_start_loc.np
        for row, request_id in enumerate(runner.input_batch.req_ids):
            record = runner.requests[request_id]
            done = int(runner.input_batch.num_computed_tokens_cpu[row])
            rows = int(starts[row + 1]) - int(starts[row])
            if record.mm_features and done < record.num_prompt_tokens <= done + rows:
                self._found[request_id] = self._of(record, held.get(request_id))

    def _of(self, record: Any, held: Held | None) -> dict[str, Any]:
        left = sum(stop - start for start, stop in visual_ranges(record.mm_features))
        mark = marked(record.mm_features[0])
        if mark is not None:
            dropped = sum(mark.lengths) - left
            gone = dropped + (np.zeros(self.shape.num_layers, dtype=np.int64) if held is None else held.gone)
            return self._report(mark.policy, record.num_prompt_tokens + dropped, sum(mark.lengths), gone)
        if held is None:
            gone = np.zeros(self.shape.num_layers, dtype=np.int64)
            return self._report("off", record.num_prompt_tokens, left, gone)
        found = self._report(held.policy, record.num_prompt_tokens, left, held.gone, held.first_look_flops)
        return found if held.looks_again is None else {**found, "looked_again": held.looks_again}

    def _report(
        self, policy: str, tokens: int, visual: int, gone: NDArray[np.int64], more_flops: int = 0
    ) -> dict[str, Any]:
        """The fields that `lookaway serve` gives, too (`serving.batching.savings`).

        Args:
            tokens: of the prompt. visual: those of its pictures.
            gone: int64 [L], tokens that each layer does not hold.
            more_flops: of a first pass that a second one replaced.
        """
        cost = prefill_cost(
            self.shape, [[int(tokens - lost)] for lost in gone], [[int(visual - lost)] for lost in gone],
            prompt_slots=[tokens], prompt_tokens=[tokens], prompt_visual=[visual],
        )  # fmt: skip
        empty = np.flatnonzero(gone == visual)
        return {
            "policy": policy,
            "visual_tokens": visual,
            "mean_visual_tokens": cost.visual_tokens,
            "exit_layer": int(empty[0]) if len(empty) else None,
            "num_layers": self.shape.num_layers,
            "prefill_flops": cost.flops + more_flops,
            "prefill_flops_share": (cost.flops + more_flops) / cost.full_flops,
            "kv_bytes": cost.kv_bytes,
            "kv_bytes_share": cost.kv_share,
        }

    def attach_to(self, output: Any) -> None:
        """Give what was noted to the runner's output of the same step."""
        output = getattr(output, "_model_runner_output", output)  # asynchronous scheduling wraps it
        if self._found and getattr(output, "req_ids", None):
            output.lookaway, self._found = self._found, {}


def hand_on(model_runner_output: Any, outputs: dict[int, Any]) -> None:
    """In the scheduler: from the runner's output to the `EngineCoreOutput`s of the same requests."""
    found = getattr(model_runner_output, KEY, None) or {}
    for output in (output for group in outputs.values() for output in group.outputs):
        if output.request_id in found:
            output.kv_transfer_params = {KEY: found[output.request_id]}


def take(states: dict[str, Any], engine_core_outputs: list[Any]) -> None:
    """In the front end: from the `EngineCoreOutput`s to the states of their requests, where responses find it."""
    for output in engine_core_outputs:
        if output.kv_transfer_params and KEY in output.kv_transfer_params:
            report, output.kv_transfer_params = output.kv_transfer_params[KEY], None
            if output.request_id in states:
                states[output.request_id].lookaway = report
