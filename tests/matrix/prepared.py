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
from lookaway.anatomy.tiny import IMAGE, TINY, tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.record import Sample
from lookaway.models.lavin.processor import LavinProcessor, lavin_image_processor
from lookaway.models.tiny_models import tiny_lavin, tiny_meter, tiny_vilt

__all__ = ["CLASSIFIERS", "FAMILIES", "LAYERS", "Prepared", "picture", "prepared", "question"]

LAYERS = 3
FAMILIES = (*sorted(TINY), "lavin")
"""Names of tiny models that answer: transformers' families, and this package's own."""
CLASSIFIERS = {"meter": tiny_meter, "vilt": tiny_vilt}
"""Models that have no decoder: every command refuses them."""


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
    model, processor = _lavin() if name == "lavin" else _of_transformers(name)
    anatomy = anatomy_of(model)
    visual = (anatomy.image_token_id, *anatomy.other_visual_ids)
    with torch.no_grad():  # random weights would say tokens that stand for pictures, which no real model does
        head = model.get_output_embeddings().weight
        head[[token for token in (*visual, *range(90, 97)) if token < len(head)]] = 0.0
    judge = Judge(model, processor, anatomy.layers, visual, answer_type=int(model.config.model_type == "paligemma"))
    return Prepared(model, processor, judge, anatomy.first_prunable_layer)


def _of_transformers(name):
    made = tiny(name, num_layers=LAYERS)
    return made.model, family_processor(made)


def _lavin():
    """LaVIN with the processor that is its own; without dropout, which the judge could not draw in training."""
    model = tiny_lavin(num_layers=LAYERS, image_token_id=IMAGE, adapter_dropout=0.0)
    seen = model.config.image_seq_length
    return model, LavinProcessor(lavin_image_processor(16), tiny_processor().tokenizer, image_seq_length=seen)


def picture(number):
    """Random pixels, 16 wide; every third picture is taller."""
    height = 40 if number % 3 == 2 else 16
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (height, 16, 3), dtype=np.uint8))


def question(number, image=None, answer="ab"):
    """A question about one picture, in words of different length."""
    words = f"what is {number}" + "?" * (1 + 3 * (number % 3))
    content = [{"type": "image"}, {"type": "text", "text": words}]
    return Sample(str(number), [{"role": "user", "content": content}], (image or picture(number),), answer)
