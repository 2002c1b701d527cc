"""The policies of one pass that `fit` tries; second looks are made of pairs of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...core.decision import Policy
from ...core.errors import SettingsError
from ...policies.fixed import ExitAt
from ...policies.keep_schedule import KeepSchedule
from .options import FitOptions

__all__ = ["Candidate", "candidates"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One policy of one pass."""

    key: str
    """Its name in the trial log; the same settings give the same key."""
    method: str
    policy: Policy


def candidates(
    num_layers: int, first_prunable: int, options: FitOptions, own: Mapping[str, Policy] | None = None
) -> list[Candidate]:
    """Every policy of one pass in the space, each once.

    Args:
        num_layers: decoder layers of the model.
        first_prunable: the first layer before which something may be removed.
        own: further policies to try, by name: searched schedules, gates, chains.

    Raises:
        SettingsError: a layer of `reduce_before` is outside the decoder, a policy of `own` does what trials do not
            carry out, or the space is empty.
    """
    wrong = [layer for layer in options.reduce_before if not first_prunable <= layer < num_layers]
    if wrong:
        raise SettingsError(
            f"A reduction before layer {wrong[0]} is not possible: this model allows layers {first_prunable} to "
            f"{num_layers - 1}. Give other --reduce-before."
        )
    found: list[Candidate] = []

    def add(method: str, key: str, policy: Policy) -> None:
        found.append(Candidate(f"{method}/{key}", method, policy))

    reduces = {"reduction", "second-look"} & set(options.methods)  # a second look begins with reductions
    middle = num_layers // 2
    for layer in options.reduce_before:
        for ranking in options.rankings:
            for share in options.shares if reduces else ():
                steps = {layer: share}
                one = KeepSchedule.from_steps(steps, num_layers, ranking=ranking)
                add("reduction", f"{ranking}-{layer}-{share:g}", one)
            if "two-reductions" in options.methods and layer < middle:
                for share in (s for s in options.shares if s >= 0.3):
                    two = KeepSchedule.from_steps({layer: share, middle: share / 4}, num_layers, ranking=ranking)
                    add("two-reductions", f"{ranking}-{layer}-{share:g}-{middle}-{share / 4:g}", two)
    if "exit" in options.methods:
        step = max(1, num_layers // 10)
        for layer in range(first_prunable + step, num_layers, step):
            add("exit", str(layer), ExitAt(layer))
    for name, policy in (own or {}).items():
        _check_own(name, policy, num_layers, first_prunable)
        add("own", name, policy)
    if not found:
        raise SettingsError("There is no policy to try: name some --methods or give policies with --candidate.")
    return found


def _check_own(name: str, policy: Policy, num_layers: int, first_prunable: int) -> None:
    """Raise SettingsError where a trial, which goes on from the states before the first layer that may be pruned, would
    leave out something that the policy does."""
    if policy.retry() is not None:
        raise SettingsError(
            f"The candidate {name} is a second look, and fit makes those itself. Give its two policies as candidates."
        )
    if skipped := policy.skips(num_layers):
        raise SettingsError(
            f"The candidate {name} skips the attention of layers {sorted(skipped)}, which fit cannot judge. Judge it "
            "with lookaway eval, or give a candidate that only removes visual tokens."
        )
    if held := policy.holds(num_layers):
        raise SettingsError(
            f"The candidate {name} freezes visual tokens in layers {sorted(held)}, which fit cannot judge. Judge it "
            "with lookaway eval, or give a candidate that only removes visual tokens."
        )
    early = [layer for layer in policy.layers(num_layers, first_prunable) if layer < first_prunable]
    if early:
        raise SettingsError(
            f"The candidate {name} removes before layer {min(early)}, and fit keeps the states before layer "
            f"{first_prunable}. Judge it with lookaway eval, or let it remove from layer {first_prunable} on (layer=)."
        )
