"""One sample in, one plain record out: everything that probes can tell about it. Runs the model; computes no table."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..anatomy.base import Anatomy
from ..anatomy.find import anatomy_of
from ..core.errors import DataError
from ..core.record import RecordWriter, Sample
from ..core.shared_records import share_records
from ..engine.api import attach
from ..engine.observe.flow import Flow, require_observable, watch_flow
from ..engine.observe.knockout import ROWS, knockout_outcomes
from ..engine.observe.saliency import image_saliency
from ..engine.replay.exit_table import collect_exit_table
from ..models.answerable import AnswerHoldsPicture, warn_left_out
from ..models.answers import own_answers
from ..models.encoding import Encoded, encode
from ..policies.fixed import ExitAt
from .knockout import default_width, sliding_windows
from .rank_stability import kendall_matrix, overlap_matrix

__all__ = ["ExitOutcomes", "StudyOptions", "exit_outcomes", "study", "study_sample"]


Judge = Callable[[Sample, str], bool | None]
"""(sample, answer) -> whether it is right."""


@dataclass(frozen=True)
class StudyOptions:
    """What is measured of each sample."""

    window: int = 0
    """Layers that are blinded together; 0: a sixth of the depth."""
    entropy_exits: tuple[int, ...] = ()
    """Exits for which the attention of the text that is left is measured; default: 1/4, 1/2 and 3/4 of the depth."""
    top_share: float = 0.25
    """Share of the visual tokens whose overlap between layers is counted."""
    max_new_tokens: int = 32
    """Longest own answer, in tokens."""

    def __post_init__(self) -> None:
        if not 0 < self.top_share < 1:
            raise DataError(f"--top-share must lie between 0 and 1, not {self.top_share}.")
        if self.window < 0:
            raise DataError(f"--window must be a number of layers, or 0 for a sixth of the depth, not {self.window}.")


def study(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    options: StudyOptions | None = None,
    *,
    writer: RecordWriter | None = None,
    done: Iterable[dict[str, Any]] = (),
    right: Judge | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> list[dict[str, Any]]:
    """Measure every sample, one at a time, so memory is that of one sample and a killed run loses at most one.

    Args:
        samples: each with at least one image.
        writer: gets one 'study' record each, as soon as it is measured.
        done: 'study' records of an earlier, interrupted run: their samples are not run again.
        right: whether an answer is right; None: where it is the truth word for word. Exits and knockouts whose answer
            is neither the full model's nor the truth count as wrong: what they say is not known.
        progress: called with 1 for each sample, known ones first.

    Returns:
        The values of the records, in the order of `samples`. Samples whose answer holds the token of visual positions
        are left out, and counted in a warning.

    Raises:
        DataError: there is no sample, or one without an image.
        UnsupportedModel: the attention of this model cannot be observed.
    """
    options = options or StudyOptions()
    require_observable(anatomy_of(model))
    blind = [sample.id for sample in samples if not sample.images]
    if blind or not samples:
        raise DataError(
            f"A study of looking needs images, but {f'sample {blind[0]!r} has' if blind else 'no sample with'} none."
        )
    found = {record["id"]: record for record in done if record["kind"] == "study"}
    rest = [sample for sample in samples if sample.id not in found]
    for _ in range(len(samples) - len(rest)):
        progress(1)

    def run(sample: Sample) -> list[dict[str, Any]]:
        try:
            return [study_sample(model, processor, sample, options, right)]
        except AnswerHoldsPicture:
            return []

    # one record a sample, or none; what is counted is written
    for rows in share_records(rest, run, writer, "study", size=lambda rows: 1, progress=progress):
        found.update({str(row["id"]): dict(row) for row in rows})
    odd = [sample.id for sample in samples if sample.id not in found]
    if odd:
        warn_left_out(odd, len(samples), "the answer holds the token that stands for a picture")
    return [found[sample.id] for sample in samples if sample.id in found]


def study_sample(
    model: Any, processor: Any, sample: Sample, options: StudyOptions, right: Judge | None = None
) -> dict[str, Any]:
    """The values of one sample's 'study' record (docs/records.md)."""
    anatomy = anatomy_of(model)
    own = own_answers(model, processor, [[sample]], options.max_new_tokens)[sample.id]
    prompt = encode(processor, [sample], model.device)
    asked = anatomy.layout(prompt.inputs["input_ids"], prompt.inputs["attention_mask"])
    visual, question = asked.visual[0], asked.question_mask()[0]
    flows = _flows(anatomy, prompt)
    scores = {name: _scores(flows, name, visual) for name in ("last", "text")}
    grids = {span.grid for span in asked.spans[0]}
    return {
        "id": sample.id,
        "family": sample.family,
        "question": sample.question,
        "truth": sample.answer,
        "answer": processor.tokenizer.decode(own, skip_special_tokens=True).strip(),
        "num_layers": anatomy.num_layers,
        "visual_tokens": int(visual.sum()),
        "question_tokens": int(question.sum()),
        "system_tokens": int((asked.text[0] & ~question).sum()),
        "flow": {
            "max": _by_layer([flow.by_max for flow in flows]),
            "mean": _by_layer([flow.by_mean for flow in flows]),
        },
        "entropy": _by_layer([flow.entropy for flow in flows]),
        "entropy_after_exit": _entropy_after_exits(anatomy, model, prompt, options),
        "ranks": {
            "top_share": options.top_share,
            **{name: _ranks(one, options.top_share) for name, one in scores.items()},
        },
        "looks": _looks(scores["text"], next(iter(grids)) if len(asked.spans[0]) == 1 else None),
        **_answers(model, processor, sample, own, options, right),
    }


def _flows(anatomy: Anatomy, prompt: Encoded) -> list[Flow]:
    with torch.no_grad(), watch_flow(anatomy.model) as seen:
        anatomy.backbone(**{**prompt.inputs, "use_cache": False})
    return [seen.flows[layer] for layer in range(anatomy.num_layers)]


def _by_layer(found: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    """Name -> [L], of the one row."""
    return {name: plain(torch.cat([one[name] for one in found])) for name in found[0]}


def _entropy_after_exits(anatomy: Anatomy, model: Any, prompt: Encoded, options: StudyOptions) -> dict[str, Any]:
    """Exit layer -> entropies [L] of the run in which the visual tokens left there."""
    depth = anatomy.num_layers
    first = anatomy.first_prunable_layer
    exits = options.entropy_exits or sorted({max(first, depth * part // 4) for part in (1, 2, 3)} - {depth})
    found = {}
    for layer in exits:
        with attach(model, ExitAt(layer)):
            found[str(layer)] = _by_layer([flow.entropy for flow in _flows(anatomy, prompt)])
    return found


def _scores(flows: Sequence[Flow], name: str, visual: Tensor) -> np.ndarray:
    """Attention on each visual token, [L, V]."""
    return torch.stack([getattr(flow, name)[0, visual] for flow in flows]).double().cpu().numpy()


def _ranks(scores: np.ndarray, share: float) -> dict[str, Any]:
    count = max(1, round(share * scores.shape[1]))
    return {
        "tau": plain(kendall_matrix(scores), 4),
        "overlap": plain(overlap_matrix(scores, count), 4),
        "median": plain(np.median(scores, axis=1)),
        "highest": plain(scores.max(1)),
    }


def _looks(scores: np.ndarray, grid: tuple[int, int] | None) -> dict[str, Any]:
    """What the text reads from each visual token, as a byte: 255 is the layer's highest."""
    highest = scores.max(1, keepdims=True)
    values = np.round(255 * scores / np.where(highest > 0, highest, 1)).astype(np.uint8)
    return {"grid": grid, "bytes": base64.b64encode(values.tobytes()).decode()}


def _answers(
    model: Any, processor: Any, sample: Sample, own: list[int], options: StudyOptions, right: Judge | None
) -> dict[str, Any]:
    """Exits, knockouts and saliency. Losses are of the model's own answer; `right` is against the ground truth."""
    depth = anatomy_of(model).num_layers
    windows = sliding_windows(depth, options.window or default_width(depth))
    said = encode(processor, [sample], model.device, answers=[own])
    table, blinded = exit_outcomes(model, said, "own"), knockout_outcomes(model, said, windows)
    salient = image_saliency(model, said)
    exits: dict[str, Any] = {"layers": table.layers, "loss": plain(table.loss),
                             "full_loss": plain(table.full_loss), "same": table.agree.tolist(),
                             "right": None, "full_right": None}  # fmt: skip
    knockout: dict[str, Any] = {"windows": [list(window) for window in windows], "loss": plain(blinded.loss),
                                "full_loss": plain(blinded.full_loss), "same": blinded.agree.tolist(),
                                "right": None, "full_right": None}  # fmt: skip
    if sample.answer is not None:
        truth = encode(processor, [sample], model.device, answers=[sample.answer])
        if not torch.equal(truth.inputs["input_ids"], said.inputs["input_ids"]):
            table, blinded = exit_outcomes(model, truth, "answer"), knockout_outcomes(model, truth, windows)
        said_right, truth_right = table.full_match, True
        if right is not None:
            text = processor.tokenizer.decode(own, skip_special_tokens=True).strip()
            said_right, truth_right = bool(right(sample, text)), bool(right(sample, sample.answer))
        for part, match in ((exits, table.match.tolist()), (knockout, blinded.match.tolist())):
            pairs = zip(part["same"], match, strict=True)
            part |= {"right": [said_right if same else hit and truth_right for same, hit in pairs]}
            part |= {"full_right": said_right}
    return {"exits": exits, "knockout": knockout, "saliency": {"reading": plain(salient.reading.sum(1))}}


@dataclass(frozen=True)
class ExitOutcomes:
    """What became of one sample's teacher-forced answer for an exit before each of C layers."""

    layers: list[int]
    loss: Tensor  # [C]
    match: Tensor  # bool [C]
    agree: Tensor  # bool [C]
    full_loss: float
    full_match: bool


def exit_outcomes(model: Any, batch: Encoded, target: str, rows: int = ROWS) -> ExitOutcomes:
    """One sample's exit table, so many exits at a time that at most `rows` rows of text run together."""
    anatomy = anatomy_of(model)
    text = anatomy.layout(batch.inputs["input_ids"], batch.inputs["attention_mask"]).text
    most = max(1, rows // int(text.sum()))
    layers = list(range(anatomy.first_prunable_layer, anatomy.num_layers))
    parts = [layers[start : start + most] for start in range(0, len(layers), most)]
    tables = [collect_exit_table(model, [batch], part, target=target) for part in parts]
    loss, match, agree = (torch.cat([getattr(t, n)[0] for t in tables]) for n in ("loss", "match", "agree"))
    return ExitOutcomes(layers, loss, match, agree, float(tables[0].full_loss[0]), bool(tables[0].full_match[0]))


def plain(values: Any, digits: int = 6) -> Any:
    """Tensors, arrays and floats as lists of numbers with so many significant digits; NaN becomes None."""
    if isinstance(values, Tensor | np.ndarray):
        values = values.tolist()
    if isinstance(values, list | tuple):
        return [plain(value, digits) for value in values]
    return None if math.isnan(values) else float(f"{values:.{digits}g}")
