"""What `lookaway bench` found of one variant in one part: a line of its tables and of `records.jsonl`."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.record import Trace
from .latency import Timing, ratio

__all__ = ["SpeedRow"]


@dataclass(frozen=True)
class SpeedRow:
    """One variant against the unpruned model, in turns with it in one process."""

    variant: str
    part: str
    """'decoder' (prefill of the decoder layers, norm and head), 'first token' (vision tower included) or 'decode'."""
    exit_layer: int | None
    seconds: float
    """Median."""
    quartiles: tuple[float, float]
    baseline_seconds: float
    speedup: float
    """Median over rounds of baseline / variant."""
    speedup_quartiles: tuple[float, float]
    implied: float | None = None
    """What the remaining work implies (decoder only): the bare model's time / the time that its own layers take, each
    over as many tokens as the policy left it, and both passes of rows that looked again."""
    implied_flops: float | None = None
    """The same from counted FLOPs instead of seconds: those of `Trace.cost`, with the head once a row on both sides.
    What decisions cost (gates, rankings, the logits that a second look reads) is in neither."""
    efficiency: float | None = None
    """Measured / implied: the median over rounds of (time of the remaining layers / time of the variant)."""
    visual_tokens: float = 0.0
    """Visual tokens that a layer processed in the prefill, averaged over layers and rows; of rows that looked again, in
    the pass that they ended with."""
    full_visual_tokens: float = 0.0
    """Visual tokens of a prompt."""
    batch_size: int = 1
    new_tokens: int = 1
    """Tokens that were generated; 1 for 'decoder' and 'first token'."""
    per_token: float | None = None
    """Seconds of an output token after the first ('decode' only): (median - median of 'first token') / their number;
    None where noise makes that negative."""
    baseline_per_token: float | None = None
    limit: float | None = None
    """The least seconds that this machine could take (`evaluation/limit.py`); the vision tower is not counted."""
    baseline_limit: float | None = None
    """The same of the unpruned model."""
    kv_bytes: int | None = None
    """Bytes of the KV cache after the prefill, all rows together."""
    baseline_kv_bytes: int | None = None
    peak_bytes: int | None = None
    """The most that was allocated on a GPU during the part, weights included; None on a CPU."""
    baseline_peak_bytes: int | None = None
    tokens_per_second: float | None = None
    """Output tokens a second of all rows together, from the prompt on ('decode' only)."""
    baseline_tokens_per_second: float | None = None
    draft: str | None = None
    """What guessed the answer's tokens ahead; None: nothing did. No limit is told then: it is one of a pass a token."""
    drafted: int | None = None
    """Tokens that were guessed, and of them those that the model accepted."""
    accepted: int | None = None
    acceptance: float | None = None
    """Accepted / guessed; None where nothing was guessed."""
    same_answer: bool | None = None
    """Whether a drafted answer is, token by token, the one without the draft."""

    @classmethod
    def of(cls, variant: str, part: str, bare: Timing, found: Timing, trace: Trace) -> SpeedRow:
        """What two timings and a trace say by themselves."""
        middle, low, high = ratio(bare, found)
        whole = trace.initial_visual_tokens
        mean = sum(map(sum, trace.visual_tokens)) / (len(whole) * len(trace.visual_tokens))
        return cls(variant, part, trace.exit_layers[0], found.median, (found.low, found.high), bare.median, middle,
                   (low, high), visual_tokens=mean, full_visual_tokens=sum(whole) / len(whole))  # fmt: skip

    @property
    def tokens_text(self) -> str:
        """'73 of 196': visual tokens in the mean layer."""
        return f"{self.visual_tokens:.0f} of {self.full_visual_tokens:.0f}"
