"""`lookaway fit`: one command finds the cheapest policy that keeps a model's answers, and certifies it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..search.fit.options import FitOptions
from .fit_report import HeldOut
from .model_options import PublishedModel

if TYPE_CHECKING:
    from ..anatomy.base import Anatomy
    from ..core.decision import Policy
    from ..core.record import Sample
    from ..evaluation.scorers import Scorer
    from ..search.fit.guarantee import Guarantee

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True)
class Options(FitOptions, HeldOut, PublishedModel):
    """Find the cheapest policy of which, with confidence 1 - delta, at most epsilon of the answers change."""

    model: str = "lookaway-mini"
    """Model folder or hub id."""
    data: str = "mini"
    """mini, scenes, easy-vqa, mini-hard, a file or folder of your own, or a folder of pictures alone, about which
    generic prompts are asked. The model's own answers are the target, so questions need none, but for --metric
    score."""
    search_split: str = "train"
    """The split that policies are chosen on."""
    split: str = "calibration"
    """The split that the choice is certified on; nothing else sees it. Of your own file also calibration+test: twice as
    many samples, and none are held out."""
    limit: int = 160
    """At most this many samples for the search and so many for the certificate, one question an image."""
    candidate: tuple[str, ...] = ()
    """Further policies to try: folders or YAML files, of searched schedules, gates, chains. May be given several
    times."""
    space: Path | None = None
    """YAML file of a whole space of policies, as a fit writes it into --out (space.yaml)."""
    batch_size: int = 8
    """Samples per model run, and rows of a timed batch (--cost seconds)."""
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
    import shutil

    from ..anatomy.find import anatomy_of
    from ..core.certificate import write_certificate
    from ..core.errors import PreparationError
    from ..core.files import held
    from ..core.processes import alone, processes
    from ..core.provenance import policy_digest
    from ..core.record import write_records
    from ..data import load_samples
    from ..evaluation.header import hardware, run_header
    from ..models.loading import load_model
    from ..search.fit.sample_runs import SampleRuns
    from ..search.fit.seconds import Seconds, measure_seconds, runs_timed
    from ..search.fit.session import fit
    from ..search.schedules.session import trial_facts
    from ..search.trials.queue import TrialQueue
    from ..search.trials.samples import check_disjoint, shuffled, with_images
    from ..search.trials.storage import open_storage
    from .common import fit_to, load_policies, plain_console
    from .fit_folder import ASKED, asked_of, claim_folder
    from .fit_reasons import not_fast_enough, why_none
    from .fit_report import draw_report, generic_prompts, write_held_out
    from .fit_result import result_line, summary_of, what_next
    from .fit_said import how_to_get, say_what_can_be_reached, say_what_can_be_shown, search_events
    from .fit_space import BEST, gates_behind, read_space, write_space
    from .progress import progress
    from .settings import tell_settings

    console = plain_console()
    options = read_space(options)
    # 1. What the data can show at all is said before any work.
    splits = [
        with_images(load_samples(options.data, split, options.limit, options.seed, distinct_images=True))
        for split in (options.search_split, options.split)
    ]
    splits = [shuffled(split, options.seed) for split in splits]  # parts of a split are drawn alike
    check_disjoint(*splits)
    scorer, guarantee = _guarantee(options, splits)
    say_what_can_be_shown(console, options, guarantee, *(len(split) for split in splits))
    own = {path: load_policies(path) for path in options.candidate}
    model, processor = load_model(options.model, device=options.device, **options.published)
    tell_settings(model, options.batch_size)
    options = _possible(console, options, anatomy_of(model))
    only_before = bool(anatomy_of(model).only_before)
    # 2. Trials depend on all of this; with other ones of it the same folder is refused.
    names = [field.name for field in fields(FitOptions) if field.name not in ASKED]
    named: dict[str, Any] = {name: getattr(options, name) for name in names}
    named |= {"max_new_tokens": options.max_new_tokens, "samples_of_splits": [len(split) for split in splits]}
    if scorer is not None:
        named["score"] = scorer.name
    own = {name: fit_to(model, policy, allow_other_model=False)[0] for name, policy in own.items()}
    own_settings = {name: policy_digest(policy) for name, policy in own.items()}
    facts = trial_facts(model, processor, splits[0] + splits[1], target="own", own=own_settings, **_plain(named))
    asked = _plain(asked_of(options, hardware(model.device)))
    group = processes()

    def begin() -> None:
        with held(options.out):
            claim_folder(options, facts, asked)
            write_space(options)

    group.first(begin)
    reach = None
    behind: dict[str, Policy] = {}
    if options.speedup is not None and group.is_first:
        reach = say_what_can_be_reached(console, options, model, processor, splits[0])
    if "gates-behind" in options.methods:  # kept as files, which may be changed between two runs
        behind = gates_behind(options, model, processor, splits[0])
        facts |= {"gates_behind": {name: policy_digest(policy) for name, policy in behind.items()}}
    with group.first_in_turn():
        queue = TrialQueue(open_storage(options.storage or options.out / "trials.journal"), "fit", options.seed, facts,
                           fresh=options.fresh and group.is_first)  # fmt: skip

    def runs(which: int, part: range, words: str, kept: Mapping[str, Any]) -> SampleRuns:
        phases = ("own answers",) if only_before else ("own answers", "states")
        with progress(words, len(part), phases) as advance:
            return SampleRuns(
                model,
                processor,
                [splits[which][i] for i in part],
                scorer=scorer,
                confidence_kind=options.confidence,
                batch_size=options.batch_size,
                max_new_tokens=options.max_new_tokens,
                memory=int(options.memory * 2**30),
                progress=advance,
                **kept,
            )

    def timed(which: int, repeats: int) -> Callable[[Mapping[str, tuple[Policy, float]]], dict[str, Seconds]]:
        def measure(policies: Mapping[str, tuple[Policy, float]]) -> dict[str, Seconds]:
            console.print(
                f"timing {len(policies)} of the policies beside the full model: batches of {options.batch_size}, "
                f"answers of {options.answer_tokens} token{'s' * (options.answer_tokens > 1)}"
            )
            batches = runs_timed(policies, options.batch_size, repeats)
            with progress("batches timed", batches) as advance:
                return measure_seconds(
                    model, processor, splits[which], policies, batch_size=options.batch_size, repeats=repeats,
                    answer_tokens=options.answer_tokens, seed=options.seed, progress=advance,
                )  # fmt: skip

        return measure

    # each process takes trials from the queue, so the samples of a trial are not shared
    with progress("policies tried", None) as tried, alone():
        result = fit(
            anatomy_of(model), lambda part, kept: runs(0, part, "full model, search split", kept), len(splits[0]),
            lambda kept: runs(1, range(len(splits[1])), "full model, certification split", kept), options, queue, own,
            guarantee, behind, timed(0, 4), timed(1, 8),
            search_events(console, options, guarantee, anatomy_of(model).identity, tried, group.is_first), asked,
        )  # fmt: skip
    # 3. The result, with its certificate inside.
    facts |= {"asked": asked}
    summary = summary_of(result, options, guarantee, None if scorer is None else scorer.name)
    summary |= {"generic_prompts": generic_prompts(splits), "reach": reach, "why": None}
    if result.policy is None:
        summary["why"] = why_none(result, guarantee, lambda needed: how_to_get(options, needed), options.speedup)
    missed = summary["missed"] = not_fast_enough(result, options, guarantee)
    header = run_header("fit", model, options.data, options, options.seed, options.model, facts)
    if result.policy is not None:
        object.__setattr__(
            result.policy, "base", anatomy_of(model).identity
        )  # certified for this model; policies are frozen

    def save() -> Path:
        write_records(options.out / "records.jsonl", [("run", header), ("fit", summary)])
        if result.policy is None:
            draw_report(options.out)
            raise PreparationError(summary["why"])
        folder = result.policy.save_pretrained(options.out / "policy")
        write_certificate(folder, result.policy, {**summary["certificate"], "provenance": facts})
        shutil.rmtree(options.out / BEST, ignore_errors=True)
        return folder

    # 4. What stands beside it, on samples that nothing has seen, and the page. A worker with the same --out waits.
    with held(options.out) if group.is_first else nullcontext():
        saved = group.first(save)
        assert result.policy is not None
        console.print(result_line(summary, options))
        held_out = write_held_out(options, model, processor, result.policy, own, splits)
        if not group.is_first:
            return {}
        page = draw_report(options.out, held_out)
    if page is not None:
        console.print(f"report {page}", soft_wrap=True)
    if missed:
        raise PreparationError(f"{missed} The policy in {saved} is certified all the same.")
    console.print(f"saved {saved}; {what_next(options, saved)}", soft_wrap=True)
    return {"policy": str(saved), "report": None if page is None else str(page),
            "held_out": None if held_out is None else str(held_out), **summary}  # fmt: skip


def _guarantee(options: Options, splits: Sequence[Sequence[Sample]]) -> tuple[Scorer | None, Guarantee]:
    """What is certified, and the scorer of --metric score. What cannot be scored is refused before any work."""
    from ..evaluation.scorers import scorer_of_single_answers
    from ..evaluation.scoring import require_answers
    from ..search.fit.guarantee import Guarantee

    if options.metric == "answers":
        return None, Guarantee(options.epsilon, options.delta)
    samples = [sample for split in splits for sample in split]
    require_answers(samples)
    scorer = scorer_of_single_answers(samples, options.score)
    return scorer, Guarantee(options.epsilon, options.delta, "score", scorer.binary)


def _possible(console: Any, options: Options, anatomy: Anatomy) -> Options:
    """The options with the methods that the model's decoder allows; it is said where that is fewer."""
    from ..search.fit.session import possible

    methods = possible(anatomy, options).methods
    if methods != options.methods:
        console.print(
            f"Visual tokens may leave before this decoder only ({anatomy.only_before}): --methods {' '.join(methods)}.",
            soft_wrap=True,
        )
    return replace(options, methods=methods)


def _plain(value: Any) -> Any:
    import json

    return json.loads(json.dumps(value, default=str))
