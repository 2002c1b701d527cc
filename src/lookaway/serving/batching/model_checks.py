"""Which models the batching worker serves: those whose answers it gives as `model.generate` would."""

from __future__ import annotations

import inspect
from typing import Any

from ...core.errors import UnsupportedModel

__all__ = ["check_model"]

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bad_words_ids": (None,), "begin_suppress_tokens": (None,), "encoder_repetition_penalty": (None, 1.0),
    "exponential_decay_length_penalty": (None,), "forced_bos_token_id": (None,), "forced_eos_token_id": (None,),
    "guidance_scale": (None, 1, 1.0), "min_length": (None, 0), "min_new_tokens": (None, 0),
    "no_repeat_ngram_size": (None, 0), "num_beams": (None, 1), "penalty_alpha": (None, 0, 0.0),
    "sequence_bias": (None,), "stop_strings": (None,), "suppress_tokens": (None,), "watermarking_config": (None,),
}  # fmt: skip
"""Settings of `generation_config` that change a greedy answer and are not carried out -> values that do nothing."""


def check_model(model: Any) -> None:
    """Raise UnsupportedModel where answers would not be those of `model.generate`."""
    _check_generation_config(model)
    _check_forward(model)


def _check_generation_config(model: Any) -> None:
    """Raise UnsupportedModel where the model's own generation settings ask for more than is carried out here."""
    for name, neutral in NEUTRAL.items():
        value = getattr(model.generation_config, name, None)
        if value not in neutral:
            raise UnsupportedModel(
                f"This model's generation_config sets {name}={value!r}, which the server does not carry out: its "
                f"answers would not be those of model.generate. Set model.generation_config.{name} = {neutral[0]!r} in "
                "the model's folder, or serve the model with `transformers serve`."
            )


def _check_forward(model: Any) -> None:
    """Raise UnsupportedModel where the model's forward lacks what decoding in batches hands over."""
    known = inspect.signature(type(model).forward).parameters
    missing = [name for name in ("position_ids", "past_key_values", "logits_to_keep") if name not in known]
    if missing:
        raise UnsupportedModel(
            f"{type(model).__name__}.forward takes no {', '.join(missing)}, so answers cannot be decoded in batches. "
            "Attach the policy in a service of your own instead (docs/service.md)."
        )
