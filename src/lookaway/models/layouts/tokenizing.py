"""A sentencepiece tokenizer that gives the published ids, whole prompts at once.

The public LLaVA code splits a prompt at `<image>` and tokenises every chunk by itself, so each chunk begins with
sentencepiece's `▁` ("\\nWhat" is `▁`, newline, `What`). transformers gives that mark to the first chunk alone: one
token fewer. Both are ordinary `tokenizers` pipelines; the one made here prepends the mark to every chunk, in front of
spaces too, and is saved as tokenizer.json, which any transformers reads.

`legacy` (tokenizer_config.json; true where it is not said) is how the slow tokenizer went on behind a special token:
legacy, also the text behind `</s>` begins with the mark; otherwise only a chunk does. transformers 5 ignores it.

The placeholder: the published embedding tables have no row for `<image>`, and transformers embeds `input_ids` before
it replaces the image's places. Instead of a new row (random, or with a logit of 0 that can win), `<image>` takes the
place of a piece that no text can produce: the byte piece `<0x00>` of Llama's vocabularies. No weight changes, and
there are exactly as many logits as published.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...core.errors import MissingDependency, PreparationError, UnsupportedModel

__all__ = ["IMAGE", "UNUSED_PIECE", "chunkwise_tokenizer", "read_json", "sentencepiece_backend"]

IMAGE = "<image>"
UNUSED_PIECE = "<0x00>"


def chunkwise_tokenizer(folder: Path) -> Any:
    """The tokenizer of a LLaVA-like checkpoint, with `<image>` in the place of `<0x00>`.

    Raises:
        PreparationError: the folder has no tokenizer.
        MissingDependency: it is a tokenizer.model and sentencepiece or protobuf is not installed.
        UnsupportedModel: the vocabulary has no piece that could be the placeholder.
    """
    settings = read_json(folder / "tokenizer_config.json")
    base = sentencepiece_backend(folder)
    pipeline = json.loads(base.backend_tokenizer.to_str())
    legacy = settings.get("legacy") is not False
    _prepend_to_chunks(pipeline, legacy)
    _place(pipeline, UNUSED_PIECE, IMAGE)
    return finished(pipeline, base, legacy=legacy)


def sentencepiece_backend(folder: Path, **options: Any) -> Any:
    """transformers' reading of a Llama tokenizer: pieces, merges and special tokens.

    Raises:
        PreparationError, MissingDependency: as for `chunkwise_tokenizer`.
    """
    from transformers import LlamaTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        raise PreparationError(
            f"{folder} has no tokenizer (tokenizer.model or tokenizer.json). Download it into this folder."
        )
    if not (folder / "tokenizer.json").is_file():
        need_sentencepiece()
    return LlamaTokenizer.from_pretrained(str(folder), **options)


def need_sentencepiece() -> None:
    """Raise MissingDependency unless tokenizer.model files can be read."""
    from importlib.util import find_spec

    for package, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf")):
        try:
            found = find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            raise MissingDependency.of(package, "convert")


def finished(pipeline: dict[str, Any], base: Any, **other: Any) -> Any:
    """The pipeline as a tokenizer that transformers saves and loads as it is, with `base`'s special tokens."""
    from tokenizers import Tokenizer
    from transformers import TokenizersBackend

    special = {
        name: str(getattr(base, name))
        for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        if getattr(base, name) is not None
    }
    special.setdefault("pad_token", special.get("unk_token") or special["eos_token"])  # as the public code sets it
    return TokenizersBackend(
        tokenizer_object=Tokenizer.from_str(json.dumps(pipeline)),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **special,
        **other,
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file, or {} where there is none.

    Raises:
        PreparationError: it cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PreparationError(f"{path} cannot be read ({error}). Copy or download it again.") from error
    if not isinstance(found, dict):
        raise PreparationError(f"{path} does not hold one JSON object. Copy or download it again.")
    return found


def _prepend_to_chunks(pipeline: dict[str, Any], legacy: bool) -> None:
    """`▁` in front of every piece of text between special tokens (legacy), or between placeholders alone."""
    mark: dict[str, Any] = {"type": "Prepend", "prepend": "▁"}
    if not legacy:
        # Tokens that are matched in the normalised text do not end a chunk; those matched before it do.
        names = "|".join(_escaped(token["content"]) for token in pipeline["added_tokens"])
        mark = {"type": "Replace", "pattern": {"Regex": rf"\A(?!{names})"}, "content": "▁"}
        for token in pipeline["added_tokens"]:
            token["normalized"] = True
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    pipeline["normalizer"] = {"type": "Sequence", "normalizers": [mark, spaces]}
    pipeline["pre_tokenizer"] = None


def _escaped(text: str) -> str:
    return "".join(c if c.isalnum() else f"\\{c}" for c in text)


def _place(pipeline: dict[str, Any], piece: str, placeholder: str) -> None:
    vocabulary = pipeline["model"]["vocab"]
    if placeholder in vocabulary or any(token["content"] == placeholder for token in pipeline["added_tokens"]):
        raise UnsupportedModel(f"The checkpoint's vocabulary holds {placeholder} already, which LLaVA's does not.")
    if piece not in vocabulary:
        raise UnsupportedModel(
            f"The checkpoint's vocabulary has no piece {piece}, whose place {placeholder} would take: it is not one of "
            "Llama's kind."
        )
    index = vocabulary.pop(piece)
    vocabulary[placeholder] = index
    token = {"content": placeholder, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    pipeline["added_tokens"] = sorted(
        [*pipeline["added_tokens"], {"id": index, **token, "special": True}], key=lambda entry: entry["id"]
    )
