"""Many questions in one sequence behind one image: about six times fewer tokens than a sequence a question.

Columns: ['<|im_start|>' | V visual | T of the questions]. Each question block sees the prefix, the visual
tokens and itself; its positions begin where they would begin if it stood alone behind the whole image. Visual tokens
may be a subset: they keep their own positions, as if the others had been masked. Since the visual tokens are columns
of their own, an exit is a cut of columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.scenes import COLOURS, SHAPES, Question
from ...models.mini.parts import IMAGE_TOKEN, VISUAL_TOKENS

__all__ = ["Pack", "Tokens", "choose_visual", "pack"]

PREFIX = 1
MARK = "\x00"
NAMING = ("relation", "hop", "comparison", "size", "read", "where")  # families whose questions name only what is there


class Tokens:
    """Tokens of questions, cut from what the processor's own chat template makes of a whole message."""

    def __init__(self, processor: Any) -> None:
        self.tokenizer = processor.tokenizer
        content = [{"type": "image"}, {"type": "text", "text": MARK}]
        whole = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        before, self.after = whole.split(IMAGE_TOKEN + MARK)
        self.prefix = self.ids(before)
        self.end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.shapes = {self.ids(" " + shape)[-1] for shape in SHAPES}
        self.colours = {self.ids(" " + colour)[-1] for colour in COLOURS}
        self.question = lru_cache(maxsize=100_000)(lambda text: tuple(self.ids(text + self.after)))
        self.answer = lru_cache(maxsize=10_000)(lambda text: tuple(self.ids(text)))

    def named(self, stem: Sequence[int]) -> list[int]:
        """Where in a question a shape's name follows a colour's."""
        return [i for i in range(1, len(stem)) if stem[i] in self.shapes and stem[i - 1] in self.colours]

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


@dataclass
class Pack:
    """A batch of B images with their questions; S = 1 + V + T columns."""

    prefix: Tensor  # [1] token ids
    visual: Tensor  # [B, V] patch indices, ascending
    text: Tensor  # [B, T] token ids
    mask: Tensor  # [B, 1, S, S] 0 or a very negative number, added to the scores
    positions: Tensor  # [B, S]
    rows: Tensor  # [N, 2] (image, text column) of rows that predict
    labels: Tensor  # [N] the token each predicts
    question: Tensor  # [N] which question the row belongs to
    first: Tensor  # [N] bool: the row predicts an answer's first token
    weight: Tensor  # [N] share in the loss
    asked: list[tuple[int, Question]]  # (image, question)

    def to(self, device: torch.device) -> Pack:
        moved: dict[str, Any] = {n: v.to(device) if isinstance(v, Tensor) else v for n, v in vars(self).items()}
        return Pack(**moved)


def choose_visual(rng: np.random.Generator, shown: np.ndarray, keep: int) -> np.ndarray:  # [196] -> [keep]
    """A random subset of the patches, those with a thing on them first with high probability; ascending."""
    if keep >= VISUAL_TOKENS:
        return np.arange(VISUAL_TOKENS)
    order = np.argsort(-(rng.random(VISUAL_TOKENS) + 0.9 * shown))
    return np.sort(order[:keep])


def pack(
    tokens: Tokens,
    questions: Sequence[Sequence[Question]],
    visual: np.ndarray,
    *,
    budget: int | None = None,
    closing: float = 1.0,
    rng: np.random.Generator | None = None,
    phrases: bool = False,
) -> Pack:
    """Lay out the questions of B images; `visual` [B, V].

    Args:
        budget: text columns at most; questions that do not fit are left out.
        phrases: also predict the shape in each 'the red circle' of a question, from the image and what stands before.
        closing: share of the questions that also train (or judge) the rest of the answer and the end token.
    """
    built: list[tuple[list[int], list[int], list[int], list[bool]]] = []
    rows: list[tuple[int, int]] = []
    labels: list[int] = []
    owner: list[int] = []
    first: list[bool] = []
    weight: list[float] = []
    asked: list[tuple[int, Question]] = []
    for image, group in enumerate(questions):
        ids: list[int] = []
        block: list[int] = []
        place: list[int] = []
        sees: list[bool] = []
        for number, q in enumerate(group):
            stem, answer = tokens.question(q.text), tokens.answer(q.answer)
            close = closing >= 1.0 or q.family in ("describe", "where") or (rng is not None and rng.random() < closing)
            line = [*stem, *(answer if close else ())]
            if budget is not None and len(ids) + len(line) > budget:
                continue
            targets = [*answer, tokens.end] if close else answer[:1]
            for offset, target in enumerate(targets):
                rows.append((image, len(ids) + len(stem) - 1 + offset))
                labels.append(target)
                owner.append(len(asked))
                first.append(offset == 0)
                later = 0.3 if not phrases else 0.15 if target == tokens.end else 0.5
                weight.append(1.0 if offset == 0 else later)
            for column in tokens.named(stem) if phrases and q.family in NAMING else ():
                rows.append((image, len(ids) + column - 1))
                labels.append(stem[column])
                owner.append(len(asked))
                first.append(False)
                weight.append(0.5)
            seen = q.family != "text"
            start = PREFIX + VISUAL_TOKENS * seen
            ids += line
            block += [2 + number] * len(line)
            place += range(start, start + len(line))
            sees += [seen] * len(line)
            asked.append((image, q))
        built.append((ids, block, place, sees))
    width, (count, kept) = max(len(b[0]) for b in built), visual.shape
    text = np.full((count, width), tokens.end)
    group_of = np.full((count, PREFIX + kept + width), -1)
    position = np.zeros((count, PREFIX + kept + width), dtype=np.int64)
    sees_image = np.ones((count, PREFIX + kept + width), dtype=bool)
    group_of[:, :PREFIX], group_of[:, PREFIX : PREFIX + kept] = 0, 1
    position[:, :PREFIX], position[:, PREFIX : PREFIX + kept] = np.arange(PREFIX), PREFIX + visual
    for image, (ids, block, place, sees) in enumerate(built):
        text[image, : len(ids)] = ids
        span = slice(PREFIX + kept, PREFIX + kept + len(ids))
        group_of[image, span], position[image, span], sees_image[image, span] = block, place, sees
    query, looks = torch.from_numpy(group_of)[:, :, None], torch.from_numpy(sees_image)[:, :, None]
    key, size = query.transpose(1, 2), query.shape[1]
    allowed = (key == query) | (key == 0) | ((key == 1) & looks)
    allowed &= torch.ones(size, size, dtype=torch.bool).tril()
    mask = torch.zeros(allowed.shape).masked_fill_(~allowed, torch.finfo(torch.float32).min)[:, None]
    return Pack(torch.tensor(tokens.prefix), torch.from_numpy(visual), torch.from_numpy(text), mask,
                torch.from_numpy(position), torch.tensor(rows), torch.tensor(labels), torch.tensor(owner),
                torch.tensor(first), torch.tensor(weight), asked)  # fmt: skip
