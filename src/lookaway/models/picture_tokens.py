"""How many tokens a prompt with one picture has, as the model's own processor makes it; no weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..core.errors import PreparationError
from ..core.record import Sample
from .encoding import encode
from .loading import load_processor

__all__ = ["QUESTION", "SIZE", "PromptTokens", "prompt_tokens"]

SIZE = (640, 480)
"""Width and height of the picture, an ordinary photograph's shape: many processors make more tokens of a larger one."""
QUESTION = "What is in the picture?"


@dataclass(frozen=True)
class PromptTokens:
    """Tokens of one prompt."""

    visual: int
    text: int
    """All others: the question, the chat template, marks around the picture."""


def prompt_tokens(
    path_or_id: str | Path, *, vision_tower: str | Path | None = None, conversation: str | None = None
) -> PromptTokens:
    """Tokens of a short question about a picture of `SIZE`.

    Args:
        path_or_id, vision_tower, conversation: as for `load_model`.

    Raises:
        PreparationError: the processor cannot be loaded, or it does not say which tokens are the picture's.
        DataError: it refuses the prompt.
    """
    config, processor = load_processor(path_or_id, vision_tower=vision_tower, conversation=conversation)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    picture = Image.new("RGB", SIZE, (127, 127, 127))
    sample = Sample(id="0", messages=[{"role": "user", "content": content}], images=(picture,))
    ids = encode(processor, [sample]).inputs["input_ids"]
    token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    visual = int((ids == token).sum()) if token is not None else 0
    if visual < 2:  # a mark that the model itself replaces by the picture's states
        raise PreparationError(f"The processor of {path_or_id} does not say how many tokens a picture becomes.")
    return PromptTokens(visual, ids.shape[1] - visual)
