"""One entry of a user's file -> one `Sample`: chat messages, LLaVA's conversations, or question / answer / image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from posixpath import normpath
from typing import Any

from ..core.errors import DataError
from ..core.record import Sample
from .fields import scalar, texts_field

__all__ = ["sample_of"]

IMAGE_MARK = "<image>"
FORMS = "'messages' + 'images', LLaVA's 'conversations', or 'question' + 'answer' + 'image' (docs/data.md)"


def sample_of(entry: Any, number: int, folder: Path, where: str) -> Sample:
    """The sample that an entry describes.

    Args:
        entry: what the file holds; keys that are not known are left alone.
        number: its place in the file, from 1; its id where it gives none.
        folder: what its image paths are relative to.
        where: file and place, with which every error begins.

    Raises:
        DataError: a key or a type is wrong, or images and placeholders differ in number; the text says what to write.
    """
    if not isinstance(entry, Mapping):
        raise DataError(f"{where} is no JSON object: {str(entry)[:60]!r}. Each sample is one object.")
    names = _names(entry, where)
    if entry.get("messages") is not None:
        messages, answer = _from_messages(entry["messages"], where)
    elif entry.get("conversations") is not None:
        messages, answer = _from_conversations(entry["conversations"], where)
    elif entry.get("question") is not None:
        parts = [{"type": "image"} for _ in names]
        question = scalar(entry["question"], "question", where)
        messages, answer = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}], None
    else:
        raise DataError(f"{where} has the keys {sorted(map(str, entry))}; expected {FORMS}.")
    places = sum(part["type"] == "image" for m in messages if isinstance(m["content"], list) for part in m["content"])
    if places != len(names):
        raise DataError(f"{where} has {len(names)} images for {places} image placeholders; they must be as many.")
    answers = _answers(entry, where)
    meta: dict[str, Any] = {"image_names": tuple(map(normpath, names))}  # './a.png' is 'a.png'
    if answers:
        meta["answers"] = answers
        answer = Counter(answers).most_common(1)[0][0]
    if entry.get("answer") is not None:
        answer = scalar(entry["answer"], "answer", where)
    if entry.get("scorer") is not None:
        meta["scorer"] = scalar(entry["scorer"], "scorer", where)
    identifier = next((entry[key] for key in ("id", "question_id") if entry.get(key) is not None), number)
    family = next((entry[key] for key in ("family", "category") if entry.get(key) is not None), None)
    return Sample(
        id=scalar(identifier, "id", where),
        messages=messages,
        images=tuple(str(Path(name) if Path(name).is_absolute() else folder / name) for name in names),
        answer=answer,
        family=None if family is None else scalar(family, "family", where),
        meta=meta,
    )


def _answers(entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """All accepted answers."""
    return () if entry.get("answers") is None else texts_field(entry, "answers", where)


def _names(entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """An entry's image paths, as it gives them."""
    given = next((entry[key] for key in ("images", "image", "file_name") if entry.get(key) is not None), None)
    if given is None:
        return ()
    names = given if isinstance(given, list) else [given]
    for name in names:
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: an image must be a path, not {str(name)[:40]!r}.")
    return tuple(names)


def _from_messages(messages: Any, where: str) -> tuple[list[dict[str, Any]], str | None]:
    """Chat messages; a last assistant message is taken off as the answer."""
    if not isinstance(messages, list) or not all(isinstance(turn, Mapping) for turn in messages):
        raise DataError(f"{where}: 'messages' must be a list of objects with 'role' and 'content'.")
    turns = [{"role": _role(turn, where), "content": _content(turn.get("content"), where)} for turn in messages]
    answer = _text(turns.pop()["content"]) if turns and turns[-1]["role"] == "assistant" else None
    if not turns or turns[-1]["role"] != "user":
        raise DataError(f"{where}: 'messages' must be a list of role and content that ends with the user's.")
    return turns, answer


def _role(turn: Mapping[str, Any], where: str) -> str:
    role = turn.get("role")
    if role not in ("system", "user", "assistant"):
        raise DataError(f"{where}: a message's 'role' must be system, user or assistant, not {str(role)[:40]!r}.")
    return str(role)


def _content(content: Any, where: str) -> str | list[dict[str, str]]:
    """A message's text, or its parts, each an image or a text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        given = "null" if content is None else type(content).__name__
        raise DataError(f"{where}: a message's 'content' must be text or a list of parts, not {given}.")
    parts: list[dict[str, str]] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "image":
            parts.append({"type": "image"})
        elif kind == "text" and isinstance(part.get("text"), str):
            parts.append({"type": "text", "text": part["text"]})
        elif kind in ("video", "audio"):
            raise DataError(
                f"{where} has a part of type {kind!r}; lookaway takes images and text. Give a video's frames as images."
            )
        else:
            raise DataError(
                f"{where}: a part must be {{'type': 'image'}} or {{'type': 'text', 'text': ...}}, "
                f"not {str(part)[:60]!r}."
            )
    return parts


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


def _text(content: str | list[dict[str, str]]) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")
