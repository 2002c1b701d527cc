"""The policies of one pass that `fit` tries; second looks are made of pairs of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ...core.decision import Policy
from ...core.errors import SettingsError
from ...policies.baselines.dart import DART
from ...policies.before_decoder.cdpruner import CDPruner
from ...policies.before_decoder.divprune import DivPrune
from ...policies.before_decoder.downsample import Downsample
from ...policies.before_decoder.visionzip import VisionZip
from ...policies.fixed import ExitAt, KeepAll
from ...policies.keep_schedule import KeepSchedule
from ...policies.second_look import CONFIDENCES
from ..schedules.schedule_shapes import Span, logistic, multi_step
from .options import BEFORE_DECODER, FitOptions

__all__ = ["FULL", "Candidate", "candidates", "exact", "first_layer", "one_pass_only"]

FULL = "full"
"""Key of the full model, which is what rows that look again may run under: the safest second pass there is."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One policy of one pass."""

    key: str
    """Its name in the trial log; the same settings give the same key."""
    method: str
    policy: Policy


def candidates(
    num_layers: int,
    first_prunable: int,
    options: FitOptions,
    own: Mapping[str, Policy] | None = None,
    vision: bool = True,
    behind: Mapping[str, Policy] | None = None,
) -> list[Candidate]:
    """Every policy of one pass in the space, each once; those that begin in earlier layers first, so that states are
    kept once for each layer (`SampleRuns`). Workers of one fit number them alike, however their options are ordered.

    Args:
        num_layers: decoder layers of the model.
        first_prunable: the first layer inside the decoder before which something may be removed.
        own: further policies to try, by name: searched schedules, gates, chains.
        vision: whether the attention of this model's vision tower is known; else what reads it is left out.
        behind: reductions with exit gates that were trained behind them, by name.

    Raises:
        SettingsError: a layer of `reduce_before` is outside the decoder, a policy of `own` is a second look or reads
            an attention that is not known, there is no such measure of confidence, or the space is empty.
    """
    if options.confidence not in CONFIDENCES:
        raise SettingsError(f"No --confidence {options.confidence!r}; there are {', '.join(CONFIDENCES)}.")
    inside = set(options.methods) - {BEFORE_DECODER, "exit"}
    wrong = [layer for layer in options.reduce_before if inside and not first_prunable <= layer < num_layers]
    if wrong:
        raise SettingsError(
            f"A reduction before layer {wrong[0]} is not possible: this model allows layers {first_prunable} to "
            f"{num_layers - 1}. Give other --reduce-before."
        )
    found = [
        *_before_decoder(num_layers, options),
        *_reductions(num_layers, options),
        *_shapes(num_layers, options),
        *_exits(num_layers, first_prunable, options),
    ]
    found = [candidate for candidate in found if vision or not candidate.policy.needs_vision()]
    for name, policy in sorted((own or {}).items()):
        _check_own(name, policy)
        if policy.needs_vision() and not vision:
            raise SettingsError(
                f"The policy {name} reads the vision tower's attention, which is not known of this model. Leave it "
                "out, or give one that ranks by the tokens themselves: la.CDPruner(keep), la.DivPrune(keep)."
            )
        found.append(Candidate(f"own/{name}", "own", policy))
    found += [Candidate(name, "gates-behind", policy) for name, policy in sorted((behind or {}).items())]
    if not found:
        raise SettingsError("There is no policy to try: name some --methods or give policies with --candidate.")
    if "second-look" in options.methods:
        found.append(Candidate(FULL, "full model", KeepAll()))
    once = {candidate.key: candidate for candidate in found}  # a share may be named twice
    return sorted(once.values(), key=lambda c: first_layer(c.policy, num_layers))


def exact(number: float) -> str:
    """A share or threshold as a part of a name: numbers that differ never give one name."""
    return f"{number:.15g}"


def first_layer(policy: Policy, num_layers: int) -> int:
    """The first layer before which a policy may remove something; the number of layers where it never does."""
    return min(policy.layers(num_layers, 1), default=num_layers)


def one_pass_only(policy: Policy, num_layers: int) -> bool:
    """The policy skips attention, freezes tokens or has a twig: it is tried by live runs, and in no second look."""
    return bool(policy.skips(num_layers) or policy.holds(num_layers) or policy.twig())


def _before_decoder(num_layers: int, options: FitOptions) -> Iterator[Candidate]:
    if BEFORE_DECODER not in options.methods:
        return
    for share in options.before_shares:
        made: dict[str, Policy] = {
            "cdpruner": CDPruner(share),
            "divprune": DivPrune(share),
            "visionzip": VisionZip(share),
            "dart": DART(0, share),
            "uniform": KeepSchedule.from_steps({0: share}, num_layers, ranking="uniform"),
        }
        for name in options.before_decoder:
            if name in made:
                yield Candidate(f"{BEFORE_DECODER}/{name}-{exact(share)}", BEFORE_DECODER, made[name])
    for factor in (2, 3, 4) if "downsample" in options.before_decoder else ():
        yield Candidate(f"{BEFORE_DECODER}/downsample-{factor}", BEFORE_DECODER, Downsample(factor))


def _reductions(num_layers: int, options: FitOptions) -> Iterator[Candidate]:
    """One reduction, and two of them: the second one in the middle, to a quarter of the first."""
    middle = num_layers // 2
    one = bool({"reduction", "second-look"} & set(options.methods))  # a second look begins with reductions
    for layer in options.reduce_before:
        for ranking in options.rankings:
            for share in options.shares if one else ():
                policy = KeepSchedule.from_steps({layer: share}, num_layers, ranking=ranking)
                yield Candidate(f"reduction/{ranking}-{layer}-{exact(share)}", "reduction", policy)
            if "two-reductions" in options.methods and layer < middle:
                for share in (s for s in options.shares if s >= 0.3):
                    two = KeepSchedule.from_steps({layer: share, middle: share / 4}, num_layers, ranking=ranking)
                    key = f"two-reductions/{ranking}-{layer}-{exact(share)}-{middle}-{exact(share / 4)}"
                    yield Candidate(key, "two-reductions", two)


def _shapes(num_layers: int, options: FitOptions) -> Iterator[Candidate]:
    """Schedules of several steps: PyramidDrop's stairs, and P-Sigmoid's curve with its half height at a quarter or a
    half of the depth. Searched ones (`lookaway search`) come in as candidates of one's own."""
    if "shapes" not in options.methods or num_layers < 8:
        return
    first = min(options.reduce_before)
    span = Span(num_layers, first)
    stairs = sorted({max(first, round(num_layers * part)) for part in (0.1, 0.3, 0.5)})
    for ranking in options.rankings:
        for share in (0.3, 0.5, 0.7):
            rates = [1.0] * first + list(multi_step(span, stairs)(share))
            yield Candidate(
                f"shapes/stairs-{ranking}-{exact(share)}", "shapes", KeepSchedule(tuple(rates), ranking=ranking)
            )
        for part in (0.25, 0.5):
            steepness = 0.6  # the middle of the paper's optima
            margin = 40.0 / steepness
            place = (num_layers * part - (first - margin)) / (2 * (num_layers - first + 2 * margin))
            curve = [round(float(rate), 4) for rate in logistic(span, steepness)(place)]
            yield Candidate(
                f"shapes/sigmoid-{ranking}-{part:g}", "shapes",
                KeepSchedule((*[1.0] * first, *curve), ranking=ranking),
            )  # fmt: skip


def _exits(num_layers: int, first_prunable: int, options: FitOptions) -> Iterator[Candidate]:
    if "exit" in options.methods:
        step = max(1, num_layers // 6)
        for layer in range(max(step, first_prunable), num_layers, step):
            yield Candidate(f"exit/{layer}", "exit", ExitAt(layer))


def _check_own(name: str, policy: Policy) -> None:
    if policy.retry() is not None:
        raise SettingsError(
            f"The candidate {name} is a second look, and fit makes those itself. Give its two policies as candidates."
        )
