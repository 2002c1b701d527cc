"""What `lookaway fit` says before its search and while it goes on."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.base_model import BaseModel
    from ..core.record import Sample
    from ..search.fit.certify import Tested
    from ..search.fit.guarantee import Guarantee
    from ..search.fit.outcomes import Outcomes
    from ..search.fit.reach import Reach
    from ..search.fit.session import FitEvents
    from .progress import Steps

__all__ = ["how_to_get", "reach_text", "say_what_can_be_reached", "say_what_can_be_shown", "search_events"]

COUNTED = {"flops": "the prefill FLOPs", "seconds": "the prefill FLOPs", "kv": "the KV cache"}
"""What a share is of during the search, where seconds are not measured yet."""


def say_what_can_be_shown(console: Any, options: Any, guarantee: Guarantee, searched: int, certified: int) -> None:
    """What the certification split can show at best, and how many of its answers may change.

    Raises:
        DataError: it cannot show epsilon even if nothing changed; the text says how many more pictures that takes.
    """
    from ..core.errors import DataError
    from ..search.fit.guarantee import allowed, samples_needed

    least = guarantee.of_total(0, certified)
    kept = "of the answers change" if options.metric == "answers" else "of the score is lost"
    text = (
        f"{searched} samples to search on, {certified} to certify on, one question an image. {certified} samples can "
        f"show at best that at most {least:.1%} {kept} (confidence {1 - options.delta:.0%}; {guarantee.method})."
    )
    if least > options.epsilon:
        console.print(text)
        raise DataError(
            f"epsilon {options.epsilon} cannot be certified on {certified} independent samples, even if nothing "
            f"changed: that takes {samples_needed(guarantee, 0)}. "
            f"{how_to_get(options, samples_needed(guarantee, 0))}, or allow --epsilon "
            f"{math.ceil(1000 * least) / 1000:.3f} or more."
        )
    if guarantee.binary:
        most = allowed(guarantee, certified)
        what = "answer" if options.metric == "answers" else "score"
        verb = {"answer": "change", "score": "fall"}[what]
        number = f"none of these {what}s" if not most else f"at most {most} of these {certified} {what}s"
        text += f" For epsilon {options.epsilon:g}, {number} may {verb}."
    console.print(text)


def how_to_get(options: Any, needed: int) -> str:
    """Where more samples to certify on come from, as the beginning of a sentence: --limit where it holds some back,
    else how many more pictures that takes."""
    from ..core.errors import DataError
    from ..data import GENERATED, HASHED, hashed, load_samples

    def images(split: str) -> int:
        try:
            found = load_samples(options.data, split, None, options.seed, distinct_images=True)
        except DataError:
            return 0
        return sum(bool(sample.images) for sample in found)

    if options.data in GENERATED:
        return f"Raise --limit to {needed}"
    there = images(options.split)
    if there >= needed:
        return f"Raise --limit to {needed}: the split {options.split} has {there} images"
    if options.split not in HASHED or not hashed(options.data):
        return f"All {there} images of the split {options.split} are in use: add {needed - there} or more to them"
    more = math.ceil((needed - there) / 0.2)
    text = (
        f"All {there} images of the split {options.split} are in use: about {more} more pictures would do, since a "
        "fifth of what is added falls into it"
    )
    both = f"{options.split}+test"
    if options.split == "calibration" and images(both) >= needed:
        text += (
            f". Or certify on the test split too, which leaves none to show the result on: --split {both} --limit "
            f"{max(needed, options.limit)} ({images(both)} images)"
        )
    return text


def say_what_can_be_reached(
    console: Any, options: Any, model: Any, processor: Any, samples: list[Sample]
) -> dict[str, Any]:
    """Before a search for a speed-up: what a batch takes, how much of it no policy can save, and how much faster the
    boldest policies are, all measured. Returns what the record holds of it ('reach'), its words included."""
    from ..search.fit.reach import measure_reach

    found = measure_reach(model, processor, samples, options, options.batch_size, options.answer_tokens, options.seed)
    text = reach_text(found, options)
    console.print(text)
    return {**asdict(found), "words": text}


def reach_text(found: Reach, options: Any) -> str:
    """What was measured, and whether --speedup is within it."""
    token = "the first token" if options.answer_tokens == 1 else f"answers of {options.answer_tokens} tokens"
    text = f"A batch of {options.batch_size} takes {1000 * found.seconds:.0f} ms in full ({token})"
    if found.vision_tower is not None:
        text += f", about {found.vision_tower:.0%} of it in the vision tower, which no policy shortens"
    if found.boldest is None:
        return f"{text}."
    wanted = f"{options.speedup:g} times as fast"
    text += (
        f". The boldest policy of this space ({found.boldest}) is {found.speedup:.2f} times as fast, whatever it does "
        "to the answers: "
    )
    if found.speedup >= options.speedup:
        return f"{text}{wanted} can be reached, if the answers allow it."
    lower = math.floor(10 * found.speedup - 0.5) / 10  # what is measured once more may be a little less
    less = f"with --speedup {lower:g} or without --speedup" if lower > 1 else "without --speedup"
    return text + (
        f"{wanted} is OUT OF REACH here. More visual tokens (larger pictures) or a larger --batch-size raise what "
        f"can be saved. The search goes on all the same. To ask for less, press Ctrl-C now: the trials so far are "
        f"kept, and the same command {less} goes on from them."
    )


def search_events(
    console: Any, options: Any, guarantee: Guarantee, base: BaseModel, tried: Steps, writes: bool
) -> FitEvents:
    """Lines of the search: every count is of all samples so far.

    Args:
        tried: advanced by the policies of each part, then by the tests.
        writes: this process keeps the best policy so far in the folder of the fit.
    """
    from ..core.files import held
    from ..search.fit.session import FitEvents
    from .fit_result import test_line
    from .fit_space import BEST, save_best

    unit = COUNTED[options.minimised]

    def on_part(number: int, kept: int, part: range) -> None:
        more = "" if not number else f", {len(part)} of them new"
        console.print(f"{kept} policies of one pass on {part.stop} samples{more}:")
        tried.restart(kept)

    reasons: dict[str, str] = {}

    def on_tried(key: str, found: Outcomes) -> None:
        same = int(found.same.sum())
        console.print(f"  {key}: {same} of {len(found)} answers the same ({same / len(found):.1%})")
        tried(1)

    def on_refused(key: str, why: str) -> None:
        first = reasons.setdefault(why, key)
        console.print(f"  {key}: not on this model{f': {why}' if first == key else f', as {first}'}", soft_wrap=True)
        tried(1)

    def on_none(samples: int) -> None:
        if writes:
            with held(options.out):
                shutil.rmtree(options.out / BEST, ignore_errors=True)
        console.print(
            f"  best so far: none; on these {samples} samples nothing cheaper than the full model keeps the answers.",
            soft_wrap=True,
        )

    def on_order(policies: int) -> None:
        tried.restart(policies, "policies tested")

    def on_test(tested: Tested) -> None:
        console.print(test_line(tested, guarantee))
        tried(1)

    return FitEvents(
        on_tried=on_tried,
        on_refused=on_refused,
        on_part=on_part,
        on_none=on_none,
        on_best=lambda choice, policy: save_best(console, options, base, choice, policy, unit) if writes else None,
        on_order=on_order,
        on_test=on_test,
    )
