"""Answers that cannot follow their prompt: those that hold the token of a visual position.

A model may say it (random weights, a damaged checkpoint), a data set may contain it. Behind the prompt the model would
take it for another picture.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import DataError
from ..core.record import Sample

__all__ = ["AnswerHoldsPicture", "answer_ids", "answerable", "check_answers", "warn_left_out"]


class AnswerHoldsPicture(DataError):
    """An answer holds the token of a visual position."""


def answer_ids(tokenizer: Any, answer: str | Sequence[int]) -> list[int]:
    """Token ids of an answer, text or ids, with the end token."""
    ids = list(tokenizer(answer, add_special_tokens=False)["input_ids"]) if isinstance(answer, str) else list(answer)
    end = tokenizer.eos_token_id
    return ids if ids and ids[-1] == end else [*ids, end]


def check_answers(processor: Any, samples: Sequence[Sample], answers: Sequence[Sequence[int]]) -> None:
    """Raise AnswerHoldsPicture where the model would take a part of an answer (token ids) for another picture."""
    for sample, ids in zip(samples, answers, strict=True):
        token = _placeholder_in(processor, ids)
        if token is not None:
            raise AnswerHoldsPicture(
                f"The answer of sample {sample.id!r} (its own, or what the model says by itself) holds {token!r}, "
                "which stands for a picture, so the answer cannot follow the prompt. Leave this sample out."
            )


def answerable(
    processor: Any, samples: Sequence[Sample], answers: Mapping[str, str | Sequence[int]], whose: str
) -> list[Sample]:
    """The samples whose answer can follow its prompt; a warning counts and names those that are left out.

    Args:
        answers: by sample id, text or token ids.
        whose: whose answers they are, for the warning: 'their answer', "the model's own answer".
    """
    tokens = {s.id: _placeholder_in(processor, answer_ids(processor.tokenizer, answers[s.id])) for s in samples}
    odd = [name for name, token in tokens.items() if token is not None]
    if odd:
        warn_left_out(odd, len(samples), f"{whose} holds {tokens[odd[0]]!r}, which stands for a picture")
    return [sample for sample in samples if tokens[sample.id] is None]


def warn_left_out(odd: Sequence[str], of: int, why: str) -> None:
    """Warn that so many samples are left out, and why."""
    warnings.warn(f"{len(odd)} of {of} samples are left out (the first: {odd[0]!r}): {why}.", stacklevel=3)


def _placeholder_in(processor: Any, ids: Sequence[int]) -> str | None:
    """The token that stands for a picture among an answer's ids."""
    names = ("image_token_id", "video_token_id")
    visual = {token for name in names if (token := getattr(processor, name, None)) is not None}
    found = sorted(visual.intersection(ids))
    return str(processor.tokenizer.convert_ids_to_tokens(found[0])) if found else None
