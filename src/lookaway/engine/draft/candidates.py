"""transformers' candidate generator that guesses with the model's own first layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.generation import CandidateGenerator
from transformers.generation.candidate_generator import (
    _prepare_attention_mask,
    _prepare_position_ids,
    _prepare_token_type_ids,
)

from ...anatomy.base import Anatomy
from ...core.draft import Draft
from ...core.errors import UnsupportedModel
from ..prefill.decoder_call import LayerCall
from .answer import DraftedAnswer

__all__ = ["GuessedTokens"]


class GuessedTokens(CandidateGenerator):
    """Guesses for one answer, as `GenerationMixin._assisted_decoding` asks for them.

    Sampled guesses are drawn from the same distribution whose logits are handed over, and where a draft ends depends
    on the guesses in it alone, never on one that was drawn and left out: so accepting and refusing as in speculative
    sampling leaves the model's own distribution.

    Args:
        config: the generation config in force; processors: its logits processors.
        logits: the guess behind the token that enters layer K in a call, [1, vocabulary].
        settled: is told of each check how many tokens were guessed and accepted.
    """

    requires_model_outputs = True
    model_kwargs_overrides: dict[str, Any] = {}  # noqa: RUF012  (transformers' name and form)

    def __init__(
        self,
        anatomy: Anatomy,
        draft: Draft,
        answer: DraftedAnswer,
        config: Any,
        processors: Any,
        logits: Callable[[DraftedAnswer, LayerCall], Tensor],
        settled: Callable[[DraftedAnswer, int, int], None],
    ) -> None:
        self._model: Any = anatomy.model
        self._layers = draft.start
        self._draft, self._answer = draft, answer
        self._samples, self._longest = bool(config.do_sample), int(config.max_length)
        self._ends = getattr(config, "_eos_token_tensor", None)
        self._processors, self._logits, self._settled = processors, logits, settled
        self._guesses: Tensor | None = None
        """The latest draft, the tokens in front of it included, [1, S + n]."""
        self._count = 0

    def get_candidates(
        self, input_ids: Tensor, model_kwargs: dict[str, Any], is_first_iteration: bool, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The tokens so far and guessed ones behind them, [1, S + n]; where it samples, also their logits [1, n, V]."""
        self._count = 0
        wanted = min(self._draft.tokens, self._longest - input_ids.shape[1] - 1)
        if is_first_iteration or wanted < 1:
            return input_ids, None
        self._answer.begin(model_kwargs["past_key_values"], self._layers)
        found: list[Tensor] = []
        ids = input_ids
        for _ in range(wanted):
            scores = self._next_scores(ids, model_kwargs)
            shares = scores.softmax(-1)
            token = torch.multinomial(shares, 1) if self._samples else shares.argmax(-1, keepdim=True)
            found.append(scores)
            ids = torch.cat([ids, token.to(ids.device)], 1)
            if self._is_last(token, shares):
                break
        self._answer.hand_over()
        self._guesses, self._count = ids, len(found)
        return ids, torch.stack(found, 1) if self._samples else None

    def update_candidate_strategy(self, input_ids: Tensor, scores: Tensor, num_matches: int) -> None:
        """What the model accepted of the guesses: those that `input_ids`, the tokens by now, go on with.

        `num_matches` leaves out an accepted end token, behind which transformers lets the next one go.
        """
        if not self._count:
            return
        assert self._guesses is not None
        count, first = self._count, self._guesses.shape[1] - self._count
        stays = input_ids[:, first : first + count].to(self._guesses.device)
        same = stays == self._guesses[:, first : first + stays.shape[1]]
        accepted = int(same.cumprod(1).sum())
        if self._answer.twig is not None:
            self._answer.twig.settle(count, accepted)
        self._settled(self._answer, count, accepted)

    def _next_scores(self, ids: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        """Processed logits of what comes behind `ids`, float32 [1, V]."""
        kwargs, length = copy.copy(model_kwargs), ids.shape[1]
        kwargs = _prepare_attention_mask(kwargs, length, False)
        kwargs = _prepare_token_type_ids(kwargs, length)
        if (positions := kwargs.get("position_ids")) is not None:
            ahead = len(self._answer.states)
            kwargs = _prepare_position_ids(kwargs, positions.shape[-1] + ahead, False)
        inputs = self._model.prepare_inputs_for_generation(
            ids, next_sequence_length=1, is_first_iteration=False, **kwargs
        )
        call = self._answer.guess(lambda: self._model(**inputs))
        if call is None:
            raise UnsupportedModel(
                f"Decoder layer {self._layers} did not run as a part of this answer, so nothing could be guessed "
                "before it. Detach when generate has ended, not while it runs."
            )
        scores = self._logits(self._answer, call).to(ids.device, torch.float32)  # processors live where the ids are
        processed: Tensor = self._processors(ids, scores) if self._processors else scores
        return processed

    def _is_last(self, token: Tensor, shares: Tensor) -> bool:
        """No guess follows this one: it ends the answer, or the guess at its place was unsure."""
        last = shares.amax(-1) < self._draft.confidence
        if self._ends is not None:
            last = last | torch.isin(token[:, 0], self._ends.to(token.device))
        return bool(last)
