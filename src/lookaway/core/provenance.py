"""Provenance: what a result depends on, by content. Every header, cache key and resumed run goes through this file.

A provenance is plain JSON: names -> digests or settings. Two of them are equal exactly if the results are good for each
other; `earlier_results.py` refuses others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from .errors import DataError
from .weights import tensors_digest, weights_digest

if TYPE_CHECKING:
    from .decision import Policy
    from .record import Sample

__all__ = [
    "library",
    "model_facts",
    "options_facts",
    "picture_digest",
    "picture_digests",
    "picture_key",
    "plain",
    "policy_digest",
    "policy_facts",
    "provenance",
    "provenance_key",
    "sample_facts",
]  # fmt: skip

COMPUTING = ("core", "anatomy", "data", "models", "engine", "modules", "policies", "training", "search", "evaluation",
             "analysis")  # fmt: skip
"""The packages whose code results depend on; what draws and prints them is left out."""
FREE = ("allow_other_model", "after", "cache", "compare", "curve", "data", "device", "exit_at", "fresh",
        "json", "lease", "model", "name", "out", "pictures", "policy", "records", "skip_from", "storage",
        "test_data", "vision_tower")  # fmt: skip
"""Options that do not change results, or that name what is compared by content: models, policies and data."""


def provenance(
    *,
    model: Any = None,
    processor: Any = None,
    policy: Policy | None = None,
    samples: Sequence[Sample] | None = None,
    options: Any = None,
    free: Collection[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """What a result depends on; parts that are None are left out.

    Args:
        model, processor: without a policy attached.
        samples: in the order in which they count.
        options: a dataclass or mapping; `FREE` ones are left out.
        free: further options that may differ.
        more: further plain values.
    """
    found: dict[str, Any] = {"library": library()}
    if model is not None:
        found["model"] = model_facts(model, processor)
    if policy is not None:
        found["policy"] = policy_facts(policy)
    if samples is not None:
        found["samples"] = sample_facts(samples)
    if options is not None:
        found["options"] = options_facts(options, free)
    return plain({**found, **more})


def library() -> dict[str, str]:
    """Versions of what computes: lookaway's own with a digest of its code, torch and transformers."""
    from .. import __version__

    return {"lookaway": __version__, "code": _code_digest(), **{name: _version(name) for name in _LIBRARIES}}


_LIBRARIES = ("torch", "transformers")


def model_facts(model: Any, processor: Any = None) -> dict[str, str]:
    """Weights to the bit, and the settings that what a model answers depends on."""
    config = model.config.to_dict()
    generation = getattr(model, "generation_config", None)
    facts = {
        "weights": weights_digest(model),
        "config": _digest(_settings(config)),
        "attention": str(getattr(model.config.get_text_config(), "_attn_implementation", "")),
        "generation": _digest(_settings(generation.to_dict()) if generation is not None else None),
    }
    if processor is not None:
        facts["processor"] = processor_digest(processor)
    return facts


def processor_digest(processor: Any) -> str:
    """Chat template, tokenizer and picture settings: how samples become tensors."""
    tokenizer = getattr(processor, "tokenizer", processor)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # how the latest batch was padded and cut stays behind in it, and is the caller's choice
        words: Any = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    else:
        words = sorted(getattr(tokenizer, "get_vocab", dict)().items())
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    images = getattr(processor, "image_processor", None)
    pictures = _settings(images.to_dict()) if images is not None and hasattr(images, "to_dict") else repr(images)
    own = {key: value for key, value in sorted(vars(processor).items()) if isinstance(value, str | int | float)}
    return _digest([str(template), words, pictures, own])


def policy_facts(policy: Policy) -> dict[str, Any]:
    """A policy as it would be saved: name, settings, and a digest of all with its weights and its model."""
    try:
        settings = policy.to_config()
    except TypeError:  # a policy of one's own without a saved form: equal to itself alone
        settings = {"object": f"{type(policy).__module__}.{type(policy).__qualname__} {policy!r}"}
    digest = _digest(
        [policy.name, settings, tensors_digest(policy.tensors()), asdict(policy.base) if policy.base else None]
    )
    shown = {key: value for key, value in settings.items() if key not in ("training", "guarantee")}
    return {"name": policy.name, "settings": shown, "digest": digest}


def policy_digest(policy: Policy) -> str:
    """Changes with any setting, weight or note of a policy, and with the model that it is for."""
    return str(policy_facts(policy)["digest"])


def sample_facts(samples: Iterable[Sample]) -> dict[str, Any]:
    """Digests of the questions, answers and pictures of samples, in their order."""
    samples, known = list(samples), dict[str, str]()
    notes = [{key: value for key, value in sample.meta.items() if key != "image_names"} for sample in samples]
    return {
        "count": len(samples),
        "questions": _digest([[sample.id, sample.messages] for sample in samples]),
        "answers": _digest([[s.answer, s.family, note] for s, note in zip(samples, notes, strict=True)]),
        "pictures": _digest([picture_digests(sample, known) for sample in samples]),
    }


def picture_digests(sample: Sample, known: dict[str, str] | None = None) -> list[str]:
    """`picture_digest` of each of a sample's pictures.

    Raises:
        DataError: one of them cannot be read; the text names the sample.
    """
    try:
        return [picture_digest(image, known) for image in sample.images]
    except DataError as error:
        raise DataError(f"Sample {sample.id!r}: {error} Put one there, or take the question out.") from error


def picture_key(sample: Sample, known: dict[str, str] | None = None) -> str:
    """What is equal for samples with the same pictures, under whatever names; a sample without one has its own.

    Raises:
        DataError: a picture cannot be read.
    """
    return "|".join(digest[:16] for digest in picture_digests(sample, known)) or f"sample {sample.id}"


def picture_digest(image: Any, known: dict[str, str] | None = None) -> str:
    """What is seen, not where it lies: bytes of a file, pixels of an image in memory.

    Args:
        known: digests of files that were read already in this call, by path.

    Raises:
        DataError: the file cannot be read, or is no picture.
    """
    if not isinstance(image, str | Path):
        held = image.getexif().get(0x0112, 1)  # how the camera was held
        colours = image.getpalette()  # what the pixels of a picture with a palette stand for
        seen = (image.mode, image.size, held) if colours is None else (image.mode, image.size, held, colours)
        return hashlib.sha256(repr(seen).encode() + image.tobytes()).hexdigest()
    known = {} if known is None else known
    if str(image) not in known:
        try:
            content = Path(image).read_bytes()
            with Image.open(BytesIO(content)):  # its header alone: what is no picture is named before a model runs
                pass
        except UnidentifiedImageError:
            raise DataError(f"The file {str(image)!r} is no picture.") from None
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            why = getattr(error, "strerror", None) or error
            raise DataError(f"The picture {str(image)[:200]!r} cannot be read: {why}.") from error
        known[str(image)] = hashlib.sha256(content).hexdigest()
    return known[str(image)]


def options_facts(options: Any, free: Collection[str] = ()) -> dict[str, Any]:
    """A command's options but for the `FREE` ones."""
    values = asdict(options) if is_dataclass(options) and not isinstance(options, type) else dict(options)
    return {key: plain(value) for key, value in values.items() if key not in FREE and key not in free}


def provenance_key(facts: Any) -> str:
    """A short name for files that hold what has this provenance."""
    return _digest(facts)[:24]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:32]


def plain(value: Any) -> Any:
    """As JSON takes it, and as JSON gives it back."""
    return json.loads(json.dumps(value, default=str, sort_keys=True))


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a transformers config: what says where it came from, and who wrote it, is left out."""
    idle = ("_name_or_path", "_commit_hash", "transformers_version", "name_or_path")
    return {k: _settings(v) if isinstance(v, Mapping) else v for k, v in values.items() if k not in idle}


@cache
def _code_digest() -> str:
    """Of the code that computes: a source checkout changes without a new version."""
    home, digest = Path(__file__).parents[1], hashlib.sha256()
    for package in COMPUTING:
        for path in sorted((home / package).rglob("*.py")):
            digest.update(path.relative_to(home).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
