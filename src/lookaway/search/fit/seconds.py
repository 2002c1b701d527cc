"""Seconds of policies on this machine, each held against the full model in the same rounds of the same process.

All variants take turns (`evaluation/latency.py`) on the same few batches of real samples. A second look is timed with
none, one and all rows of a batch looking again, whatever their confidence, and what a batch takes on average follows
from how many rows look again on the search split (`evaluation/forced_looks.py`): a batch waits for its slowest rows.
Attaching is timed too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...core.decision import Policy
from ...core.record import Sample
from ...engine.api import attach
from ...evaluation.forced_looks import ForcedLook, expected_seconds, looks_timed
from ...evaluation.latency import Timing, measure
from ...models.encoding import encode
from ...policies.second_look import SecondLook
from ..trials.sampling import seed_of

__all__ = ["Seconds", "measure_seconds", "runs_timed"]

FULL = "full model"


@dataclass(frozen=True)
class Seconds:
    """One policy beside the full model."""

    seconds: float
    """Of a batch: median of the repeats, mean over the batches; of a second look the expected value."""
    full_seconds: float
    """The same of the full model."""
    speedup: float
    """full_seconds / seconds."""
    quartiles: tuple[float, float]
    """First and third quartile of the speed-up over the rounds."""
    batch_size: int
    answer_tokens: int
    rounds: int
    """Rounds that counted."""
    looks: tuple[tuple[int, float], ...] = ()
    """Of a second look: (rows of the batch that look again, seconds of the batch), for none, one and all of them."""

    @property
    def share(self) -> float:
        return self.seconds / self.full_seconds

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Seconds:
        looks = tuple((int(rows), float(seconds)) for rows, seconds in plain.get("looks", ()))
        return cls(**{**plain, "quartiles": tuple(plain["quartiles"]), "looks": looks})


BATCHES = 2
"""Different batches that all variants run on."""


def runs_timed(policies: Mapping[str, tuple[Policy, float]], batch_size: int, repeats: int) -> int:
    """How many batches `measure_seconds` runs on `BATCHES` different ones, those that do not count included."""
    variants = sum(len(looks_timed(batch_size)) if isinstance(p, SecondLook) else 1 for p, _ in policies.values())
    return (1 + variants) * (1 + repeats) * BATCHES


def measure_seconds(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    policies: Mapping[str, tuple[Policy, float]],
    *,
    batch_size: int = 8,
    answer_tokens: int = 1,
    batches: int = BATCHES,
    repeats: int = 4,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, Seconds]:
    """Time policies on answers of a given length, vision tower included.

    Args:
        model, processor: no policy attached.
        samples: the batches are drawn from these, each sample at most once where there are enough.
        policies: name -> (policy, share of the samples that look again; 0 for a policy of one pass).
        answer_tokens: tokens of every answer; 1: the time to the first token.
        batches: different batches that all variants run on.
        repeats: rounds over each batch; one more before them does not count.
        progress: called with 1 after each run.
    """
    order = np.random.default_rng(seed_of(seed, "seconds")).permutation(len(samples))
    chosen = [samples[order[i % len(order)]] for i in range(batches * batch_size)]
    inputs = [
        encode(processor, chosen[first : first + batch_size], model.device).inputs
        for first in range(0, len(chosen), batch_size)
    ]
    variants: dict[str, Policy | None] = {FULL: None}
    for name, (policy, _) in policies.items():
        if isinstance(policy, SecondLook):
            variants |= {f"{name}, {n} again": ForcedLook.of(policy, n) for n in looks_timed(batch_size)}
        else:
            variants[f"{name}, 0 again"] = policy
    turns = {key: _Turn(model, inputs, policy, answer_tokens, progress) for key, policy in variants.items()}
    times = measure(turns, repeats=repeats * batches, warmup=batches, device=model.device)
    full = times[FULL]
    found = {}
    for name, (policy, again) in policies.items():
        looks = looks_timed(batch_size) if isinstance(policy, SecondLook) else (0,)

        def batch(seconds: Mapping[int, float], again: float = again) -> float:
            return expected_seconds(seconds, again, batch_size)

        each = {n: _middle(times[f"{name}, {n} again"], batches) for n in looks}
        middle = batch(each)
        rounds = [batch({n: times[f"{name}, {n} again"].runs[r] for n in looks}) for r in range(len(full.runs))]
        low, high = np.percentile(np.asarray(full.runs) / np.asarray(rounds), [25, 75])
        whole = _middle(full, batches)
        found[name] = Seconds(
            middle, whole, whole / middle, (float(low), float(high)), batch_size, answer_tokens, len(full.runs),
            tuple(each.items()) if len(each) > 1 else (),
        )  # fmt: skip
    return found


def _middle(timing: Timing, batches: int) -> float:
    """The median of each batch's repeats, and of these the mean."""
    return float(np.mean([np.median(timing.runs[first::batches]) for first in range(batches)]))


class _Turn:
    """One variant; each call runs the next batch, so that in one round all variants run the same one."""

    def __init__(
        self, model: Any, inputs: Sequence[Mapping[str, Any]], policy: Policy | None, tokens: int,
        progress: Callable[[int], object],
    ) -> None:  # fmt: skip
        self.model, self.inputs, self.policy, self.tokens, self.progress = model, inputs, policy, tokens, progress
        self.calls = 0

    def __call__(self) -> None:
        inputs = self.inputs[self.calls % len(self.inputs)]
        self.calls += 1
        if self.policy is None:
            self._generate(inputs)
        else:
            with attach(self.model, self.policy):
                self._generate(inputs)
        self.progress(1)

    def _generate(self, inputs: Mapping[str, Any]) -> None:
        self.model.generate(**inputs, do_sample=False, min_new_tokens=self.tokens, max_new_tokens=self.tokens)
