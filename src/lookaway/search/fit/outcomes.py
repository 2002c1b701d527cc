"""What a policy does on each sample: is the answer the same, how sure was the first token, what did each layer process.
`sample_runs.py` finds it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.cost import DecoderShape

__all__ = ["Outcomes"]


@dataclass(frozen=True)
class Outcomes:
    """One policy on N samples."""

    same: NDArray[np.bool_]  # [N]
    """The answer is the full model's, token by token."""
    sure: NDArray[np.float64]  # [N]
    """Confidence of the first answer token."""
    visual: NDArray[np.int64]  # [N, L]
    """Visual tokens that each layer processed."""
    text: NDArray[np.int64]  # [N]
    """Text tokens of the prompt."""
    loss: NDArray[np.float64]  # [N]
    """How far the score falls below the full model's, in [0, 1]; all 0 where no score is asked for."""
    more_flops: NDArray[np.int64]  # [N]
    """FLOPs beside those of whole layers over these tokens; below 0 where attention is skipped or tokens are frozen."""
    more_bytes: NDArray[np.int64]  # [N]
    """The same of the bytes that the KV cache holds."""

    @classmethod
    def of_layers(cls, same: Any, sure: Any, visual: Any, text: Any) -> Outcomes:
        """Of whole layers, and without scores."""
        none = np.zeros(len(same), dtype=np.int64)
        return cls(same, sure, visual, text, none.astype(np.float64), none, none)

    def __len__(self) -> int:
        return len(self.same)

    def flops(self, shape: DecoderShape, start: int = 0) -> NDArray[np.int64]:
        """Counted FLOPs of each sample's decoder prefill from layer `start` on, int64 [N]."""
        return self._sum(lambda tokens, layer: shape.layer_flops(tokens, layer=layer), start) + self.more_flops

    def kv(self, shape: DecoderShape) -> NDArray[np.int64]:
        """Bytes that the KV cache holds after prefill, summed over layers, int64 [N]."""
        return self._sum(shape.kv_bytes, 0) + self.more_bytes

    def _sum(self, cost: Callable[[int, int], int], start: int) -> NDArray[np.int64]:
        """`cost` of (tokens, layer) summed over the layers from `start` on, int64 [N]; each size is asked for once."""
        tokens = self.visual[:, start:] + self.text[:, None]
        sizes, place = np.unique(tokens, return_inverse=True)
        layers = range(start, start + tokens.shape[1])
        costs = np.array([[cost(int(size), layer) for size in sizes] for layer in layers], dtype=np.int64)
        return costs[np.arange(tokens.shape[1]), place.reshape(tokens.shape)].sum(1)

    def followed_by(self, more: Outcomes) -> Outcomes:
        """The same policy on these samples and then on those."""
        return Outcomes(*(np.concatenate([getattr(self, f.name), getattr(more, f.name)]) for f in fields(Outcomes)))

    def to_plain(self) -> dict[str, Any]:
        """As JSON takes it, for the trial log."""
        return {
            "same": self.same.astype(int).tolist(),
            "sure": self.sure.tolist(),  # to the bit: a rounded one may be on the other side of a threshold
            "visual": self.visual.tolist(),
            "text": self.text.tolist(),
            "loss": self.loss.tolist(),
            "more_flops": self.more_flops.tolist(),
            "more_bytes": self.more_bytes.tolist(),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Outcomes:
        return cls(
            np.array(plain["same"], dtype=bool),
            np.array(plain["sure"], dtype=np.float64),
            np.array(plain["visual"], dtype=np.int64),
            np.array(plain["text"], dtype=np.int64),
            np.array(plain["loss"], dtype=np.float64),
            np.array(plain["more_flops"], dtype=np.int64),
            np.array(plain["more_bytes"], dtype=np.int64),
        )
