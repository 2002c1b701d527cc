"""What `lookaway bench` times: a model on a sample of some data, or a published shape on a synthetic prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.record import Sample

__all__ = ["Subject", "model_and_sample", "shaped"]


@dataclass(frozen=True)
class Subject:
    """A model with its prompt."""

    model: Any
    processor: Any
    """None: of a shape."""
    inputs: Callable[[int], Mapping[str, Any]]
    """Rows of the batch -> keyword arguments of the model's forward."""
    name: str
    data: str
    """Both as records call them."""
    samples: Sequence[Sample] | None


def model_and_sample(name: str, data: str, **loading: Any) -> Subject:
    """The model that --model names, and the first question with an image of --data.

    Args:
        loading: how, as `load_model` takes it.

    Raises:
        DataError: there is no such question.
    """
    from ..core.errors import DataError
    from ..data import GENERATED, load_samples
    from ..models.encoding import encode
    from ..models.loading import load_model

    model, processor = load_model(name, **loading)
    split = "test" if data in GENERATED else "all"  # one question is timed: what split it is of does not matter
    samples = [s for s in load_samples(data, split, limit=50) if s.images][:1]
    if not samples:
        raise DataError(f"{data} has no question with an image to time.")

    def inputs(size: int) -> Mapping[str, Any]:
        return encode(processor, samples * size, device=model.device).inputs

    return Subject(model, processor, inputs, name, data, samples)


def shaped(shape: str, scale: float | None, text_tokens: int, device: str | None, **how: Any) -> Subject:
    """The shape that --shape names, on its own synthetic picture.

    Args:
        scale: None: 0.1 on a CPU, 1 elsewhere.
        how: dtype and attention, as `build_shape` takes them.

    Raises:
        SettingsError: no such shape, or it does not fit in memory.
    """
    import torch

    from ..models.shapes.published import build_shape

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    factor = scale if scale is not None else 0.1 if place.type == "cpu" else 1.0
    found = build_shape(shape, factor, device=place, **how)
    name = shape if factor == 1 else f"{shape} at scale {factor:g}"
    data = f"a synthetic picture of {found.shape.picture} and {text_tokens} words"
    return Subject(found.model, None, lambda size: found.inputs(size, text_tokens), name, data, None)
