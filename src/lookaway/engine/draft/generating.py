"""A model's `generate` that drafts, through transformers' assisted generation; what that cannot do is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from ...core.errors import UnsupportedModel
from ..generate_options import DRAFTING, GenerateOptions
from ..refusals import shadow
from .ahead import check_cache

__all__ = ["drafting_generate"]

WITHOUT = "Attach without draft= for it."
MODES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "num_beams": ("beam search keeps several answers, and a draft is of one", (1,)),
    "num_return_sequences": ("a draft is of one answer", (1,)),
    "penalty_alpha": ("contrastive search is no sampling that a draft could be checked by", (0, 0.0)),
    "dola_layers": ("DoLa reads earlier layers at each token", ()),
    "custom_generate": ("it brings a loop of its own", ()),
    **dict.fromkeys(DRAFTING, ("it drafts already", (False,))),
    "assistant_ensemble_weight": ("it changes the answers", ()),
    "use_cache": ("the checked tokens' keys and values must be kept", (True,)),
    "cache_implementation": ("guessed tokens are taken back out of the cache", ("dynamic", "dynamic_full")),
    "output_hidden_states": ("the first layers run before the others", (False,)),
    "output_attentions": ("the first layers run before the others", (False,)),
    "guidance_scale": ("it runs a second prompt beside each token", (1, 1.0)),
    "watermarking_config": ("a watermark keeps a state from token to token", ()),
    "stop_strings": ("a draft would run past it, and the answer with it", ()),
    "stopping_criteria": ("a draft would run past it, and the answer with it", ([],)),
    "synced_gpus": ("processes guess different numbers of tokens, and would wait for each other", (False,)),
}  # fmt: skip
"""Option of `generate` -> why it cannot be drafted with, and the values (beside None) that do no harm."""


def drafting_generate(
    model: Any, start: int, begin: Callable[[], Callable[[], None]], candidates: Callable[[Any, Any], Any]
) -> list[Callable[[], object]]:
    """Let `model.generate` draft; returns what takes that back, to be called in reverse order.

    transformers' own switch for early exit begins its assisted generation, which asks the model for its candidate
    generator.

    Args:
        start: K.
        begin: is called when `generate` begins; what it returns is called when that ends.
        candidates: (generation config, logits processors) -> the candidate generator; None: the usual one.
    """
    usual, usual_candidates = getattr(model, "generate", None), getattr(model, "_get_candidate_generator", None)
    if usual is None or usual_candidates is None:
        raise UnsupportedModel(f"{type(model).__name__} does not generate by transformers' loop, so nothing can draft.")

    attached = [True]

    @wraps(usual)
    def generate(*args: Any, **kwargs: Any) -> Any:
        if not attached:  # somebody has kept the method
            return usual(*args, **kwargs)
        _check(GenerateOptions(model, usual, args, kwargs), start)
        end = begin()
        try:
            return usual(*args, **{**kwargs, "assistant_early_exit": start})
        finally:
            end()

    def get_candidate_generator(*args: Any, **kwargs: Any) -> Any:
        return candidates(kwargs["generation_config"], kwargs["logits_processor"]) or usual_candidates(*args, **kwargs)

    return [
        attached.clear,
        shadow(model, "generate", generate),
        shadow(model, "_get_candidate_generator", get_candidate_generator),
    ]


def _check(options: GenerateOptions, start: int) -> None:
    """Refuse what transformers' assisted generation does not do, or what would not be the answer without a draft."""
    for name, (why, harmless) in MODES.items():
        value = options.value(name)
        if value is not None and value not in harmless:
            raise UnsupportedModel(f"generate({name}={_short(value)}) cannot be drafted: {why}. {WITHOUT}")
    given = [options.given.get(name) for name in ("inputs", "input_ids", "inputs_embeds")]
    tokens = next((found for found in given if found is not None), None)
    if isinstance(tokens, Tensor) and len(tokens) > 1:
        raise UnsupportedModel(
            f"A batch of {len(tokens)} rows cannot be drafted: transformers' assisted generation takes one row, since "
            f"each row would accept another number of tokens. Generate row by row. {WITHOUT}"
        )
    cache = options.given.get("past_key_values")
    if cache is None:
        return
    check_cache(cache, start)
    if options.earlier_tokens:
        raise UnsupportedModel(
            "A prompt behind the KV cache of earlier turns cannot be drafted: transformers' assisted generation would "
            f"run the whole conversation again behind it. Generate without past_key_values. {WITHOUT}"
        )


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, int | float | str) else type(value).__name__
