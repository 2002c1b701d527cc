"""What `lookaway bench` runs, with a policy and without: variants, and parts of an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core.decision import Policy
from ..engine.api import attach
from ..policies.fixed import ExitAt, KeepAll
from .decoder_alone import DecoderAlone
from .forced_looks import variants_of

__all__ = ["Idle", "generating", "timed_parts", "timed_policies", "variants_of_run"]


def timed_policies(exits: Sequence[int], policies: Mapping[str, Policy], batch_size: int) -> dict[str, Policy]:
    """All variants: fixed exits, the idle engine, the policies, and second looks with set numbers of rows."""
    timed: dict[str, Policy] = {f"exit at {k}": ExitAt(k) for k in exits}
    timed["idle"] = Idle()
    for name, policy in policies.items():
        timed[name] = policy
        timed |= {f"{name}, {words}": forced for words, forced in variants_of(policy, batch_size).items()}
    return timed


class Idle(KeepAll):
    """Asked before every layer, and never lets anything go: the engine's own cost."""

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        return tuple(range(first_prunable, num_layers))


class Attached:
    """Runs something with a policy attached; attaching is timed too, since that is what a user pays."""

    def __init__(self, model: Any, policy: Policy, run: Any) -> None:
        self.model, self.policy, self.run = model, policy, run
        self.trace: Any = None

    def __call__(self) -> None:
        with attach(self.model, self.policy) as attached:
            self.run()
        self.trace = attached.trace


def variants_of_run(model: Any, policies: Mapping[str, Policy], run: Callable[[], Any]) -> dict[str, Any]:
    """`run` without a policy ('bare') and under each."""
    return {"bare": run, **{name: Attached(model, policy, run) for name, policy in policies.items()}}


def timed_parts(
    model: Any, inputs: Mapping[str, Any], new_tokens: Sequence[int], decoder: DecoderAlone
) -> list[tuple[str, int, Callable[[], Any]]]:
    """Each part with the number of tokens that it generates: the decoder's prefill, the first token, and answers of
    `new_tokens` above 1."""
    parts: list[tuple[str, int, Callable[[], Any]]] = [("decoder", 1, decoder)]
    parts.append(("first token", 1, generating(model, inputs, 1)))
    return parts + [("decode", n, generating(model, inputs, n)) for n in dict.fromkeys(new_tokens) if n > 1]


def generating(model: Any, inputs: Mapping[str, Any], count: int) -> Callable[[], Any]:
    """`generate` of exactly `count` tokens, greedily."""
    return lambda: model.generate(**inputs, do_sample=False, min_new_tokens=count, max_new_tokens=count)
