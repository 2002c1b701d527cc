"""The next token of a row: greedy unless the request asks for sampling, with what the model's own settings add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UnsupportedModel
from .requests import Sampling

__all__ = ["TokenChooser", "check_generation_config", "end_tokens"]

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bad_words_ids": (None,), "begin_suppress_tokens": (None,), "encoder_repetition_penalty": (None, 1.0),
    "exponential_decay_length_penalty": (None,), "forced_bos_token_id": (None,), "forced_eos_token_id": (None,),
    "guidance_scale": (None, 1, 1.0), "min_length": (None, 0), "min_new_tokens": (None, 0),
    "no_repeat_ngram_size": (None, 0), "num_beams": (None, 1), "penalty_alpha": (None, 0, 0.0),
    "sequence_bias": (None,), "stop_strings": (None,), "suppress_tokens": (None,), "watermarking_config": (None,),
}  # fmt: skip
"""Settings of `generation_config` that change a greedy answer and are not carried out -> values that do nothing."""


def check_generation_config(model: Any) -> None:
    """Raise UnsupportedModel where the model's own generation settings ask for more than is carried out here."""
    for name, neutral in NEUTRAL.items():
        value = getattr(model.generation_config, name, None)
        if value not in neutral:
            raise UnsupportedModel(
                f"This model's generation_config sets {name}={value!r}, which the server does not carry out: its "
                f"answers would not be those of model.generate. Set model.generation_config.{name} = {neutral[0]!r} in "
                "the model's folder, or serve the model with `transformers serve`."
            )


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
