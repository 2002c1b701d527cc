"""The server's Prometheus metrics: load, times, and what the policies saved (named as in the vLLM plugin)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..batching.requests import Finished

__all__ = ["Metrics"]

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


class Metrics:
    """Counters of one server, in a registry of their own: several servers may live in one process.

    Args:
        waiting, running: read when the metrics are asked for.
    """

    def __init__(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()

        def made(kind: Any, name: str, text: str, labels: tuple[str, ...] = (), **more: Any) -> Any:
            return kind(f"lookaway_{name}", text, labels, registry=self.registry, **more)

        self._requests = made(Counter, "requests", "Answered chat requests, by HTTP status.", ("status",))
        self._aborted = made(Counter, "aborted", "Requests whose client went away.")
        self._first = made(
            Histogram, "first_token_seconds", "From arrival to the first text.", ("policy",), buckets=SECONDS
        )
        self._whole = made(
            Histogram, "request_seconds", "From arrival to the end of the answer.", ("policy",), buckets=SECONDS
        )
        self._prefill = made(Histogram, "prefill_seconds", "Prefill of a prompt.", ("policy",), buckets=SECONDS)
        self._tokens_in = made(Counter, "prompt_tokens", "Tokens of prompts.", ("policy",))
        self._tokens_out = made(Counter, "answer_tokens", "Tokens of answers.", ("policy",))
        self._prompts = made(
            Counter,
            "prompts",
            "Prompts with pictures, by the layer that no visual token reached.",
            ("policy", "exit_layer"),
        )
        visual = "Visual tokens of prompts, times the decoder's layers"
        self._visual = made(Counter, "visual_tokens", f"{visual}.", ("policy",))
        self._dropped = made(
            Counter, "visual_tokens_dropped", f"{visual}: those that a layer did not compute.", ("policy",)
        )
        self._flops = made(
            Counter, "prefill_flops_saved", "FLOPs of the decoder that prompts did not need.", ("policy",)
        )
        made(Gauge, "waiting", "Requests that wait for their prefill.").set_function(waiting)
        made(Gauge, "running", "Answers that are being decoded.").set_function(running)

    def answered(self, status: int) -> None:
        """A chat request got its response (a stream: began with success)."""
        self._requests.labels(str(status)).inc()

    def aborted(self) -> None:
        """A client went away before its answer was complete."""
        self._aborted.inc()

    def first_text(self, policy: str, seconds: float) -> None:
        self._first.labels(policy).observe(seconds)

    def finished(self, done: Finished, seconds: float) -> None:
        """An answer is complete."""
        saved: Mapping[str, Any] = done.saved
        policy = saved["policy"]
        self._whole.labels(policy).observe(seconds)
        self._prefill.labels(policy).observe(saved["prefill_seconds"])
        self._tokens_in.labels(policy).inc(done.prompt_tokens)
        self._tokens_out.labels(policy).inc(done.answer_tokens)
        if not saved["visual_tokens"]:
            return
        exit_layer, layers = saved["exit_layer"], saved["num_layers"]
        self._prompts.labels(policy, "never" if exit_layer is None else str(exit_layer)).inc()
        self._visual.labels(policy).inc(saved["visual_tokens"] * layers)
        self._dropped.labels(policy).inc(round((saved["visual_tokens"] - saved["mean_visual_tokens"]) * layers))
        whole = saved["prefill_flops"] / saved["prefill_flops_share"]
        self._flops.labels(policy).inc(max(0, round(whole - saved["prefill_flops"])))

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
