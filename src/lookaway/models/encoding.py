"""Samples -> tensors: one prompt a sample, left-padded, with the answer behind it where teacher forcing wants one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import DataError
from ..core.record import Sample
from .answerable import answer_ids, check_answers

__all__ = ["Encoded", "LazyBatches", "encode", "group_by_image", "open_image"]


ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held; 1: upright."""


@dataclass(frozen=True)
class Encoded:
    """A batch, ready for `model(**inputs)` or `model.generate(**inputs)`."""

    inputs: dict[str, Tensor]
    """input_ids and attention_mask [B, S], left-padded, and what the family wants beside (pixel_values, ...)."""
    answer_mask: Tensor | None  # bool [B, S]
    """Positions of the teacher-forced answer, its end token among them; None where there is no answer."""
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.samples)


def encode(
    processor: Any,
    samples: Sequence[Sample],
    device: Any = "cpu",
    answers: Sequence[str | Sequence[int]] | None = None,
) -> Encoded:
    """Encode samples as the model sees them.

    Args:
        processor: the model's Hugging Face processor.
        samples: chat messages with their images.
        device: where the tensors go.
        answers: one an entry, text or token ids, appended behind the prompt with the end token: then greedy generation
            gives the answer exactly if the argmax agrees at every answer position.

    Raises:
        DataError: an image cannot be read, images and placeholders do not match, an answer holds the token of visual
            positions, or the processor refuses a sample.
    """
    if not samples:
        raise DataError("There is no sample to encode.")
    if answers is not None and len(answers) != len(samples):
        raise DataError(f"{len(answers)} answers were given for {len(samples)} samples.")
    texts = [_prompt(processor, sample) for sample in samples]
    images = [[open_image(image) for image in sample.images] for sample in samples]
    bos = processor.tokenizer.bos_token
    try:
        features = processor(
            text=texts,
            images=images if any(images) else None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            add_special_tokens=not (bos and texts[0].startswith(bos)),
        )
    except (ValueError, IndexError, TypeError) as error:
        raise DataError(f"The processor refused samples {[s.id for s in samples]}: {error}") from error
    inputs = {name: value.to(device) for name, value in features.items() if isinstance(value, Tensor)}
    answer_mask = None
    if answers is not None:
        ids = [answer_ids(processor.tokenizer, answer) for answer in answers]
        check_answers(processor, samples, ids)
        # PaliGemma: 0 is what sees itself both ways, 1 the causal answer. Elsewhere 0 is text, also of the answer.
        answer_type = int("PaliGemma" in type(processor).__name__)
        inputs, answer_mask = _append(inputs, ids, _pad_id(processor.tokenizer), answer_type)
    return Encoded(inputs, answer_mask, tuple(samples))


class LazyBatches(Sequence[Encoded]):
    """Batches of samples with their answers, encoded when they are asked for, and not kept."""

    def __init__(
        self, processor: Any, batches: Sequence[Sequence[Sample]], device: Any,
        answers: Mapping[str, str | Sequence[int]],
    ) -> None:  # fmt: skip
        self._processor, self._batches, self._device, self._answers = processor, batches, device, answers

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, place: Any) -> Any:
        batch = self._batches[place]
        return encode(self._processor, batch, self._device, [self._answers[sample.id] for sample in batch])


def group_by_image(samples: Sequence[Sample], batch_size: int) -> list[list[Sample]]:
    """Batches of up to `batch_size` samples that keep the questions of one image together.

    What is made for all exit layers of a sample is several times cheaper where a batch shares its images. Images are
    told apart by path, or by object; groups come in the order of their first sample.
    """
    groups: dict[Any, list[Sample]] = {}
    for sample in samples:
        key = tuple(str(image) if isinstance(image, str | Path) else id(image) for image in sample.images)
        groups.setdefault(key, []).append(sample)
    batches: list[list[Sample]] = [[]]
    for group in groups.values():
        if len(batches[-1]) + len(group) > batch_size and batches[-1]:
            batches.append([])
        for sample in group:
            if len(batches[-1]) == batch_size:
                batches.append([])
            batches[-1].append(sample)
    return [batch for batch in batches if batch]


def open_image(image: Any) -> Any:
    """A PIL image in RGB, upright, from a path or a PIL image.

    A camera writes how it was held into the file (EXIF) and leaves the pixels lying; they are turned as a viewer does.

    Raises:
        DataError: there is no such file, it is no image, or one of so many pixels that PIL takes it for an attack; the
            text names it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image
        return upright if upright.mode == "RGB" else upright.convert("RGB")
    if not isinstance(image, str | Path):
        raise DataError(f"An image must be a path or a PIL image, not {type(image).__name__}.")
    try:
        with Image.open(image) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except FileNotFoundError:
        raise DataError(f"There is no image file {str(image)!r}.") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise DataError(
            f"{str(image)!r} has more than {limit:,} pixels, far more than any model looks at. Scale it down first."
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{str(image)!r} cannot be read as an image ({error}).") from error


def _prompt(processor: Any, sample: Sample) -> str:
    """The sample's messages through the chat template, ready for the answer."""
    from jinja2 import TemplateError  # comes with torch

    parts = [
        part for message in sample.messages if not isinstance(message["content"], str) for part in message["content"]
    ]
    placeholders = sum(part.get("type") == "image" for part in parts)
    if placeholders != len(sample.images):
        raise DataError(
            f"Sample {sample.id!r} has {len(sample.images)} image(s) for {placeholders} image placeholder(s) in its "
            "messages; give one {'type': 'image'} part an image."
        )
    messages = [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message["content"], str)
        else message
        for message in sample.messages
    ]
    try:
        return str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except (ValueError, TypeError, KeyError, TemplateError) as error:
        raise DataError(
            f"The model's processor has no chat template that takes sample {sample.id!r} ({error}). Set "
            "processor.chat_template, or take the -hf version of the model."
        ) from error


def _pad_id(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def _append(
    inputs: dict[str, Tensor], answers: list[list[int]], pad_id: int, answer_type: int = 0
) -> tuple[dict[str, Tensor], Tensor]:
    """Prompts [B, S] with their answers behind them, left-padded again, and the mask of the answers."""
    real = inputs["attention_mask"].bool()
    counts = [int(row.sum()) + len(answer) for row, answer in zip(real, answers, strict=True)]
    width = max(counts)
    answer_mask = torch.zeros(len(counts), width, dtype=torch.bool, device=real.device)
    for i, answer in enumerate(answers):
        answer_mask[i, width - len(answer) :] = True

    def longer(name: str, padding: int, behind: Callable[[list[int]], list[int]]) -> Tensor:
        values = inputs[name]
        out = values.new_full((len(counts), width), padding)
        for i, (count, answer) in enumerate(zip(counts, answers, strict=True)):
            out[i, width - count :] = torch.cat([values[i][real[i]], values.new_tensor(behind(answer))])
        return out

    rows = {
        "input_ids": longer("input_ids", pad_id, list),
        "attention_mask": longer("attention_mask", 0, lambda answer: [1] * len(answer)),
    }
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            kind = answer_type if name == "token_type_ids" else 0
            rows[name] = longer(name, 0, lambda answer, kind=kind: [kind] * len(answer))  # type: ignore[misc]
    return {**inputs, **rows}, answer_mask
