"""A tiny model of a family with processor, samples and judge, made once each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from family_processor import family_processor
from judge import Judge
from PIL import Image

from lookaway.anatomy.find import anatomy_of
from lookaway.anatomy.tiny import tiny
from lookaway.core.record import Sample

__all__ = ["LAYERS", "Prepared", "picture", "prepared", "question"]

LAYERS = 3


@dataclass(frozen=True)
class Prepared:
    model: Any
    processor: Any
    judge: Judge
    first: int
    """The first layer before which something may leave."""


@cache
def prepared(name):
    """The tiny model `name` with its processor and its judge."""
    made = tiny(name, num_layers=LAYERS)
    model, processor = made.model, family_processor(made)
    anatomy = anatomy_of(model)
    visual = (anatomy.image_token_id, *anatomy.other_visual_ids)
    with torch.no_grad():  # random weights would say tokens that stand for pictures, which no real model does
        head = model.get_output_embeddings().weight
        head[[token for token in (*visual, *range(90, 97)) if token < len(head)]] = 0.0
    judge = Judge(model, processor, anatomy.layers, visual, answer_type=int(model.config.model_type == "paligemma"))
    return Prepared(model, processor, judge, anatomy.first_prunable_layer)


def picture(number):
    """Random pixels, 16 wide; every third picture is taller."""
    height = 40 if number % 3 == 2 else 16
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (height, 16, 3), dtype=np.uint8))


def question(number, image=None, answer="ab"):
    """A question about one picture, in words of different length."""
    words = f"what is {number}" + "?" * (1 + 3 * (number % 3))
    content = [{"type": "image"}, {"type": "text", "text": words}]
    return Sample(str(number), [{"role": "user", "content": content}], (image or picture(number),), answer)
