"""A folder of pictures without questions: a fixed list of generic prompts is asked, one a picture."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image

from ..core.errors import DataError
from ..core.record import Sample

__all__ = ["GENERIC", "PROMPTS", "pictures_in", "read_pictures"]

PROMPTS = {
    "describe": "Describe this image in one sentence.",
    "objects": "What objects are in this image?",
    "main": "What is the main subject of this image?",
    "colour": "What color is the largest object in this image?",
    "count": "How many objects are in this image?",
    "where": "Where in the image is the main subject?",
    "text": "What text can be read in this image?",
    "person": "Is there a person in this image?",
}
"""Family -> what is asked. A picture's prompt follows from its content alone, so the same picture always gets the same
one; changed or added prompts give other questions, and stored results are then not used (core/provenance.py)."""
GENERIC = "generic_prompt"
"""Key of `Sample.meta` that says that nobody wrote the question for this picture."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def pictures_in(folder: Path) -> list[Path]:
    """All pictures in a folder and in the folders inside it, by name; hidden files and folders are left out."""
    inside = ((path, path.relative_to(folder)) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path, name in inside if path.is_file() and not any(p.startswith(".") for p in name.parts))


def read_pictures(folder: Path, pictures: list[Path]) -> list[Sample]:
    """One sample a picture: the prompt drawn by the digest of its file, no answer, the prompt's name as its family.

    A picture's name in `image_names` is that digest: copies of one picture are one image, and never in two splits.

    Raises:
        DataError: a picture cannot be opened.
    """
    families = tuple(PROMPTS)
    samples = []
    for path in pictures:
        try:
            content = hashlib.sha256(path.read_bytes())
            with Image.open(path):  # reads the header alone
                pass
        except (OSError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read as a picture ({error}). Repair it, or take it out.") from error
        family = families[int.from_bytes(content.digest()[:8], "big") % len(families)]
        parts = [{"type": "image"}, {"type": "text", "text": PROMPTS[family]}]
        samples.append(
            Sample(
                id=path.relative_to(folder).as_posix(),
                messages=[{"role": "user", "content": parts}],
                images=(str(path),),
                family=family,
                meta={"image_names": (content.hexdigest()[:32],), GENERIC: True},
            )
        )
    return samples
