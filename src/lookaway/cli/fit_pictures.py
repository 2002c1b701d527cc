"""The pictures of a fit's report: what the policy keeps of them, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.decision import Policy
    from ..core.record import Sample

__all__ = ["HELD_OUT", "NAME", "pictures_alone", "write_kept"]

HELD_OUT = "held-out.jsonl"
"""Records of what stands beside the policy and of pictures, beside records.jsonl in the folder of the fit."""
NAME = "this policy"


def pictures_alone(
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
