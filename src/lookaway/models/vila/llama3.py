"""The text side of Llama-3-VILA1.5-8b: Llama 3's tokenizer, as its folder has it, and VILA's `llama_3` prompt.

The public code tokenises the text before and behind `<image>` separately. Llama 3's special tokens split a text before
anything else does, so the whole prompt at once, `<image>` being one of them, gives the same ids.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...core.errors import UnsupportedModel
from ..layouts.json_files import read_json
from ..layouts.tokenizing import finished, name_placeholder
from ..llava.assembly import TextSide

__all__ = ["is_llama3", "llama3_text"]

END = "<|eot_id|>"
RESERVED = re.compile(r"<\|reserved_special_token_(\d+)\|>")


def is_llama3(folder: Path) -> bool:
    """Whether the tokenizer in this folder is Llama 3's."""
    return END in _added(read_json(folder / "tokenizer.json"))


def llama3_text(folder: Path) -> TextSide:
    """Tokenizer, prompt form and end tokens.

    The last of the reserved special tokens, which stand in no text, is called `<image>`. The tokenizer has no
    `bos_token`: the prompt form writes one, and where the folder's tokenizer puts a second in front of it, so does the
    public code; whoever sees that a prompt begins with a `bos_token` leaves the second out.

    Raises:
        UnsupportedModel: no special token is reserved.
    """
    pipeline = read_json(folder / "tokenizer.json")
    numbers = [int(found.group(1)) for token in _added(pipeline) if (found := RESERVED.fullmatch(token))]
    if not numbers:
        raise UnsupportedModel(f"The tokenizer in {folder} has no reserved special token, whose place <image> takes.")
    name_placeholder(pipeline, f"<|reserved_special_token_{max(numbers)}|>")
    special: Any = SimpleNamespace(bos_token=None, eos_token=END, unk_token=None, pad_token=None)
    return TextSide(finished(pipeline, special), "llama_3", (END,))


def _added(pipeline: dict[str, Any]) -> list[str]:
    return [str(token["content"]) for token in pipeline.get("added_tokens", ())]
