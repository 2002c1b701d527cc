"""Which tokens lie in which blocks of a KV cache that leaves out the visual ones, and what a block is cached under.

vLLM chains a hash over each block of a prompt, pictures included. In a group without visual tokens a block holds other
tokens than the prompt's block of the same number: it is known by the hash of the prompt's block in which its last token
stands, and by its own number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["CompactBlocks"]


@dataclass(frozen=True)
class CompactBlocks:
    """The blocks of one request."""

    left_out: Sequence[tuple[int, int]]
    """[(first, last + 1)] of the prompt's tokens that the layers never hold, ascending. Empty: they hold all."""
    size: int
    """Tokens of a block."""

    def held(self, tokens: int) -> int:
        """How many of the request's first `tokens` tokens the layers hold."""
        return tokens - sum(max(min(stop, tokens) - start, 0) for start, stop in self.left_out)

    def written(self, end: int) -> range:
        """Numbers of the blocks that hold a token of the prompt's block that ends at `end`, a multiple of `size`."""
        before, after = self.held(end - self.size), self.held(end)
        return range(before // self.size, -(-after // self.size)) if before < after else range(0)

    def end(self, held: int) -> int:
        """Where the prompt's block ends in which the last of the first `held` tokens that are held stands."""
        place = held - 1
        for start, stop in self.left_out:
            if place >= start:
                place += stop - start
        return -(-(place + 1) // self.size) * self.size

    def key(self, prompt_hash: bytes, end: int, number: int) -> bytes:
        """What block `number` is cached under.

        Where no token was left out before `end`, all layouts agree, and so do their keys.

        Args:
            prompt_hash: vLLM's, of the prompt's block that ends at `end`; all have the same length.
        """
        return prompt_hash + number.to_bytes(4, "big") + (b"compact" if self.held(end) < end else b"")

    def __post_init__(self) -> None:
        assert all(start < stop for start, stop in self.left_out)
        assert all(first[1] <= second[0] for first, second in pairwise(self.left_out))
