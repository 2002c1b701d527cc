"""Paired runs: every sample answered with the policy and without it, by the model's own `generate`, and the cost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..core.decision import Policy
from ..core.provenance import picture_key
from ..core.record import RecordWriter, Sample, Trace
from ..core.shared_records import share_records
from ..data.fields import check_samples
from ..engine.api import attach
from ..models.encoding import encode, group_by_image
from .scoring import is_right, same_answer

__all__ = ["PairedResult", "evaluate_policy", "results_from_records"]


@dataclass(frozen=True)
class PairedResult:
    """One sample with the policy and without it. Costs are of its prefill alone, padding apart."""

    variant: str
    """Name of the policy in tables, e.g. 'gates'."""
    id: str
    family: str | None
    question: str
    truth: str | None
    answer_without: str
    answer_with: str
    right_without: bool | None
    """Whether the answer has the full score; None where there is no ground truth, or none for single answers."""
    right_with: bool | None
    agree: bool
    """Both answers are the same text."""
    exit_layer: int | None
    """None: the visual tokens never left, or there were none."""
    num_layers: int
    visual_tokens: list[int]
    """[L] visual tokens that each layer processed."""
    flops: int
    full_flops: int
    fastv_flops: int
    full_fastv_flops: int
    kv_bytes: int
    full_kv_bytes: int
    image: str | None = None
    """Equal for questions about the same pictures, by content (`picture_key`); None in records of 0.1."""
    prompt_visual_tokens: int | None = None
    """Visual tokens of the prompt, those included that never entered the decoder; None in records of 0.1."""

    @property
    def initial_visual_tokens(self) -> int:
        """Visual tokens of the prompt."""
        return self.visual_tokens[0] if self.prompt_visual_tokens is None else self.prompt_visual_tokens


def evaluate_policy(
    model: Any,
    processor: Any,
    policy: Policy,
    samples: Sequence[Sample],
    *,
    variant: str = "policy",
    writer: RecordWriter | None = None,
    done: Iterable[PairedResult] = (),
    batch_size: int = 8,
    max_new_tokens: int = 32,
    without: Mapping[str, str] | None = None,
    right: Callable[[Sample, str], bool | None] | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> list[PairedResult]:
    """Answer every sample twice, greedily, in the same batches; what decides and what is measured is one path.

    Args:
        samples: with or without ground truth (then only agreement is judged).
        writer: gets one 'sample' record each, as soon as its batch is done.
        done: results of an earlier, interrupted run under this variant: batches of which all are known are not run
            again, and what is known is not written again.
        without: the answers without a policy by sample id, where another variant's run has them already.
        right: whether an answer is right, for `right_with` and `right_without` (`Scorer.right`); None: by `is_right`.
        progress: called with the number of samples that were just finished.

    Returns:
        One result a sample, in the order of `samples`.

    Raises:
        DataError: there are no samples, or two with one id.
    """
    check_samples(samples, "The list of samples")
    judge = right or _exact
    pictures: dict[str, str] = {}  # digests of files that were read already
    found = {result.id: result for result in done if result.variant == variant}
    # batches are those of a run without interruptions, so that an answer never depends on where one was cut
    rest = [b for b in group_by_image(samples, batch_size) if not all(sample.id in found for sample in b)]

    def run(batch: Sequence[Sample]) -> list[dict[str, Any]]:
        inputs = encode(processor, batch, device=model.device).inputs
        if without is None:
            full = _answers(model, processor, inputs, max_new_tokens)
        else:
            full = [without[sample.id] for sample in batch]
        with warnings.catch_warnings(), attach(model, policy) as attached:
            if not any(sample.images for sample in batch):  # questions without an image are part of the data
                warnings.filterwarnings("ignore", message="A policy is attached, but no row")
            answers = _answers(model, processor, inputs, max_new_tokens)
        return [
            asdict(_result(variant, sample, full[row], answers[row], judge, attached.trace, row, pictures))
            for row, sample in enumerate(batch)
            if sample.id not in found
        ]

    for rows in share_records(rest, run, writer, "sample", progress=progress):
        found.update({str(row["id"]): PairedResult(**row) for row in rows})
    return [found[sample.id] for sample in samples]


def results_from_records(records: Iterable[dict[str, Any]]) -> list[PairedResult]:
    """The paired results among records; of several for one variant and id the last counts."""
    latest: dict[tuple[str, str], PairedResult] = {}
    for record in records:
        if record["kind"] == "sample":
            values = {name: record[name] for name in PairedResult.__dataclass_fields__ if name in record}
            latest[values["variant"], values["id"]] = PairedResult(**values)
    return list(latest.values())


@torch.no_grad()
def _answers(model: Any, processor: Any, inputs: dict[str, Any], max_new_tokens: int) -> list[str]:
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    texts = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _exact(sample: Sample, answer: str) -> bool | None:
    return is_right(answer, sample.answer)


def _result(
    variant: str, sample: Sample, without: str, answer: str, judge: Callable[[Sample, str], bool | None], trace: Trace,
    row: int, pictures: dict[str, str],
) -> PairedResult:  # fmt: skip
    cost = trace.row_cost(row)
    return PairedResult(
        variant=variant,
        id=sample.id,
        family=sample.family,
        question=sample.question,
        truth=sample.answer,
        answer_without=without,
        answer_with=answer,
        right_without=judge(sample, without),
        right_with=judge(sample, answer),
        agree=same_answer(answer, without),
        exit_layer=trace.exit_layers[row],
        num_layers=trace.shape.num_layers,
        visual_tokens=[layer[row] for layer in trace.visual_tokens],
        flops=cost.flops,
        full_flops=cost.full_flops,
        fastv_flops=cost.fastv_flops,
        full_fastv_flops=cost.full_fastv_flops,
        kv_bytes=cost.kv_bytes,
        full_kv_bytes=cost.full_kv_bytes,
        image=picture_key(sample, pictures),
        prompt_visual_tokens=trace.initial_visual_tokens[row],
    )
