"""Floor 1: samples in. `load_samples` is the door for every command's --data."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..core.errors import DataError

if TYPE_CHECKING:
    from ..core.record import Sample

__all__ = ["GENERATED", "HASHED", "SEEN", "SPLITS", "hashed", "load_samples"]

SPLITS = ("train", "calibration", "test")
"""What gates learn from, what thresholds are chosen on, what is reported: never the same pictures."""

HASHED = (*SPLITS, "calibration+test")
"""What a file of one's own divides into, by a hash of its pictures' names: 60, 20 and 20 per cent, and the last two
together for whoever needs as many to certify on."""

SEEN = "test-seen"
GENERATED = {
    "mini": ("scenes", "easy-vqa"),
    "scenes": ("scenes",),
    "easy-vqa": ("easy-vqa",),
    "mini:crowded": ("crowded",),
    "mini:photo": ("photo",),
    "mini:whole": ("whole",),
    "mini-hard": ("crowded", "photo", "whole"),
}
"""Name -> sets of questions, asked in equal parts. `mini-hard` has the sets' names as its families."""
PUBLISHED = {
    "scienceqa": ("scienceqa", "read_scienceqa"),
    "vqav2": ("vqav2", "read_vqav2"),
    "nlvr2": ("nlvr2", "read_nlvr2"),
    "gqa": ("gqa", "read_gqa"),
    "textvqa": ("textvqa", "read_textvqa"),
    "pope": ("yes_no_sets", "read_pope"),
    "mme": ("yes_no_sets", "read_mme"),
}
"""Layouts of public data sets, with splits of their own: name -> (module, reader)."""


def load_samples(
    spec: str, split: str = "test", limit: int | None = None, seed: int = 0, distinct_images: bool = False
) -> list[Sample]:
    """Samples of a named set or of a user's file, of one split.

    Args:
        spec: a name of `GENERATED`: 'mini' (scenes and easy-VQA in equal parts), 'mini-hard' and so on; a path; or a
            published layout and its folder: 'scienceqa:FOLDER', 'gqa:FOLDER' and the other names of `PUBLISHED`
            (docs/data.md).
        split: 'train', 'calibration' or 'test'; of a user's file also 'calibration+test', and 'all' takes a user's file
            or a published folder whole. A published folder's own parts can be named too, such as 'val', and generated
            sets have 'test-seen': drawn like calibration, without the pairs of colour and shape that only 'test' shows.
        limit: at most so many; the generated sets make 1000 where it is None. MME's two questions about a picture
            are scored together, and stay together.
        seed: draws another part of the generated sets; a user's file is shuffled with it before `limit` cuts.
        distinct_images: one question of each image, so that samples are independent draws; copies of an image under
            other names count as one.

    Raises:
        DataError: no such split or file, a damaged file, nothing in the split.
    """
    kind, _, folder = spec.partition(":")
    published = kind in PUBLISHED and bool(folder)
    if split not in (*HASHED, SEEN, "all") and not published:
        raise DataError(
            f"No split {split!r}; there are {', '.join(SPLITS)} and, for your own files, 'calibration+test' and 'all'."
        )
    if limit is not None and limit < 1:
        raise DataError(f"--limit must be at least 1, not {limit}.")
    if spec in GENERATED:
        found = _generated(GENERATED[spec], split, limit or 1000, seed, distinct_images)
        return [replace(one, family=one.id.split("-", 1)[0]) for one in found] if spec == "mini-hard" else found
    whole = None if distinct_images else limit
    samples = _cut(_published(kind, folder, split), whole, seed) if published else _own(spec, split, whole, seed)
    return _independent(samples, limit, seed) if distinct_images else samples


def hashed(spec: str) -> bool:
    """Whether --data is one's own, which is divided by a hash of the pictures' names (`formats.split_of`)."""
    kind, _, folder = spec.partition(":")
    return spec not in GENERATED and not (kind in PUBLISHED and folder)


def _generated(parts: Sequence[str], split: str, count: int, seed: int, distinct: bool) -> list[Sample]:
    """`count` questions, in equal parts of each set; with `distinct` one of each image.

    easy-VQA has too few images for many such: the first of the sets makes up for them.
    """
    from . import easy_vqa
    from .scenes import SETS, samples_of

    if split not in (*SPLITS, SEEN):
        raise DataError(
            f"The split {split!r} is for your own files; generated questions have {', '.join((*SPLITS, SEEN))}."
        )
    first, *others = parts
    found: list[Sample] = []
    for place, name in enumerate(others):
        share = (count + len(parts) - 2 - place) // len(parts)
        if share:
            found += _generated((name,), split, share, seed, distinct)
    rest = count - len(found)
    if first == "easy-vqa":
        many = easy_vqa.samples(split, len(easy_vqa.items(split)) if distinct else rest, seed)
    else:
        kind = SETS[first]
        many = samples_of(kind, split, rest * len(kind.families) if distinct else rest, seed)
    own = _one_per_image(many, seed)[:rest] if distinct else many
    return [*own, *found]


def _one_per_image(samples: list[Sample], seed: int) -> list[Sample]:
    """One question of each image, drawn at random among its questions, in the order of the images."""
    import random

    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.images:
            groups.setdefault(sample.image_key, []).append(sample)
    draw = random.Random(seed)
    return [draw.choice(group) for group in groups.values()]


def _independent(samples: list[Sample], limit: int | None, seed: int) -> list[Sample]:
    """`_one_per_image` of files, up to `limit` drawn at random, none with the pictures of another by content.

    Files are read only as far as that takes.

    Raises:
        DataError: a picture cannot be read.
    """
    import random

    from ..core.provenance import picture_key

    found = _one_per_image(samples, seed)
    if limit is not None and limit < len(found):
        found = random.Random(seed).sample(found, len(found))
    known: dict[str, str] = {}
    kept: dict[str, Sample] = {}
    for sample in found:
        if len(kept) == limit:
            break
        kept.setdefault(picture_key(sample, known), sample)
    return list(kept.values())


def _own(path: str, split: str, limit: int | None, seed: int) -> list[Sample]:
    from .formats import read_samples, split_of

    if split == SEEN:
        raise DataError(f"Only the generated sets have a split {SEEN!r}; {path} has {', '.join(SPLITS)} and 'all'.")
    samples = read_samples(path)
    if split != "all":
        chosen = [sample for sample in samples if split_of(sample) in split.split("+")]
        if not chosen:
            raise DataError(
                f"None of the {len(samples)} samples of {path} falls into the split {split!r} (60 / 20 / 20 by image). "
                "Give more samples, or --split all."
            )
        samples = chosen
    return _cut(samples, limit, seed)


def _published(kind: str, folder: str, split: str) -> list[Sample]:
    from .fields import check_samples

    module, reader = PUBLISHED[kind]
    found: list[Sample] = getattr(importlib.import_module(f"{__name__}.{module}"), reader)(folder, split)
    check_samples(found, f"The split {split!r} of {kind}:{folder}")
    return found


def _cut(samples: list[Sample], limit: int | None, seed: int) -> list[Sample]:
    """At most `limit` samples, drawn at random; those that are scored together (MME's two about a picture) stay so."""
    import random

    if limit is None or limit >= len(samples):
        return samples
    draw = random.Random(seed)
    if "pair" not in samples[0].meta:
        return draw.sample(samples, limit)
    pairs: dict[str, list[Sample]] = {}
    for sample in samples:
        pairs.setdefault(sample.meta["pair"], []).append(sample)
    names = draw.sample(list(pairs), limit // 2)
    if not names:
        raise DataError(f"Questions about one picture are scored together; --limit must be at least 2, not {limit}.")
    return [sample for name in names for sample in pairs[name]]
