"""Image-text retrieval: Karpathy's JSON of Flickr30k (and COCO), where each image has five captions.

Source of the splits: Karpathy and Fei-Fei, arXiv 1412.2306; `dataset_flickr30k.json` holds
`{"images": [{"filename", "split", "sentences": [{"raw"}]}]}`. It is no list of questions, so it has its own type.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.errors import DataError
from .fields import list_field, object_at, optional_text, text_field
from .tables import read_json

__all__ = ["RetrievalSet", "read_retrieval"]

PARTS = {"train": ("train", "restval"), "calibration": ("val",), "test": ("test",)}


@dataclass(frozen=True)
class RetrievalSet:
    """Images and captions to be matched."""

    images: tuple[str, ...]
    """Paths."""
    captions: tuple[str, ...]
    image_of: tuple[int, ...]
    """For each caption the number of its image: what `recall_at` reads."""

    def captions_of(self, image: int) -> tuple[str, ...]:
        """The captions of one image."""
        return tuple(c for c, owner in zip(self.captions, self.image_of, strict=True) if owner == image)


def read_retrieval(file: str | Path, images: str | Path | None = None, split: str = "test") -> RetrievalSet:
    """One split of a Karpathy file.

    Args:
        file: the JSON.
        images: the folder of the images; None: the file's own. COCO's entries name a folder inside it (`filepath`).
        split: 'train' (COCO's 'restval' counts to it, as is the custom), 'calibration' (val) or 'test'.

    Raises:
        DataError: no such split or file, a field that is missing or of another type, or an image without a caption.
    """
    if split not in PARTS:
        raise DataError(f"No split {split!r} of a Karpathy file; there are {', '.join(PARTS)}.")
    file = Path(file)
    folder = Path(images) if images is not None else file.parent
    paths: list[str] = []
    captions: list[str] = []
    image_of: list[int] = []
    for number, value in enumerate(list_field(read_json(file, dict), "images", str(file)), 1):
        where = f"{file}, image {number}"
        entry = object_at(value, where)
        if text_field(entry, "split", where) not in PARTS[split]:
            continue
        sentences = list_field(entry, "sentences", where)
        texts = [text_field(object_at(sentence, where), "raw", where) for sentence in sentences]
        name = text_field(entry, "filename", where)
        path = folder / (optional_text(entry, "filepath", where) or "") / name
        if not texts:
            raise DataError(f"{where} ({name}) has no caption.")
        image_of += [len(paths)] * len(texts)
        captions += texts
        paths.append(str(path))
    if not paths:
        raise DataError(f"{file} has no image in the split {split!r}.")
    return RetrievalSet(tuple(paths), tuple(captions), tuple(image_of))
