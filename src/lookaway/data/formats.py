"""A user's own questions: three public file formats, read into `Sample`s.

Chat messages + images (Hugging Face, TRL), LLaVA's conversations, and question / answer / image. Which one an entry has
is seen from its keys; a file may mix them. See docs/data.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.record import Sample

__all__ = ["read_samples", "split_of"]

IMAGE_MARK = "<image>"


def read_samples(path: str | Path) -> list[Sample]:
    """All samples of a `.json` or `.jsonl` file, or of the one such file in a folder.

    Raises:
        DataError: the file is missing, damaged, empty or in no known format, an id stands twice, or a sample's images
            and placeholders differ in number; the text names file, entry and cure.
    """
    file = _file(Path(path))
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    for number, entry in _entries(file):
        where = f"{file}, entry {number}"
        if not isinstance(entry, dict):
            raise DataError(f"{where} is no JSON object: {str(entry)[:60]!r}.")
        sample = _sample(entry, number, file, where)
        if sample.id in seen:
            raise DataError(f"{where} has the id {sample.id!r} of entry {seen[sample.id]}; ids must differ.")
        seen[sample.id] = number
        samples.append(sample)
    if not samples:
        raise DataError(f"{file} holds no samples.")
    return samples


def split_of(sample: Sample) -> str:
    """'train', 'calibration' or 'test' (60 / 20 / 20) by a stable hash of the images' names as the file gives them.

    So one picture is never in two of them, wherever the folder lies. Samples without an image go by their question.
    """
    key = "|".join(sample.meta.get("image_names", ())) or sample.question
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    return "train" if bucket < 60 else "calibration" if bucket < 80 else "test"


def _file(path: Path) -> Path:
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in (".json", ".jsonl"))
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "none"
            raise DataError(f"{path} must hold one .json or .jsonl file of samples; found {names}. Name the file.")
        return found[0]
    if not path.exists():
        raise DataError(f"No data at {path}. Give a .json or .jsonl file, a folder, or one of: mini, scenes, easy-vqa.")
    if path.suffix not in (".json", ".jsonl"):
        raise DataError(f"{path} is neither .json nor .jsonl.")
    return path


def _entries(file: Path) -> Iterator[tuple[int, Any]]:
    """(number from 1, entry) of a JSON list or of JSON lines."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {file}: {error}.") from error
    if file.suffix == ".json":
        try:
            entries = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{file} is not valid JSON: {error}.") from error
        if not isinstance(entries, list):
            raise DataError(f"{file} must hold a JSON list of samples, not {type(entries).__name__}.")
        yield from enumerate(entries, 1)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{file}, line {number} is not valid JSON: {error}.") from error


def _sample(entry: dict[str, Any], number: int, file: Path, where: str) -> Sample:
    names = _names(entry)
    if "messages" in entry:
        messages, answer = _from_messages(entry["messages"], where)
    elif "conversations" in entry:
        messages, answer = _from_conversations(entry["conversations"], where)
    elif "question" in entry:
        parts = [{"type": "image"} for _ in names]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": str(entry["question"])}]}]
        answer = None
    else:
        raise DataError(
            f"{where} has the keys {sorted(entry)}; expected 'messages' + 'images', LLaVA's 'conversations', or "
            "'question' + 'answer' + 'image' (docs/data.md)."
        )
    places = sum(_is_image(part) for m in messages if isinstance(m["content"], list) for part in m["content"])
    if places != len(names):
        raise DataError(f"{where} has {len(names)} images for {places} image placeholders; they must be as many.")
    given = entry.get("answer")
    return Sample(
        id=str(entry.get("id", number)),
        messages=messages,
        images=tuple(str(Path(name) if Path(name).is_absolute() else file.parent / name) for name in names),
        answer=answer if given is None else str(given),
        family=None if entry.get("family") is None else str(entry["family"]),
        meta={"image_names": names},
    )


def _names(entry: dict[str, Any]) -> tuple[str, ...]:
    """An entry's image paths, as it gives them."""
    given = entry.get("images", entry.get("image"))
    if given is None:
        return ()
    return tuple(map(str, given if isinstance(given, list) else [given]))


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "image"


def _from_messages(messages: Any, where: str) -> tuple[list[dict[str, Any]], str | None]:
    """Chat messages; a last assistant message is taken off as the answer."""
    try:
        turns = [{"role": str(turn["role"]), "content": turn["content"]} for turn in messages]
        answer = _text(turns.pop()["content"]) if turns[-1]["role"] == "assistant" else None
        if turns[-1]["role"] != "user":
            raise KeyError("user")
    except (KeyError, TypeError, IndexError):
        raise DataError(f"{where}: 'messages' must be a list of role and content that ends with the user's.") from None
    return turns, answer


def _from_conversations(turns: Any, where: str) -> tuple[list[dict[str, Any]], str | None]:
    """LLaVA's form: from human / gpt / system, value with <image> marks. The last gpt turn is the answer."""
    roles = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
    try:
        messages = [{"role": roles[turn["from"]], "content": _parts(turn["value"])} for turn in turns]
    except (KeyError, TypeError, AttributeError):
        raise DataError(f"{where}: 'conversations' must be a list of 'from' (human or gpt) and 'value'.") from None
    return _from_messages(messages, where)


def _parts(value: str) -> list[dict[str, str]]:
    """'<image>\\nWhat?' -> [image, text]."""
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(value.split(IMAGE_MARK)):
        if number:
            parts.append({"type": "image"})
        if piece.strip():
            parts.append({"type": "text", "text": piece.strip()})
    return parts


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part.get("type") == "text")
