"""Is the work that was saved also time saved? Measured against implied speed-up, idle overhead, and what gates cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..anatomy.base import anatomy_of
from ..core.cost import prefill_cost
from ..core.decision import Policy
from ..core.record import RecordWriter, Sample
from ..engine.attach import attach
from ..hosts.encoding import encode
from ..policies.fixed import ExitAt, KeepAll
from .latency import Timing, measure, ratio

__all__ = ["SpeedRow", "measure_speed"]


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
    implied: float | None
    """What the remaining work implies: the same part's FLOPs without / with (decoder only)."""

    @property
    def efficiency(self) -> float | None:
        """Measured speed-up / implied speed-up."""
        return None if self.implied is None else self.speedup / self.implied


def measure_speed(
    model: Any,
    processor: Any,
    sample: Sample,
    *,
    exits: Sequence[int],
    policy: Policy | None = None,
    batch_size: int = 1,
    new_tokens: int = 16,
    repeats: int = 15,
    writer: RecordWriter | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> list[SpeedRow]:
    """Time fixed exits, the attached but idle engine and, where given, a policy, all in turns with the bare model.

    The image's features are computed once for the 'decoder' part, so that it times what the policy changes.
    """
    inputs = encode(processor, [sample] * batch_size, device=model.device).inputs
    policies: dict[str, Policy] = {f"exit at {k}": ExitAt(k) for k in exits}
    policies["idle"] = _Idle()
    if policy is not None:
        policies["policy"] = policy
    rows: list[SpeedRow] = []
    for part, run in (("decoder", _decoder(model, inputs)), ("first token", _generate(model, inputs, 1)),
                      ("decode", _generate(model, inputs, new_tokens))):  # fmt: skip
        variants: dict[str, Any] = {"bare": run}
        variants |= {name: _attached(model, chosen, run) for name, chosen in policies.items()}
        times = measure(variants, repeats=repeats, device=model.device)
        rows += [_row(model, name, part, times["bare"], times[name], variants[name].trace) for name in policies]
        progress(1)
    for row in rows:
        if writer is not None:
            writer.write("timing", **vars(row), efficiency=row.efficiency, batch_size=batch_size)
    return rows


class _Idle(KeepAll):
    """Asked before every layer, and never lets anything go: the engine's own cost."""

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        return tuple(range(first_prunable, num_layers))


class _attached:
    """Runs something with a policy attached; attaching is timed too, since that is what a user pays."""

    def __init__(self, model: Any, policy: Policy, run: Any) -> None:
        self.model, self.policy, self.run = model, policy, run
        self.trace: Any = None

    def __call__(self) -> None:
        with attach(self.model, self.policy) as attached:
            self.run()
        self.trace = attached.trace


def _decoder(model: Any, inputs: dict[str, Any]) -> Any:
    """A prefill that starts from embeddings which already hold the image."""
    anatomy = anatomy_of(model)
    seen: dict[str, Any] = {}

    def remember(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.update(kwargs)

    handle = anatomy.language_model.register_forward_pre_hook(remember, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**inputs, use_cache=False)
    finally:
        handle.remove()
    embeds = seen["inputs_embeds"]
    plain = {key: value for key, value in inputs.items() if key in ("input_ids", "attention_mask")}
    return lambda: _with_embeddings(model, anatomy, plain, embeds)


def _with_embeddings(model: Any, anatomy: Any, inputs: dict[str, Any], embeds: Any) -> None:
    """The whole model on token ids, with the given embeddings handed to the decoder in their place."""

    def swap(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "inputs_embeds": embeds}

    handle = anatomy.language_model.register_forward_pre_hook(swap, with_kwargs=True)
    try:
        model(**inputs, use_cache=True, logits_to_keep=1)
    finally:
        handle.remove()


def _generate(model: Any, inputs: dict[str, Any], count: int) -> Any:
    return lambda: model.generate(**inputs, do_sample=False, min_new_tokens=count, max_new_tokens=count)


def _row(model: Any, name: str, part: str, bare: Timing, found: Timing, trace: Any) -> SpeedRow:
    implied = None
    if part == "decoder":
        cost = prefill_cost(trace.shape, trace.tokens, trace.visual_tokens)
        head = 2 * trace.shape.hidden_size * trace.shape.vocab_size * len(trace.exit_layers)
        implied = (cost.full_flops + head) / (cost.flops + head)
    middle, low, high = ratio(bare, found)
    return SpeedRow(name, part, trace.exit_layers[0], found.median, (found.low, found.high), bare.median, middle,
                    (low, high), implied)  # fmt: skip
