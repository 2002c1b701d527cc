"""A processor for the tiny model of any family: characters as tokens, and image inputs of the family's own form.

Real processors need a vision stack each; what the commands need of one is its interface. The image inputs are drawn
from a seed that is made of the picture's pixels, so that the same picture always looks the same and another does not.
"""

from __future__ import annotations

import hashlib

import torch
from transformers import AutoProcessor, BatchFeature, PretrainedConfig, ProcessorMixin

from lookaway.anatomy.tiny import TINY, TINY_BEFORE
from lookaway.anatomy.tiny.processor import CHAT_TEMPLATE, tiny_processor
from lookaway.anatomy.tiny.sizes import PAD

__all__ = ["FamilyProcessor", "family_processor"]

RECIPES = {**TINY, **TINY_BEFORE}


class FamilyProcessor(ProcessorMixin):
    """Text and pictures for the tiny model `name`.

    Args:
        name: a key of `RECIPES`.
        visual_tokens: height of a picture (as text: it is saved as JSON) -> its number of visual tokens.
    """

    def __init__(self, tokenizer=None, name="llava", visual_tokens=None, chat_template=None):
        self.name, self.visual_tokens = name, visual_tokens or {}
        super().__init__(tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    def __call__(self, text, images=None, padding_side="left", add_special_tokens=True, **kwargs):
        flat = [image for row in images or [] for image in row]
        parts = [self._picture(image) for image in flat]
        heights = iter(self._height(image) for image in flat)
        rows = []
        for line in text:
            pieces = line.split("<image>")
            full = pieces[0] + "".join("<image>" * self.visual_tokens[next(heights)] + piece for piece in pieces[1:])
            rows.append(self.tokenizer(full, add_special_tokens=False)["input_ids"])
        width = max(map(len, rows))
        ids, mask = torch.full((len(rows), width), PAD), torch.zeros(len(rows), width, dtype=torch.int64)
        for i, row in enumerate(rows):
            columns = slice(width - len(row), width) if padding_side == "left" else slice(0, len(row))
            ids[i, columns], mask[i, columns] = torch.tensor(row), 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        inputs |= {key: _joined([part[key] for part in parts]) for key in (parts[0] if parts else ())}
        return BatchFeature({**inputs, **RECIPES[self.name].more(inputs)})

    def _height(self, image):
        return str(image.height) if RECIPES[self.name].any_size else "16"

    def _picture(self, image):
        seed = int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:7], "big")
        return RECIPES[self.name].pictures([[int(self._height(image))]], torch.Generator().manual_seed(seed))


class TinyPaliGemmaProcessor(FamilyProcessor):
    """PaliGemma's answers are told from its prompts by the processor's class (`models.encoding`)."""


def _joined(parts):
    """Along the first dimension; all others padded to the largest."""
    most = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    joined = parts[0].new_zeros(sum(map(len, parts)), *most[1:])
    first = 0
    for part in parts:
        joined[(slice(first, first + len(part)), *(slice(size) for size in part.shape[1:]))] = part
        first += len(part)
    return joined


def family_processor(tiny):
    """The processor of a `TinyModel`, for pictures 16 wide and 16 or 40 high."""
    recipe, found = RECIPES[tiny.name], {}
    for height in (16, 40) if recipe.any_size else (16,):
        pictures = recipe.pictures([[height]], torch.Generator().manual_seed(0))
        found[str(height)] = int(recipe.lengths(tiny.model, pictures, [height])[0])
    kind = TinyPaliGemmaProcessor if tiny.family == "paligemma" else FamilyProcessor
    return kind(tiny_processor().tokenizer, tiny.name, found)


class _First(PretrainedConfig):
    model_type = "tiny-family"


class _Second(PretrainedConfig):
    model_type = "tiny-family-paligemma"


AutoProcessor.register(_First, FamilyProcessor, exist_ok=True)
AutoProcessor.register(_Second, TinyPaliGemmaProcessor, exist_ok=True)
