"""Questions that are answered yes or no: POPE (hallucinated objects) and MME (two questions an image).

Sources: Li et al., *Evaluating Object Hallucination in Large Vision-Language Models*, arXiv 2305.10355; Fu et al.,
*MME*, arXiv 2306.13394.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ...core.errors import DataError
from ...core.record import Sample
from .base import Scorer, answers_of, one_by_one

__all__ = ["COGNITION", "MME", "POPE", "mme_answer", "pope_answer"]

COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
"""MME's tasks of its cognition sum; all others are perception."""


def pope_answer(text: str) -> str:
    """By POPE's published rule 'no' where the first sentence holds the word No, no or not, else 'yes'."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def pope_totals(samples: Sequence[Sample], answers: Sequence[str]) -> dict[str, float]:
    """accuracy, precision, recall, f1 and yes_ratio, shares in [0, 1]; 0 where a ratio has nothing below its line."""
    said = [pope_answer(answer) == "yes" for answer in answers]
    true = [_truth(sample) == "yes" for sample in samples]
    pairs = list(zip(said, true, strict=True))
    if not pairs:
        return {}
    hits = sum(a and b for a, b in pairs)
    precision, recall = _share(hits, sum(said)), _share(hits, sum(true))
    return {
        "accuracy": sum(a == b for a, b in pairs) / len(pairs),
        "precision": precision,
        "recall": recall,
        "f1": _share(2 * precision * recall, precision + recall),
        "yes_ratio": sum(said) / len(pairs),
    }


def mme_answer(text: str) -> str:
    """'yes', 'no' or 'other': the whole answer, one letter (y, n), or what stands in its first four characters."""
    text = text.lower().strip().replace(".", "")
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "other")
    return next((word for word in ("yes", "no") if word in text[:4]), "other")


def mme_totals(samples: Sequence[Sample], answers: Sequence[str]) -> dict[str, float]:
    """Per task `TASK/accuracy`, `TASK/accuracy+` and `TASK/score`, and the sums `perception` and `cognition`.

    Accuracies are in [0, 1]: accuracy over questions, accuracy+ over images of which both questions are right. A score
    is 100 * (accuracy + accuracy+), as published. A sample's family is its task, `meta["pair"]` names its image where
    questions are not told apart by their pictures.

    Raises:
        DataError: an image has not exactly two questions; its name stands in the text.
    """
    pairs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample, answer in zip(samples, answers, strict=True):
        pairs[str(sample.family)][str(sample.meta.get("pair", sample.image_key))].append(_mme(sample, answer))
    found: dict[str, float] = {}
    sums = {"perception": 0.0, "cognition": 0.0}
    for task, images in sorted(pairs.items()):
        for name, hits in images.items():
            if len(hits) != 2:
                raise DataError(
                    f"MME scores two questions an image, but {name!r} of {task!r} has {len(hits)}. Give both "
                    "questions of each image: a --limit above the number of questions, and none left out."
                )
        accuracy = sum(map(sum, images.values())) / (2 * len(images))
        both = sum(sum(hits) == 2 for hits in images.values()) / len(images)
        score = 100 * (accuracy + both)
        found |= {f"{task}/accuracy": accuracy, f"{task}/accuracy+": both, f"{task}/score": score}
        sums["cognition" if task in COGNITION else "perception"] += score
    return {**found, **sums} if found else {}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _truth(sample: Sample) -> str:
    truths = {truth.lower().strip().replace(".", "") for truth in answers_of(sample)}
    truth = " or ".join(sorted(truths))
    if truth not in ("yes", "no"):
        raise DataError(f"The answer of sample {sample.id!r} is {truth!r}; this task knows only 'yes' and 'no'.")
    return truth


def _pope(sample: Sample, answer: str) -> float:
    return float(pope_answer(answer) == _truth(sample))


def _mme(sample: Sample, answer: str) -> float:
    return float(mme_answer(answer) == _truth(sample))


POPE = Scorer("pope", "POPE: accuracy, F1 and share of yes", one_by_one(_pope), pope_totals, binary=True)
MME = Scorer(
    "mme", "MME: accuracy and accuracy+ over two questions an image", one_by_one(_mme), mme_totals, binary=True
)
