"""What a fit's report shows beside the policy: held-out answers, and what else could be had at its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.decision import Policy
    from ..core.record import Sample
    from ..policies.visual_exit import VisualExit

__all__ = ["HeldOut", "draw_report", "generic_prompts", "write_held_out"]

SHIPPED = "shipped"
"""What gates are called that come with a default model."""


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
        own: the candidates that the user gave; exit gates among them are shown alone, and so are those that ship with
            the model.
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
    from ..evaluation.gates_at_cost import gates_at_cost
    from ..evaluation.header import run_header
    from ..evaluation.runner import evaluate_policy, results_from_records
    from ..evaluation.summary import summarise
    from ..search.trials.samples import with_images
    from .common import earlier_records, tell
    from .fit_pictures import HELD_OUT, NAME, pictures_alone, write_kept
    from .progress import progress

    split = options.held_out_split or (SEEN if options.data in GENERATED else "test")
    if not options.held_out:
        return None
    try:
        drawn = with_images(load_samples(options.data, split, options.held_out, options.seed, distinct_images=True))
        samples = _unseen(drawn, used)
    except DataError as error:
        tell(f"note: no held-out samples for the report: {error}")
        return pictures_alone(options, model, processor, policy, used[-1], str(error))
    gates = _gates(options.model, model, own)
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
        spent = sum(result.flops for result in results)
        at_cost: dict[str, tuple[VisualExit, bool]] = {}
        if not anatomy_of(model).only_before:
            for name, one in gates.items():
                at_cost[name] = gates_at_cost(model, processor, samples, one, spent, options.batch_size)
        for other in baselines_for(results, anatomy_of(model), gates, at_cost, options.seed):
            try:
                with progress(f"beside it: {other.name}", len(samples)) as advance:
                    theirs = evaluate_policy(model, processor, other.policy, samples, variant=other.name, writer=writer,
                                             done=done, without=without, progress=advance, **common)  # fmt: skip
            except LookawayError as error:  # not every method fits every model
                tell(f"note: {other.name} is not shown beside it: {error}")
                continue
            writer.write("beside", **judged(other, theirs))
    return records


def _gates(name: str, model: Any, own: Mapping[str, Policy]) -> dict[str, VisualExit]:
    """Exit gates that are shown alone, by name: those among the user's candidates, and those shipped with this very
    model where they are none of these."""
    from ..anatomy.find import anatomy_of
    from ..core.errors import LookawayError
    from ..core.provenance import policy_digest
    from ..models.mini.model import shipped_gates
    from ..policies import load
    from ..policies.visual_exit import VisualExit
    from .common import short_names
    from .fit_pictures import NAME

    given = {path: one for path, one in own.items() if isinstance(one, VisualExit)}
    paths = list(given)
    found = {short: given[path] for short, path in zip(short_names(paths, (NAME, SHIPPED)), paths, strict=True)}
    if name.startswith("lookaway-mini"):
        try:
            shipped = load(shipped_gates(name))
            anatomy_of(model).check_policy(shipped)
        except LookawayError:  # none ship with this variant, or the name is of another model now
            return found
        if policy_digest(shipped) not in map(policy_digest, found.values()):
            assert isinstance(shipped, VisualExit)
            found[SHIPPED] = shipped
    return found


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
