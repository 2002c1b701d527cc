"""What a fit's report shows beside the policy: held-out answers, baselines at its cost, pictures of what it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.decision import Policy
    from ..core.record import Sample

__all__ = ["HELD_OUT", "HeldOut", "draw_report", "generic_prompts", "write_held_out"]

HELD_OUT = "held-out.jsonl"
"""Its records, beside records.jsonl in the folder of the fit."""
NAME = "this policy"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Options of the report of `lookaway fit`."""

    held_out: int = 100
    """Samples that the result is shown on beside other methods at its cost, one question an image, of a split that
    neither chose nor certified it; 0: none."""
    held_out_split: str | None = None
    """Their split; default: test-seen for generated questions (drawn like the others), else test."""
    pictures: int = 8
    """Pictures of the report that show which visual tokens the policy keeps."""


def write_held_out(
    options: Any,
    model: Any,
    processor: Any,
    policy: Policy,
    own: Mapping[str, Policy],
    used: Sequence[Sequence[Sample]],
) -> Path | None:
    """Answer held-out samples with the policy and with what stands beside it; an interrupted run goes on.

    Args:
        options: of `lookaway fit`.
        policy: the one that was certified.
        own: the candidates that the user gave; exit gates among them are shown alone.
        used: the splits that the fit has seen, the one that certified last.

    Returns:
        The file of records; None where none are asked for. Where there are no such samples, which is said, it holds the
        reason and pictures of samples that certified the policy.
    """
    from ..anatomy.find import anatomy_of
    from ..core.errors import DataError, LookawayError
    from ..core.processes import processes
    from ..core.provenance import policy_digest, provenance
    from ..core.shared_records import SharedRecords
    from ..data import GENERATED, SEEN, load_samples
    from ..evaluation.beside import Baseline, baselines_for, beside_row
    from ..evaluation.header import run_header
    from ..evaluation.runner import evaluate_policy, results_from_records
    from ..evaluation.summary import summarise
    from ..search.trials.samples import with_images
    from .common import earlier_records, short_names, tell
    from .progress import progress

    split = options.held_out_split or (SEEN if options.data in GENERATED else "test")
    if not options.held_out:
        return None
    try:
        drawn = with_images(load_samples(options.data, split, options.held_out, options.seed, distinct_images=True))
        samples = _unseen(drawn, used)
    except DataError as error:
        tell(f"note: no held-out samples for the report: {error}")
        return _pictures_alone(options, model, processor, policy, used[-1], str(error))
    shown = [name for name, one in own.items() if one.name == "visual-exit"]
    gates = {name: own[path] for name, path in zip(short_names(shown, taken=(NAME,)), shown, strict=True)}
    records = options.out / HELD_OUT
    settings = {
        "held_out": len(samples),
        "split": split,
        "seed": options.seed,
        "max_new_tokens": options.max_new_tokens,
    }
    facts = provenance(model=model, processor=processor, policy=policy, samples=samples, options=settings,
                       gates={name: policy_digest(one) for name, one in gates.items()})  # fmt: skip
    done = results_from_records(earlier_records(records, facts, options.fresh))
    scorer = _scorer(samples)
    common: dict[str, Any] = {
        "batch_size": options.batch_size, "max_new_tokens": options.max_new_tokens,
        "right": None if scorer is None else scorer.right,
    }  # fmt: skip

    def judged(one: Baseline, results: Any) -> dict[str, Any]:
        scores = _scores(scorer, samples, results)
        row = beside_row(one.name, results, one.own_cost, scores)
        row["policy"] = {"name": one.policy.name, "config": one.policy.to_config()}
        row["families"] = [asdict(part) for part in summarise(results, scores)]
        return {**row, "split": split, "scorer": None if scores is None else scores.scorer}

    header = run_header("fit", model, options.data, options, options.seed, options.model, facts)
    with SharedRecords(records, header) as writer:
        chosen = Baseline(NAME, policy)
        with progress("held-out samples, with and without the policy", len(samples)) as advance:
            results = evaluate_policy(model, processor, policy, samples, variant=NAME, writer=writer, done=done,
                                      progress=advance, **common)  # fmt: skip
        writer.write("beside", **judged(chosen, results))
        if processes().is_first:
            write_kept(writer, model, processor, policy, samples, results, options.pictures)
        without = {result.id: result.answer_without for result in results}
        for other in baselines_for(results, anatomy_of(model), gates, options.seed):
            try:
                with progress(f"beside it: {other.name}", len(samples)) as advance:
                    theirs = evaluate_policy(model, processor, other.policy, samples, variant=other.name, writer=writer,
                                             done=done, without=without, progress=advance, **common)  # fmt: skip
            except LookawayError as error:  # not every method fits every model
                tell(f"note: {other.name} is not shown beside it: {error}")
                continue
            writer.write("beside", **judged(other, theirs))
    return records


def _pictures_alone(
    options: Any, model: Any, processor: Any, policy: Policy, certified: Sequence[Sample], why: str
) -> Path:
    """Records where no samples are held out: why nothing stands beside the policy, and what it keeps of pictures that
    certified it, which need not be new to show that."""
    from ..core.processes import processes
    from ..core.provenance import provenance
    from ..core.shared_records import SharedRecords
    from ..evaluation.header import run_header
    from ..evaluation.runner import evaluate_policy, results_from_records
    from .common import earlier_records
    from .progress import progress

    records, samples = options.out / HELD_OUT, list(certified[: 3 * options.pictures])
    settings = {"pictures": options.pictures, "split": options.split, "max_new_tokens": options.max_new_tokens}
    facts = provenance(model=model, processor=processor, policy=policy, samples=samples, options=settings)
    done = results_from_records(earlier_records(records, facts, options.fresh))
    with SharedRecords(
        records, run_header("fit", model, options.data, options, options.seed, options.model, facts)
    ) as writer:
        writer.write("no-beside", why=why, pictures_of=options.split)
        if samples:
            with progress("pictures for the report", len(samples)) as advance:
                results = evaluate_policy(
                    model, processor, policy, samples, variant=NAME, writer=writer, done=done, progress=advance,
                    batch_size=options.batch_size, max_new_tokens=options.max_new_tokens,
                )  # fmt: skip
            if processes().is_first:
                write_kept(writer, model, processor, policy, samples, results, options.pictures)
    return records


def generic_prompts(splits: Sequence[Sequence[Sample]]) -> list[str]:
    """The prompts that were asked about pictures which came without questions."""
    from ..data.pictures import GENERIC

    return sorted({sample.question for split in splits for sample in split if sample.meta.get(GENERIC)})


def draw_report(folder: Path, held_out: Path | None = None) -> Path | None:
    """report.html in the folder of a fit, from its records and from those of the held-out samples of this very run
    (None: it has none; an earlier run's are not drawn). None where its libraries are missing, which is said."""
    from ..core.errors import MissingDependency
    from ..reports.pages.page import write_report
    from .common import tell

    files = [folder / "records.jsonl", *([] if held_out is None else [held_out])]
    try:
        return write_report(list(files), folder / "report.html")
    except MissingDependency as error:
        tell(f"note: no report: {error} Then: lookaway report {folder}")
        return None


def write_kept(
    writer: Any, model: Any, processor: Any, policy: Policy, samples: Sequence[Sample], results: Any, count: int
) -> None:
    """One 'kept' record a picture that the report shows."""
    from ..analysis.pictures import seen_picture
    from ..anatomy.find import anatomy_of
    from ..evaluation.kept_tokens import chosen_for_pictures, kept_tokens, looked_again

    shape = anatomy_of(model).shape
    again = [policy.retry() is not None and looked_again(result, shape) for result in results]
    by_id, answered = {sample.id: sample for sample in samples}, {result.id: result for result in results}
    for name in chosen_for_pictures(results, again, count):
        found = kept_tokens(model, processor, policy, by_id[name])
        png, aligned = seen_picture(processor, by_id[name])
        if found is not None and aligned:
            result = answered[name]
            writer.write(
                "kept", id=name, png=png, question=result.question, family=result.family, truth=result.truth,
                answer=result.answer_with, answer_without=result.answer_without, **found,
            )  # fmt: skip


def _unseen(samples: Sequence[Sample], used: Sequence[Sequence[Sample]]) -> list[Sample]:
    """The samples whose pictures the fit has not seen.

    Raises:
        DataError: there is none.
    """
    from ..core.errors import DataError
    from ..core.provenance import picture_digests

    known: dict[str, str] = {}
    seen = {digest for part in used for sample in part for digest in picture_digests(sample, known)}
    left = [s for s in samples if seen.isdisjoint(picture_digests(s, known))]
    if not left:
        raise DataError(f"all {len(samples)} pictures were seen by the fit. Give more --data, or --held-out-split.")
    return left


def _scorer(samples: Sequence[Sample]) -> Any:
    """The data's own scorer; None where not all questions have an answer."""
    from ..core.errors import DataError
    from ..evaluation.scorers import scorer_for

    if any(sample.answer is None for sample in samples):
        return None
    try:
        scorer = scorer_for(samples, "auto")
        scorer.totals(samples, [""] * len(samples))
    except DataError:
        return None
    return scorer


def _scores(scorer: Any, samples: Sequence[Sample], results: Any) -> Any:
    from ..evaluation.scores import score_pairs

    return None if scorer is None else score_pairs(scorer, samples, results)
