"""Is the work that was saved also time saved? Measured against implied speed-up, idle overhead, and what gates cost.

What the remaining work implies is measured too, on the same machine and in the same rounds: the bare decoder is timed
on prompts of the lengths that the policy leaves. FLOPs alone suggest more than any engine could give, since a layer
over a few text tokens is bound by reading its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ..anatomy.find import anatomy_of
from ..anatomy.inputs import IMAGE_INPUTS
from ..core.cost import prefill_cost
from ..core.decision import Policy
from ..core.record import RecordWriter, Sample, Trace
from ..engine.api import attach
from ..models.encoding import encode
from ..policies.fixed import ExitAt, KeepAll
from .forced_looks import variants_of
from .latency import Timing, measure, ratio

__all__ = ["SpeedRow", "measure_speed", "remaining_work"]


OF_THE_CALL = ("past_key_values", "use_cache")
"""Arguments of a decoder that belong to the one call, not to the prompt."""


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
    """What the remaining work implies (decoder only): the bare model's time / the time that its own layers take, each
    over as many tokens as the policy left it."""
    implied_flops: float | None
    """The same from counted FLOPs instead of seconds."""
    efficiency: float | None
    """Measured / implied: the median over rounds of (time of the remaining layers / time of the variant)."""
    visual_tokens: float = 0.0
    """Visual tokens that a layer processed in the prefill, averaged over layers and rows."""
    full_visual_tokens: float = 0.0
    """Visual tokens of a prompt."""

    @property
    def tokens_text(self) -> str:
        """'73 of 196': visual tokens in the mean layer."""
        return f"{self.visual_tokens:.0f} of {self.full_visual_tokens:.0f}"


def measure_speed(
    model: Any,
    processor: Any,
    sample: Sample,
    *,
    exits: Sequence[int],
    policies: Mapping[str, Policy] | None = None,
    batch_size: int = 1,
    new_tokens: int = 16,
    repeats: int = 15,
    writer: RecordWriter | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> list[SpeedRow]:
    """Time fixed exits, the attached but idle engine and policies, all in turns with the bare model.

    The image's features are computed once for the 'decoder' part, so that it times what a policy changes. A second look
    is timed as it decides on this sample and with set numbers of rows that look again (`variants_of`).

    Args:
        policies: what the records call each -> the policy.
    """
    inputs = encode(processor, [sample] * batch_size, device=model.device).inputs
    timed: dict[str, Policy] = {f"exit at {k}": ExitAt(k) for k in exits}
    timed["idle"] = _Idle()
    for name, policy in (policies or {}).items():
        timed[name] = policy
        timed |= {f"{name}, {words}": forced for words, forced in variants_of(policy, batch_size).items()}
    rows: list[SpeedRow] = []
    decoder = _Decoder(model, inputs)
    for part, run in (("decoder", decoder), ("first token", _generate(model, inputs, 1)),
                      ("decode", _generate(model, inputs, new_tokens))):  # fmt: skip
        variants: dict[str, Any] = {"bare": run}
        variants |= {name: _attached(model, chosen, run) for name, chosen in timed.items()}
        lengths = _lengths(variants, list(timed)) if part == "decoder" else []
        shorter = {f"{n} tokens": decoder.last(n) for n in lengths}
        times = measure({**variants, **shorter}, repeats=repeats, device=model.device)
        remaining = {n: times[f"{n} tokens"] for n in lengths}
        for name in timed:
            rows.append(_row(name, part, times["bare"], times[name], variants[name].trace, remaining))
        progress(1)
    for row in rows:
        if writer is not None:
            writer.write("timing", **vars(row), batch_size=batch_size)
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


class _Decoder:
    """A prefill that starts from what the backbone hands its decoder: embeddings that already hold the image, and with
    them positions, masks and whatever else this family gives. So the decoder computes what it does in a live run."""

    def __init__(self, model: Any, inputs: dict[str, Any]) -> None:
        self.model, self.anatomy = model, anatomy_of(model)
        self.given: dict[str, Any] = {}
        self.features: Any = None

        def remember(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            self.given.update({name: value for name, value in kwargs.items() if name not in OF_THE_CALL})

        handle = self.anatomy.language_model.register_forward_pre_hook(remember, with_kwargs=True)
        try:
            with torch.no_grad():
                model(**inputs, use_cache=False)
                if self.anatomy.refuses_without_images:
                    images = {name: inputs[name] for name in IMAGE_INPUTS if name in inputs}
                    self.features = self.anatomy.backbone.get_image_features(**images)  # type: ignore[operator]
        finally:
            handle.remove()
        names = ("input_ids", "attention_mask", *(IMAGE_INPUTS if self.features is not None else ()))
        self.inputs = {key: value for key, value in inputs.items() if key in names}

    def last(self, tokens: int) -> Callable[[], None]:
        """A prompt of the last `tokens` columns: what a decoder costs at that length. What it computes does not matter,
        so it gets embeddings alone."""
        short = {key: self.inputs[key][:, -tokens:] for key in ("input_ids", "attention_mask")}
        if self.features is not None:  # a part of a picture's tokens would be refused
            visual = self.anatomy.layout(short["input_ids"]).visual
            short["input_ids"] = short["input_ids"].masked_fill(visual, 0)
        return partial(self._run, short, {"inputs_embeds": self.given["inputs_embeds"][:, -tokens:]})

    def __call__(self) -> None:
        self._run(self.inputs, self.given)

    def _run(self, inputs: dict[str, Any], given: dict[str, Any]) -> None:
        """The whole model on token ids, with `given` handed to the decoder in place of what they would give."""

        def swap(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, **given}

        hooked: Any = self.anatomy.language_model
        handle = hooked.register_forward_pre_hook(swap, with_kwargs=True, prepend=True)  # before an attached policy
        backbone: Any = self.anatomy.backbone
        if self.features is not None:  # made once: what the tower costs is no part of this
            backbone.get_image_features = lambda *args, **kwargs: self.features
        try:
            self.model(**inputs, use_cache=True, logits_to_keep=1)
        finally:
            vars(backbone).pop("get_image_features", None)
            handle.remove()


def _lengths(variants: dict[str, Any], names: Sequence[str], most: int = 8) -> list[int]:
    """Lengths of the decoder's layers that occur, thinned to `most`: times between them are interpolated."""
    with torch.no_grad():
        for name in names:
            variants[name]()
    found = sorted({slots for name in names for slots in variants[name].trace.cache_slots if slots})
    places = sorted({round(i * (len(found) - 1) / (most - 1)) for i in range(most)}) if len(found) > most else None
    return found if places is None else [found[i] for i in places]


def _generate(model: Any, inputs: dict[str, Any], count: int) -> Any:
    return lambda: model.generate(**inputs, do_sample=False, min_new_tokens=count, max_new_tokens=count)


def _row(name: str, part: str, bare: Timing, found: Timing, trace: Trace, lengths: dict[int, Timing]) -> SpeedRow:
    implied = by_flops = efficiency = None
    if part == "decoder":
        extra = trace.replacement_flops or None
        cost = prefill_cost(
            trace.shape, trace.tokens, trace.visual_tokens, None, trace.skipped, extra, trace.prompt_tokens,
            trace.prompt_tokens, trace.prompt_visual_tokens,
        )  # fmt: skip
        head = 2 * trace.shape.hidden_size * trace.shape.vocab_size * len(trace.exit_layers)
        by_flops = (cost.full_flops + head) / (cost.flops + head)
    if part == "decoder" and not trace.skipped:  # a skipped attention is no shorter decoder: no length implies its time
        work = remaining_work(trace.cache_slots, {n: timing.runs for n, timing in lengths.items()})
        implied = float(np.median(np.asarray(bare.runs) / work))
        efficiency = float(np.median(work / np.asarray(found.runs)))
    middle, low, high = ratio(bare, found)
    whole = trace.initial_visual_tokens
    mean = sum(map(sum, trace.visual_tokens)) / (len(whole) * len(trace.visual_tokens))
    return SpeedRow(name, part, trace.exit_layers[0], found.median, (found.low, found.high), bare.median, middle,
                    (low, high), implied, by_flops, efficiency, mean, sum(whole) / len(whole))  # fmt: skip


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
