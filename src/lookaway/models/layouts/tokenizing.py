"""Sentencepiece tokenizers that give the published ids, whole prompts at once.

The public LLaVA code splits a prompt at `<image>` and tokenises every chunk by itself, so each chunk begins with
sentencepiece's `▁` ("\\nWhat" is `▁`, newline, `What`). transformers gives that mark to the first chunk alone: one
token fewer. Both are ordinary `tokenizers` pipelines; the one made here prepends the mark to every chunk, in front of
spaces too, and is saved as tokenizer.json, which any transformers reads.

`legacy` (tokenizer_config.json; true where it is not said) is how the slow tokenizer went on behind a special token:
legacy, also the text behind `</s>` begins with the mark; otherwise only a chunk does. transformers 5 ignores it.

The placeholder is `<image>` in every layout and has an id inside the embedding table, because transformers embeds
`input_ids` before it replaces the image's places. LLaVA's tables have no row for it: instead of a new row (random, or
with a logit of 0 that can win), `<image>` takes the place of a piece that no text can produce, the byte piece `<0x00>`
of Llama's vocabularies. Where the table has a row of its own (`<IMG_CONTEXT>`), that one is called `<image>`. No weight
changes, and there are exactly as many logits as published.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from ...core.errors import MissingDependency, PreparationError, UnsupportedModel
from .json_files import read_json

__all__ = [
    "IMAGE",
    "UNUSED_PIECE",
    "byte_level_tokenizer",
    "chunkwise_tokenizer",
    "finished",
    "name_placeholder",
    "whole_tokenizer",
]

IMAGE = "<image>"
UNUSED_PIECE = "<0x00>"
INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": IMAGE,
    "video_token": "</img>",  # these models have none; this one stands in no prompt before pictures are put in
}
"""What transformers' InternVL processor asks its tokenizer for."""
Mark = Literal["pieces", "chunks", "none"]
"""Which texts begin with `▁`: each between special tokens, each between placeholders, or none."""


def chunkwise_tokenizer(folder: Path, legacy: bool | None = None) -> Any:
    """The tokenizer of a LLaVA-like checkpoint, with `<image>` in the place of `<0x00>`.

    Args:
        legacy: as the public loader says; None: as the folder says.

    Raises:
        PreparationError: the folder has no tokenizer.
        MissingDependency: it is a tokenizer.model and sentencepiece or protobuf is not installed.
        UnsupportedModel: the vocabulary has no piece that could be the placeholder.
    """
    base, pipeline = _sentencepiece(folder)
    if legacy is None:
        legacy = read_json(folder / "tokenizer_config.json").get("legacy") is not False
    _mark_texts(pipeline, "pieces" if legacy else "chunks", base.all_special_tokens)
    _place(pipeline, UNUSED_PIECE)
    return finished(pipeline, base)


def whole_tokenizer(folder: Path, placeholder: str, mark: bool, end: str) -> Any:
    """A sentencepiece tokenizer for code that tokenises the whole prompt at once, the placeholder's id inside it.

    Args:
        placeholder: the added token that stands for a visual token; it is called `<image>` from here on.
        mark: texts begin with `▁` where the slow tokenizer puts one; False: never (InternLM2).
        end: the token that ends an answer.

    Raises:
        PreparationError, MissingDependency, UnsupportedModel: as for `chunkwise_tokenizer`.
    """
    base, pipeline = _sentencepiece(folder)
    settings = read_json(folder / "tokenizer_config.json")
    _add_published_tokens(pipeline, settings)
    legacy = settings.get("legacy") is not False
    kind: Mark = ("pieces" if legacy else "chunks") if mark else "none"
    name_placeholder(pipeline, placeholder)
    _mark_texts(pipeline, kind, [IMAGE if token == placeholder else token for token in base.all_special_tokens])
    return finished(pipeline, base, end, extra_special_tokens=INTERNVL_TOKENS)


def byte_level_tokenizer(folder: Path, placeholder: str, end: str) -> Any:
    """A byte-level tokenizer (Qwen2), as transformers reads it, with its placeholder called `<image>`.

    Raises:
        PreparationError: the folder has no tokenizer.
        UnsupportedModel: it has no such placeholder.
    """
    from transformers import Qwen2Tokenizer

    if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise PreparationError(f"{folder} has no tokenizer (vocab.json or tokenizer.json). Download it too.")
    base = Qwen2Tokenizer.from_pretrained(str(folder))
    pipeline = json.loads(base.backend_tokenizer.to_str())
    name_placeholder(pipeline, placeholder)
    return finished(pipeline, base, end, extra_special_tokens=INTERNVL_TOKENS)


def _sentencepiece(folder: Path) -> tuple[Any, dict[str, Any]]:
    """transformers' reading of a tokenizer.model (pieces, merges, special tokens), and its pipeline."""
    from transformers import LlamaTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        raise PreparationError(
            f"{folder} has no tokenizer (tokenizer.model or tokenizer.json). Download it into this folder."
        )
    if not (folder / "tokenizer.json").is_file():
        _need_sentencepiece()
    model = read_json(folder / "tokenizer.json").get("model") or {"byte_fallback": True}
    if not model.get("byte_fallback"):
        raise UnsupportedModel(
            f"{folder}/tokenizer.json is not sentencepiece's kind (its model has no byte_fallback), as Llama 2's is; "
            "Llama 3's is read in VILA 1.5 alone."
        )
    base = LlamaTokenizer.from_pretrained(str(folder))
    pipeline = json.loads(base.backend_tokenizer.to_str())
    begin = str(base.bos_token) if read_json(folder / "tokenizer_config.json").get("add_bos_token", True) else None
    pipeline["post_processor"] = _beginning(begin, base.bos_token_id)
    return base, pipeline


def _beginning(token: str | None, index: int) -> dict[str, Any]:
    """The slow tokenizers' one special token: the beginning of the text, unless the config says no."""
    first = [] if token is None else [{"SpecialToken": {"id": token, "type_id": 0}}]
    second = [] if token is None else [{"SpecialToken": {"id": token, "type_id": 1}}]
    return {
        "type": "TemplateProcessing",
        "single": [*first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [*first, {"Sequence": {"id": "A", "type_id": 0}}, *second, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {} if token is None else {token: {"id": token, "ids": [index], "tokens": [token]}},
    }


def _need_sentencepiece() -> None:
    from importlib.util import find_spec

    for package, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf")):
        try:
            found = find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            raise MissingDependency.of(package, "convert")


def _mark_texts(pipeline: dict[str, Any], mark: Mark, special: list[str]) -> None:
    """Put `▁` where the slow tokenizer puts it. `special`: in front of these a chunk has none."""
    normalizer: dict[str, Any] | None = None
    if mark == "pieces":
        normalizer = {"type": "Prepend", "prepend": "▁"}
    elif mark == "chunks":
        # Tokens that are matched in the normalised text do not end a chunk; those matched before it do. The tokens
        # themselves go through the normaliser too and must come out as they are.
        tokens = pipeline["added_tokens"]
        whole = "|".join(_escaped(token["content"]) for token in tokens)
        first = "|".join(_escaped(token) for token in special)
        normalizer = {"type": "Replace", "pattern": {"Regex": rf"\A(?!{first}|(?:{whole})\z)"}, "content": "▁"}
        for token in tokens:
            token["normalized"] = True
    pipeline["normalizer"] = normalizer
    pipeline["pre_tokenizer"] = {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False
    }  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(c if c.isalnum() else f"\\{c}" for c in text)


def _add_published_tokens(pipeline: dict[str, Any], settings: dict[str, Any]) -> None:
    """The tokens of tokenizer_config.json with their own flags. One may rename a piece of the vocabulary."""
    vocabulary = pipeline["model"]["vocab"]
    pieces = {index: piece for piece, index in vocabulary.items()}
    tokens = {token["id"]: token for token in pipeline["added_tokens"]}
    for key, token in settings.get("added_tokens_decoder", {}).items():
        index = int(key)
        if index in pieces and pieces[index] != token["content"]:
            vocabulary[token["content"]] = vocabulary.pop(pieces[index])
        flags = {name: bool(token.get(name)) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        tokens[index] = {"id": index, "content": token["content"], **flags}
    pipeline["added_tokens"] = [tokens[index] for index in sorted(tokens)]


def _place(pipeline: dict[str, Any], piece: str) -> None:
    """`<image>` in the place of a piece of the vocabulary."""
    vocabulary = pipeline["model"]["vocab"]
    if IMAGE in vocabulary or any(token["content"] == IMAGE for token in pipeline["added_tokens"]):
        raise UnsupportedModel(f"The checkpoint's vocabulary holds {IMAGE} already, which LLaVA's does not.")
    if piece not in vocabulary:
        raise UnsupportedModel(
            f"The checkpoint's vocabulary has no piece {piece}, whose place {IMAGE} would take: it is not one of "
            "Llama's kind."
        )
    index = vocabulary.pop(piece)
    vocabulary[IMAGE] = index
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    pipeline["added_tokens"] = sorted(
        [*pipeline["added_tokens"], {"id": index, "content": IMAGE, **flags}], key=lambda token: token["id"]
    )


def name_placeholder(pipeline: dict[str, Any], placeholder: str) -> None:
    """Give an added token the name `<image>`."""
    found = [token for token in pipeline["added_tokens"] if token["content"] == placeholder]
    if not found:
        raise UnsupportedModel(f"The checkpoint's tokenizer has no token {placeholder}, which its prompts need.")
    found[0]["content"] = IMAGE
    vocabulary = pipeline["model"]["vocab"]
    if placeholder in vocabulary:
        vocabulary[IMAGE] = vocabulary.pop(placeholder)


def finished(pipeline: dict[str, Any], base: Any, end: str | None = None, **other: Any) -> Any:
    """The pipeline as a tokenizer that transformers saves and loads as it is, with `base`'s special tokens."""
    from tokenizers import Tokenizer
    from transformers import TokenizersBackend

    special = {
        name: str(getattr(base, name))
        for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        if getattr(base, name) is not None
    }
    special.setdefault("pad_token", special.get("unk_token") or special["eos_token"])  # as the public code sets it
    if end is not None:
        if end not in pipeline["model"]["vocab"] and all(end != t["content"] for t in pipeline["added_tokens"]):
            raise UnsupportedModel(
                f"The checkpoint's tokenizer has no {end}, which ends the answers of its prompt form. Give another "
                "--conversation."
            )
        special["eos_token"] = end
    return TokenizersBackend(
        tokenizer_object=Tokenizer.from_str(json.dumps(pipeline)),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **special,
        **other,
    )
