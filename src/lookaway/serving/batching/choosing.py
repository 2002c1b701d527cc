"""The next token of a row: greedy unless the request asks for sampling, with what the model's own settings add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .requests import Sampling

__all__ = ["TokenChooser", "end_tokens"]


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer, as `model.generate` sees them; without any, the tokenizer's."""
    end = model.generation_config.eos_token_id
    found = [end] if isinstance(end, int) else list(end or ())
    return frozenset(found or [token for token in (tokenizer.eos_token_id,) if token is not None])


class TokenChooser:
    """Chooses the tokens of one request, one after the other."""

    def __init__(self, sampling: Sampling, repetition_penalty: float | None = None) -> None:
        from transformers import (
            LogitsProcessorList,
            RepetitionPenaltyLogitsProcessor,
            TemperatureLogitsWarper,
            TopPLogitsWarper,
        )

        self._processors = LogitsProcessorList()
        if repetition_penalty not in (None, 1.0):
            self._processors.append(RepetitionPenaltyLogitsProcessor(penalty=repetition_penalty))
        self._samples = sampling.temperature > 0
        if self._samples:
            self._processors.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_p < 1:
                self._processors.append(TopPLogitsWarper(sampling.top_p))
        self._sampling = sampling
        self._generator: torch.Generator | None = None

    @property
    def plain(self) -> bool:
        """The likeliest token, whatever came before."""
        return not self._processors

    def choose(self, logits: Tensor, tokens: Sequence[int]) -> int:
        """The next token.

        Args:
            logits: [vocabulary].
            tokens: prompt and answer so far.
        """
        scores = logits[None].float()
        if self._processors:
            scores = self._processors(torch.tensor([tokens], device=logits.device), scores)
        if not self._samples:
            return int(scores[0].argmax())
        if self._generator is None:
            self._generator = torch.Generator(logits.device)
            if self._sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self._sampling.seed)
        return int(torch.multinomial(scores[0].softmax(0), 1, generator=self._generator))
