"""`lookaway fit`: one command finds the cheapest policy that keeps a model's answers, and certifies it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..search.fit.options import FitOptions
from .model_options import PublishedModel

if TYPE_CHECKING:
    from ..search.fit.session import FitResult

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True)
class Options(FitOptions, PublishedModel):
    """Find the cheapest policy of which, with confidence 1 - delta, at most epsilon of the answers change."""

    model: str = "lookaway-mini"
    """Model folder or hub id."""
    data: str = "mini"
    """mini, scenes, easy-vqa, or a file or folder of your own. The model's own answers are the target, so questions
    need none."""
    search_split: str = "train"
    """The split that policies are chosen on."""
    split: str = "calibration"
    """The split that the choice is certified on; nothing else sees it."""
    limit: int = 160
    """At most this many samples for the search and so many for the certificate, one question an image."""
    candidate: tuple[str, ...] = ()
    """Further policies to try: folders or YAML files, of searched schedules, gates, chains. May be given several
    times."""
    batch_size: int = 8
    """Samples per model run."""
    max_new_tokens: int = 32
    """Longest answer, in tokens."""
    out: Path = Path("out/fit")
    """Folder of the policy (policy/), its records and its trials."""
    storage: str | None = None
    """Where trials are shared by several workers: a .journal or .db file, or postgresql://...; default: in --out."""
    memory: float = 4.0
    """GiB of states kept in memory between trials; the rest go to a temporary folder."""
    seed: int = 0
    """Seed of the data."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""
    fresh: bool = False
    """Start anew where --out holds a fit of something else."""


def run(options: Options) -> dict[str, Any]:
    from ..anatomy.find import anatomy_of
    from ..core.certificate import write_certificate
    from ..core.errors import PreparationError
    from ..core.provenance import claim, policy_digest
    from ..core.record import write_records
    from ..data import load_samples
    from ..evaluation.header import run_header
    from ..models.loading import load_model
    from ..search.fit.outcomes import SampleRuns
    from ..search.fit.session import fit
    from ..search.schedules.session import trial_facts
    from ..search.trials.queue import TrialQueue
    from ..search.trials.samples import check_disjoint, with_images
    from ..search.trials.storage import open_storage
    from .common import fit_to, load_policies, plain_console
    from .progress import progress
    from .settings import tell_settings

    console = plain_console()
    # 1. What the data can show at all is said before any work.
    splits = [
        with_images(load_samples(options.data, split, options.limit, options.seed, distinct_images=True))
        for split in (options.search_split, options.split)
    ]
    check_disjoint(*splits)
    _say_what_can_be_shown(console, options, *(len(split) for split in splits))
    own = {path: load_policies(path) for path in options.candidate}
    model, processor = load_model(options.model, device=options.device, **options.published)
    tell_settings(model, options.batch_size)
    # 2. Trials depend on all of this; a differing fit in the same folder is refused.
    named = {field.name: getattr(options, field.name) for field in fields(FitOptions)}
    own = {name: fit_to(model, policy, allow_other_model=False)[0] for name, policy in own.items()}
    own_settings = {name: policy_digest(policy) for name, policy in own.items()}
    facts = trial_facts(model, processor, splits[0] + splits[1], target="own", own=own_settings, **_plain(named))
    claim(options.out, facts, options.fresh, [options.out / "trials.journal", options.out / "policy"])
    queue = TrialQueue(open_storage(options.storage or options.out / "trials.journal"), "fit", options.seed, facts,
                       fresh=options.fresh)  # fmt: skip

    def runs(which: int, words: str) -> SampleRuns:
        with progress(words, len(splits[which])) as advance:
            return SampleRuns(
                model,
                processor,
                splits[which],
                confidence_kind=options.confidence,
                batch_size=options.batch_size,
                max_new_tokens=options.max_new_tokens,
                memory=int(options.memory * 2**30),
                progress=advance,
            )

    search = runs(0, "full model, search split")
    try:
        result = fit(search, lambda: runs(1, "full model, certification split"), options, queue, own,
                     on_done=lambda done: console.print(f"  {done.key}: {done.value:.1%} same answers"),
                     on_test=lambda tested: console.print(_test_line(tested, options)))  # fmt: skip
    finally:
        search.close()
    # 3. The result, with its certificate inside.
    options.out.mkdir(parents=True, exist_ok=True)
    summary = _summary(result, options)
    header = run_header("fit", model, options.data, options, options.seed, options.model, facts)
    write_records(options.out / "records.jsonl", [("run", header), ("fit", summary)])
    if result.policy is None:
        raise PreparationError(_why_none(result, options))
    object.__setattr__(
        result.policy, "base", anatomy_of(model).identity
    )  # certified for this model; policies are frozen
    saved = result.policy.save_pretrained(options.out / "policy")
    write_certificate(saved, result.policy, {**summary["certificate"], "provenance": facts})
    console.print(_result_line(summary, options))
    console.print(
        f"saved {saved}; next: lookaway eval --model {options.model} --policy {saved} --data {options.data}",
        soft_wrap=True,
    )
    return {"policy": str(saved), **summary}


_UNITS = {"flops": "prefill FLOPs of the decoder", "kv": "KV-cache entries"}


def _say_what_can_be_shown(console: Any, options: Options, searched: int, certified: int) -> None:
    from ..core.bounds import samples_needed, smallest_epsilon
    from ..core.errors import DataError

    least = smallest_epsilon(certified, options.delta)
    needed = samples_needed(options.epsilon, options.delta)
    console.print(
        f"{searched} samples to search on, {certified} to certify on, one question an image. {certified} samples can "
        f"show at best that {least:.1%} of the answers change (confidence {1 - options.delta:.0%})."
    )
    if least > options.epsilon:
        raise DataError(
            f"epsilon {options.epsilon} cannot be certified on {certified} independent samples, even if no answer "
            f"changed: that takes {needed}. Give more --data, raise --limit, or allow --epsilon {least:.3f} or more."
        )


def _test_line(tested: Any, options: Options) -> str:
    verdict = "passes" if tested.bound <= options.epsilon else "fails"
    return (
        f"{verdict}: {tested.choice.name}: {tested.choice.share:.1%} of the cost, {tested.choice.changed} of "
        f"{len(tested.choice.same)} answers changed, bound {tested.bound:.2%}"
    )


def _result_line(summary: dict[str, Any], options: Options) -> str:
    chosen, shown = summary["chosen"], summary["certificate"]
    return (
        f"\n{chosen['name']}: {shown['share']:.1%} of the unpruned {_UNITS[options.cost]}. "
        f"{shown['changed']} of {shown['samples']} answers changed, so with confidence {1 - options.delta:.0%} at most "
        f"{shown['bound']:.2%} change on inputs like these."
    )


def _why_none(result: FitResult, options: Options) -> str:
    from ..core.bounds import samples_needed

    if not result.certificate.tested:
        return (
            f"No policy of this space keeps the answers on the search split at epsilon {options.epsilon}: each changed "
            "more than that. Allow a larger --epsilon, or add policies with --methods, --shares or --candidate."
        )
    first = result.certificate.tested[0]
    needed = samples_needed(options.epsilon, options.delta, first.choice.changed)
    return (
        f"No policy passed: already the safest, {first.choice.name}, changed {first.choice.changed} of "
        f"{len(first.choice.same)} answers (upper bound {first.bound:.2%}, allowed {options.epsilon:.2%}); with so "
        f"many changed, {needed} samples would be needed. Give more --data or allow a larger --epsilon."
    )


def _summary(result: FitResult, options: Options) -> dict[str, Any]:
    """Payload of a record of kind 'fit' (docs/records.md)."""
    passed = result.certificate.passed
    return {
        "options": _plain(asdict(options)),
        "chosen": None if result.chosen is None else _row(result.chosen),
        "certificate": None if passed is None else {
            "epsilon": options.epsilon, "delta": options.delta, "samples": len(passed.choice.same),
            "changed": passed.choice.changed, "bound": passed.bound, "share": passed.choice.share,
        },
        "tested": [{**_row(t.choice), "bound": t.bound} for t in result.certificate.tested],
        "order": [_row(choice) for choice in result.order],
        "front": [_row(choice) for choice in _undominated(result.found)],
        "tried": [_row(choice) for choice in result.found if choice.method != "second-look"],
    }  # fmt: skip


def _row(choice: Any) -> dict[str, Any]:
    return {
        "name": choice.name, "method": choice.method, "share": choice.share, "changed": choice.changed,
        "samples": len(choice.same), "threshold": choice.threshold, "again": choice.again,
    }  # fmt: skip


def _undominated(found: Any) -> list[Any]:
    """Choices that none other beats in both cost and changed answers, from dear to cheap."""
    front: list[Any] = []
    for choice in sorted(found, key=lambda c: (c.share, c.changed)):
        if not front or choice.changed < front[-1].changed:
            front.append(choice)
    return front[::-1]


def _plain(value: Any) -> Any:
    import json

    return json.loads(json.dumps(value, default=str))
