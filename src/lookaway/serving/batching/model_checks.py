"""Which models the batching worker serves: those whose answers it gives as `model.generate` would."""

from __future__ import annotations

import inspect
from typing import Any

from ...core.errors import UnsupportedModel
from ...core.greedy import CHANGES_ANSWERS

__all__ = ["carried_outputs", "check_model"]

NEUTRAL = CHANGES_ANSWERS | dict.fromkeys(("bad_words_ids", "begin_suppress_tokens", "suppress_tokens"), (None,))
"""Settings of `generation_config` that change a greedy answer and are not carried out -> values that do nothing."""


CARRY_NOTHING = ("PaliGemmaForConditionalGeneration",)
"""Classes that have a `_update_model_kwargs_for_generation` of their own from which decoding behind a prompt needs
nothing (tests/serving/batching/test_worker.py runs them)."""


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
    """Raise UnsupportedModel where decoding in batches would leave something out of a step."""
    kind = type(model)
    known = inspect.signature(kind.forward).parameters
    missing = [name for name in ("position_ids", "past_key_values", "logits_to_keep") if name not in known]
    reason = f"{kind.__name__}.forward takes no {', '.join(missing)}" if missing else ""
    own = not _inherits(kind, "_update_model_kwargs_for_generation")
    if own and kind.__name__ not in CARRY_NOTHING and not carried_outputs(model):
        reason = f"{kind.__name__} hands values of its own from token to token"
    if reason:
        raise UnsupportedModel(
            f"{reason}, so answers cannot be decoded in batches. Attach the policy in your own service instead "
            "(docs/service.md)."
        )


def carried_outputs(model: Any) -> tuple[str, ...]:
    """Outputs of a forward that the forward of every later token takes again, by name; models of ours say so."""
    return getattr(type(model), "carried_outputs", ())


def _inherits(kind: type, method: str) -> bool:
    from transformers import GenerationMixin

    return getattr(kind, method) is getattr(GenerationMixin, method)
