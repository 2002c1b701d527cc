"""In the front end: a prompt whose pictures have fewer placeholder tokens, because a policy drops the others before the
decoder.

For all that comes after it is a plain shorter prompt: scheduler, KV cache, chunks, prefix caching and CUDA graphs stay
as they are. A picture's identifier, by which vLLM caches what the vision tower made of it and the KV blocks behind it,
names the policy and all that its choice depends on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch

from ...core.decision import Policy
from ...core.layout import ImageSpan
from ...core.provenance import policy_digest
from .kept_counts import SIZES, WHOLE, kept_counts, reads
from .pictures import spans_of, visual_ranges

__all__ = ["MARK", "Marked", "is_marked", "marked", "shorten"]

MARK = "lookaway"


class Marked(NamedTuple):
    """What the identifier of a picture says that was shortened."""

    policy: str
    """Name of the policy."""
    picture: int
    """Which of the prompt's pictures it is."""
    lengths: list[int]
    """Visual tokens of all pictures of the prompt, before any was dropped."""

    @property
    def length(self) -> int:
        """Visual tokens of this picture, before any was dropped."""
        return self.lengths[self.picture]


def is_marked(feature: Any) -> bool:
    """Whether the identifier begins like those of `shorten`."""
    return feature.identifier.startswith(f"{MARK} ")


def marked(feature: Any) -> Marked | None:
    """What `shorten` did to this `MultiModalFeatureSpec`; None: nothing.

    Raises:
        ValueError: the identifier begins like ours, and is none.
    """
    return _read(feature.identifier) if is_marked(feature) else None


@lru_cache(maxsize=1024)
def _read(identifier: str) -> Marked:
    _, _, index, lengths, policy = json.loads(identifier.removeprefix(f"{MARK} "))[:5]
    return Marked(policy, index, lengths)


def shorten(
    request: Any,
    name: str,
    policy: Policy,
    num_layers: int,
    grid: tuple[int, int] | None,
    find_grid: Callable[[Any, int], tuple[int, int] | None],
    most_tokens: int,
) -> list[tuple[int, int]] | None:
    """Take out the placeholder tokens that the policy drops, in place.

    The answer may not be longer than behind the whole prompt: positions count what was dropped, too, and the model's
    end where they always did.

    Args:
        request: vLLM's `EngineCoreRequest` with pictures and nothing else in it.
        name: of the policy.
        grid: (rows, columns) of every picture, where they are all alike. find_grid: tells them of one picture.
        most_tokens: the server's `max_model_len`.

    Returns:
        Of each picture (visual tokens at first, those that are left); None where the policy cannot say how many stay,
        or would leave none of a picture. Then nothing was changed.
    """
    tokens, features = np.array(request.prompt_token_ids), request.mm_features
    ranges = [visual_ranges([feature]) for feature in features]
    visual = np.zeros(len(tokens), dtype=bool)
    for start, stop in (part for parts in ranges for part in parts):
        visual[start:stop] = True
    spans = _one_a_picture(spans_of(visual, features, grid, find_grid), ranges)
    counts = None if spans is None else kept_counts(policy, num_layers, spans)
    if spans is None or counts is None or 0 in counts:
        return None
    lengths = [span.length for span in spans]
    stay = np.ones(len(tokens), dtype=bool)
    for span, count in zip(spans, counts, strict=True):
        stay[span.start + count : span.start + span.length] = False
    place = np.concatenate([[0], stay.cumsum()])  # of each token in the shorter prompt
    choice = _choice(policy, lengths, tokens, features)
    for index, feature in enumerate(features):
        feature.identifier = f"{MARK} " + json.dumps([choice, feature.identifier, index, lengths, name])
        feature.mm_position = _shorter(feature.mm_position, stay, place)
    params = request.sampling_params
    params.max_tokens = min(params.max_tokens, max(most_tokens - len(tokens), 1))
    request.prompt_token_ids = tokens[stay].tolist()
    return list(zip(lengths, counts, strict=True))


def _one_a_picture(
    spans: Sequence[ImageSpan], ranges: Sequence[Sequence[tuple[int, int]]]
) -> tuple[ImageSpan, ...] | None:
    """The spans where each picture is exactly one of them; None where two pictures stand as one, or one as several."""
    whole = [(span.start, span.start + span.length) for span in spans]
    return tuple(spans) if [[part] for part in whole] == [list(parts) for parts in ranges] else None


def _choice(policy: Policy, lengths: Sequence[int], tokens: np.ndarray, features: Sequence[Any]) -> str:
    """A digest of the policy and of what its choice depends on beside the picture itself."""
    parts: list[Any] = [policy_digest(policy)]
    if reads(policy) == SIZES:
        parts.append(list(lengths))
    if reads(policy) == WHOLE:
        parts += [tokens.tolist(), [feature.identifier for feature in features]]
    return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _shorter(position: Any, stay: np.ndarray, place: np.ndarray) -> Any:
    """A `PlaceholderRange` in the shorter prompt."""
    inside = slice(position.offset, position.offset + position.length)
    is_embed = position.is_embed
    return replace(
        position,
        offset=int(place[inside.start]),
        length=int(stay[inside].sum()),
        is_embed=None if is_embed is None else is_embed[torch.from_numpy(stay[inside])],
    )
