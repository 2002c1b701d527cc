"""How good is it: accuracy per family, with the image, with a wrong image, with none, and by exit layer.

An answer is right when every token of it and the end token are the most likely ones, which is what greedy decoding
would write. All questions of an image share one packed pass; for the exit curve one taped full run is enough: the
suffix after each exit is replayed on the text columns alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...data import easy_vqa, scenes
from ...data.scenes import Question
from .dense import pixels
from .packed_run import embed, logits_at, run_layers
from .packing import VISUAL_TOKENS, Pack, Tokens, pack
from .tower import features

__all__ = ["PictureQuestions", "Scores", "evaluate", "evaluate_exits", "held_out_questions", "prior", "summary"]

Scores = dict[str, float]


class PictureQuestions(NamedTuple):
    """One picture and its held-out questions."""

    pixels: np.ndarray
    questions: list[Question]


def held_out_questions(split: str, scene_pictures: int, easy_pictures: int, seed: int = 0) -> list[PictureQuestions]:
    """The samples of `scenes.samples`, one question of each family a picture, and easy-VQA pictures with all theirs."""
    groups: dict[str, PictureQuestions] = {}
    for sample in scenes.samples(split, scene_pictures * len(scenes.FAMILIES), seed):
        key = f"s{sample.meta['scene']}"
        if key not in groups:
            groups[key] = PictureQuestions(pixels(sample.images[0]), [])
        groups[key].questions.append(Question(sample.family or "", sample.question, sample.answer or ""))
    by_image: dict[int, list[Question]] = defaultdict(list)
    for item in easy_vqa.items(split):
        by_image[item.image].append(Question(item.family, item.text, item.answer))
    chosen = np.random.default_rng([seed, 1]).permutation(sorted(by_image))[:easy_pictures]
    drawn = [
        *groups.values(),
        *(PictureQuestions(pixels(easy_vqa.picture(split, int(i))), by_image[int(i)]) for i in chosen),
    ]
    return sorted(drawn, key=lambda e: len(e.questions))  # like lengths together: little padding


def prior(todo: Sequence[PictureQuestions], pictures: int = 1500) -> Scores:
    """What the words alone are worth: the commonest answer to each question string (else to its family) in `align`."""
    strings: dict[str, Counter[str]] = defaultdict(Counter)
    families: dict[str, Counter[str]] = defaultdict(Counter)
    known = [Question(i.family, i.text, i.answer) for i in easy_vqa.items("align")]
    for index in range(pictures):
        known += scenes.full_scene(scenes.stream("align", 9, index), 2 + index % 5)[1]
    for q in known:
        strings[q.text][q.answer] += 1
        families[q.family][q.answer] += 1
    found: dict[str, list[bool]] = defaultdict(list)
    for q in (q for held_out in todo for q in held_out.questions):
        best = strings[q.text] if q.text in strings else families[q.family]
        found[q.family].append(best.most_common(1)[0][0] == q.answer)
    return summary(found)


def right(logits: Tensor, p: Pack) -> Tensor:  # [questions] bool
    """Whether all of each answer's tokens are the most likely ones."""
    hits = (logits.argmax(-1) == p.labels).long()
    wrong = torch.zeros(len(p.asked), dtype=torch.long, device=hits.device).index_add_(0, p.question, 1 - hits)
    return wrong == 0


def summary(found: Mapping[str, Sequence[bool]]) -> Scores:
    """Accuracy per family, of all scene families, of easy-VQA and of its open questions."""
    groups = dict(found)
    groups["scenes"] = [v for f, vs in found.items() if not f.startswith("easy") for v in vs]
    groups["easy"] = [v for f, vs in found.items() if f.startswith("easy") for v in vs]
    groups["easy-open"] = [v for f, vs in found.items() if f in ("easy-colour", "easy-shape") for v in vs]
    return {family: round(float(np.mean(values)), 4) for family, values in groups.items() if len(values)}


def _batches(
    tokens: Tokens, todo: Sequence[PictureQuestions], size: int
) -> Iterable[tuple[list[PictureQuestions], Pack]]:
    for start in range(0, len(todo), size):
        group = list(todo[start : start + size])
        yield group, pack(tokens, [e.questions for e in group], np.tile(np.arange(VISUAL_TOKENS), (len(group), 1)))


def _see(tower: Any, projector: Any, shown: Sequence[PictureQuestions]) -> Tensor:  # [B, 196, D]
    device = next(projector.parameters()).device
    return projector(features(tower, torch.from_numpy(np.stack([e.pixels for e in shown])).to(device)))


@torch.no_grad()
def evaluate(
    language: Any,
    tower: Any,
    projector: Any,
    tokens: Tokens,
    todo: Sequence[PictureQuestions],
    *,
    image: str = "own",
    size: int = 4,
) -> Scores:
    """Accuracy per family; `image` is 'own', 'shuffled' (another exam's picture) or 'none' (no visual tokens)."""
    found: dict[str, list[bool]] = defaultdict(list)
    shift = len(todo) // 2 + 1
    for number, (group, p) in enumerate(_batches(tokens, todo, size)):
        shown = (
            group if image != "shuffled" else [todo[(number * size + i + shift) % len(todo)] for i in range(len(group))]
        )
        visual = _see(tower, projector, shown)
        p = p.to(visual.device)
        hidden = embed(language, visual, p)
        hidden = run_layers(language, hidden, p, exit_at=0 if image == "none" else None)
        for (_, q), ok in zip(p.asked, right(logits_at(language, hidden, p), p).tolist(), strict=True):
            found[q.family].append(ok)
    return summary(found)


@torch.no_grad()
def evaluate_exits(
    language: Any,
    tower: Any,
    projector: Any,
    tokens: Tokens,
    todo: Sequence[PictureQuestions],
    layers: Sequence[int],
    size: int = 4,
) -> dict[int, Scores]:
    """Accuracy per family where the visual tokens leave before each of `layers`."""
    found: dict[int, dict[str, list[bool]]] = {k: defaultdict(list) for k in layers}
    for group, p in _batches(tokens, todo, size):
        visual = _see(tower, projector, group)
        p = p.to(visual.device)
        tape: list[Tensor] = []
        full = run_layers(language, embed(language, visual, p), p, tape=tape)
        for k in layers:
            hidden = full if k >= len(tape) else run_layers(language, tape[k], p, exit_at=k, first=k)
            for (_, q), ok in zip(p.asked, right(logits_at(language, hidden, p), p).tolist(), strict=True):
                found[k][q.family].append(ok)
    return {k: summary(f) for k, f in found.items()}
