"""Which token greedy generation takes: the most probable one, after what a model's own generation settings change.

A model's folder may ask for more than the most probable token: Qwen2.5-VL's ships `repetition_penalty` 1.05, Idefics'
rules out its picture tokens. Answers that are judged from one teacher-forced pass must be judged by the same rule, or
they are not those of `generate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import UnsupportedModel

__all__ = ["CHANGES_ANSWERS", "GreedyRule", "answer_places"]

CHANGES_ANSWERS: dict[str, tuple[Any, ...]] = {
    "encoder_repetition_penalty": (None, 1.0), "exponential_decay_length_penalty": (None,),
    "forced_bos_token_id": (None,), "forced_eos_token_id": (None,), "guidance_scale": (None, 1, 1.0),
    "min_length": (None, 0), "min_new_tokens": (None, 0), "no_repeat_ngram_size": (None, 0), "num_beams": (None, 1),
    "penalty_alpha": (None, 0, 0.0), "sequence_bias": (None,), "stop_strings": (None,), "watermarking_config": (None,),
}  # fmt: skip
"""Settings of `generation_config` that change a greedy answer, or where it ends, and that nothing here carries out ->
values that do nothing."""

NEUTRAL = {**CHANGES_ANSWERS, "prompt_lookup_num_tokens": (None,)}
"""The same of all that is not told from one pass."""


@dataclass(frozen=True)
class GreedyRule:
    """How a greedy token is chosen from logits."""

    repetition_penalty: float = 1.0
    """Logits of tokens that came before are divided by this, negative ones multiplied (arXiv 1909.05858)."""
    never: tuple[int, ...] = ()
    """Tokens that are never taken."""
    never_first: tuple[int, ...] = ()
    """Tokens that no answer begins with."""

    @classmethod
    def of(cls, model: Any) -> GreedyRule:
        """The rule of `model.generate(do_sample=False)`; a model without generation settings takes the likeliest.

        Raises:
            UnsupportedModel: its generation_config asks for something else too, such as beams.
        """
        config = getattr(model, "generation_config", None)

        def setting(name: str) -> Any:
            return getattr(config, name, None)

        words = setting("bad_words_ids") or []
        wrong = {name: setting(name) for name, values in NEUTRAL.items() if setting(name) not in values}
        if any(len(word) != 1 for word in words):
            wrong["bad_words_ids"] = words
        for name, value in wrong.items():
            raise UnsupportedModel(
                f"This model's generation_config sets {name}={value!r}, and whether a policy changes such an answer "
                f"cannot be told from one pass over it. Set it to {NEUTRAL.get(name, (None,))[0]!r}: in "
                "generation_config.json of the model's folder, or model.generation_config."
            )
        never = {*(setting("suppress_tokens") or ()), *(word[0] for word in words)}
        penalty = setting("repetition_penalty")
        first = setting("begin_suppress_tokens") or ()
        return cls(1.0 if penalty is None else float(penalty), tuple(sorted(never)), tuple(sorted(first)))

    @property
    def plain(self) -> bool:
        """It takes the likeliest token, whatever came before."""
        return self == GreedyRule()

    def tokens(self, logits: Tensor, ids: Tensor, columns: Tensor, real: Tensor) -> Tensor:
        """The greedy token at each place of teacher-forced answers, int64 [B, A].

        Args:
            logits: [B, A, vocabulary], at `columns`.
            ids: prompts and answers, int64 [B, S].
            columns: the column of `ids` behind which each token is chosen, int64 [B, A]: one after the other, and
                beyond the end of a shorter answer anything.
            real: columns that hold no padding, bool [B, S].
        """
        if self.plain:
            return logits.argmax(-1)
        rows, found = torch.arange(len(ids), device=logits.device), []
        places = torch.arange(ids.shape[1], device=ids.device)
        before = (places <= columns[:, :1]) & real  # [B, S]
        seen = torch.zeros(len(ids), logits.shape[-1], dtype=torch.bool, device=logits.device)
        for row in range(len(ids)):
            seen[row, ids[row][before[row]]] = True
        for place in range(columns.shape[1]):
            if place:
                seen[rows, ids[rows, columns[:, place]]] = True
            scores = logits[:, place]
            punished = torch.where(scores < 0, scores * self.repetition_penalty, scores / self.repetition_penalty)
            scores = torch.where(seen, punished, scores)
            scores[:, [*self.never, *(self.never_first if not place else ())]] = -torch.inf
            found.append(scores.argmax(-1))
        return torch.stack(found, 1)

    def flat(self, logits: Tensor, ids: Tensor, answers: Tensor, real: Tensor) -> Tensor:
        """The same of the answers of all rows one after the other, int64 [N].

        Args:
            logits: [N, vocabulary].
            answers: where `ids` holds answers, bool [B, S].
        """
        if self.plain:
            return logits.argmax(-1)
        where, there = answer_places(answers)
        padded = logits.new_zeros(*there.shape, logits.shape[-1])
        padded[there] = logits
        columns = torch.where(there, where, where[:, :1]) - 1
        return self.tokens(padded, ids, columns, real)[there]


def answer_places(answers: Tensor) -> tuple[Tensor, Tensor]:
    """Of answers bool [B, S]: the columns of each row's answer, int64 [B, A], and which of these are, bool [B, A]: rows
    with shorter answers have others behind theirs."""
    count = int(answers.sum(1).max())
    where = (~answers).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
    return where, answers.gather(1, where)
