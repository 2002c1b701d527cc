"""What cannot be done right is refused, with what to do instead: never a silent no-op."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import nn

from ..anatomy.base import Anatomy
from ..core.errors import UnsupportedModel
from .generate_options import GenerateOptions

__all__ = [
    "check_held",
    "check_not_compiled",
    "check_run",
    "check_second_look",
    "refuse_flash",
    "shadow",
    "watch_generate",
]  # fmt: skip


def check_second_look(whole: bool, later_turn: bool) -> None:
    """Refuse what a second look cannot do: record inner outputs of both passes, or a later turn with images."""
    if whole:
        raise UnsupportedModel(
            "output_hidden_states and output_attentions would show the first pass of rows that look again. Attach one "
            "of the second look's policies alone: la.attach(model, policy.first)."
        )
    if later_turn:
        raise UnsupportedModel(
            "A second look is for a prompt at the start of its KV cache; this one comes behind earlier turns. Give the "
            "whole conversation as one prompt, or attach one of its policies alone: la.attach(model, policy.first)."
        )


def check_held(model: Any) -> None:
    """Refuse gradient checkpointing of layers that hold visual tokens: a backward pass would run them whole."""
    if torch.is_grad_enabled() and getattr(model, "is_gradient_checkpointing", False):
        raise UnsupportedModel(
            "Gradient checkpointing runs a layer again without what a policy that freezes visual tokens needs there. "
            "Train without it: model.gradient_checkpointing_disable()."
        )


def check_not_compiled(model: Any, anatomy: Anatomy) -> None:
    """Refuse what torch.compile'd the decoder, any part of it or anything around it, before anything is attached.

    A compiled vision tower is none of the decoder's business, and is left alone.
    """
    for name, part in _around_and_in_decoder(model, anatomy):
        if _is_compiled(part):
            where = f"{type(model).__name__}{f'.{name}' if name else ''}"
            raise UnsupportedModel(
                f"{where} is compiled (torch.compile): its graphs fix how many tokens each layer sees, and "
                "hooks added later would not run. Attach to the model as it was loaded."
            )


def _around_and_in_decoder(model: Any, anatomy: Anatomy) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of the layers, what is inside them, and what they are inside of."""
    inside = {id(part) for layer in anatomy.layers for part in layer.modules()}
    for root in (model, anatomy.model):
        if not isinstance(root, nn.Module):
            continue
        for name, part in root.named_modules(remove_duplicate=False):
            if id(part) in inside or any(id(child) in inside for child in part.modules()):
                yield name, part


def _is_compiled(part: nn.Module) -> bool:
    """As a wrapper, in place, or by a compiled function in place of its `forward`."""
    if "_orig_mod" in part._modules or getattr(part, "_compiled_call_impl", None) is not None:
        return True
    return hasattr(getattr(part, "forward", None), "_torchdynamo_orig_callable")


def watch_generate(
    model: Any, whole_prompt: bool, eager: bool, ended: Callable[[], object] | None = None
) -> Callable[[], object]:
    """Let `model.generate` refuse or leave out what an attached policy cannot do; returns what takes that back.

    transformers' own drafting (prompt lookup, an assistant) behind a filled KV cache is refused too: it runs the whole
    conversation again behind what the cache holds, and answers something else without an error (5.23).

    Args:
        whole_prompt: `prefill_chunk_size` is refused before the first chunk runs: a policy that decides in the first
            chunk would not know the question.
        eager: decoding is not compiled by itself, as transformers does on a GPU with a static cache.
        ended: is called when a generation has ended, also by an error.
    """
    usual = getattr(model, "generate", None)
    if usual is None:
        return lambda: None

    @wraps(usual)
    def generate(*args: Any, **kwargs: Any) -> Any:
        options = GenerateOptions(model, usual, args, kwargs)
        size, drafting = options.value("prefill_chunk_size"), options.drafting
        if whole_prompt and size is not None:
            raise UnsupportedModel(
                f"prefill_chunk_size={size} cuts the prompt into pieces, and the attached policy decides about the "
                "whole prompt. Generate without it: generate(..., prefill_chunk_size=None)."
            )
        if drafting is not None and options.earlier_tokens:
            raise UnsupportedModel(
                f"generate({drafting}=...) behind the KV cache of earlier turns ({options.earlier_tokens} tokens): "
                "transformers' assisted generation would run the whole conversation again behind them. Give the "
                f"conversation as one prompt, without past_key_values; or generate without {drafting}."
            )
        if eager:
            kwargs["disable_compile"] = True
        try:
            return usual(*args, **kwargs)
        finally:
            if ended is not None:
                ended()

    return shadow(model, "generate", generate)


def shadow(model: Any, name: str, method: Any) -> Callable[[], object]:
    """Let the model itself answer for `name`, in front of its class; returns what puts back what was there."""
    own, before = name in vars(model), vars(model).get(name)
    setattr(model, name, method)

    def put_back() -> None:
        if own:
            setattr(model, name, before)
        else:
            vars(model).pop(name, None)

    return put_back


def check_run(attention: str, cache: Any, has_windows: bool) -> None:
    """Refuse a forward whose cache must be as long in every layer, or whose kernel counts what is stored."""
    if has_windows and "flash" in attention:
        raise UnsupportedModel(
            f"{attention!r} counts the tokens that are left where this decoder's sliding windows count places in the "
            "whole prompt. Load the model with attn_implementation='sdpa' or 'eager'."
        )
    if attention.startswith("paged"):
        raise UnsupportedModel(
            f"Continuous batching (attention {attention!r}) keeps one table of cache pages for all layers, so no layer "
            "can hold fewer tokens than another. Use model.generate(...), whose cache is a layer's own."
        )
    if getattr(cache, "is_compileable", False):
        raise UnsupportedModel(
            f"{type(cache).__name__} has a fixed size in every layer, so tokens cannot leave it. Use the default "
            "dynamic cache: generate(..., cache_implementation=None)."
        )


def refuse_flash(attention: str) -> None:
    """Refuse FlashAttention where a decoder as a whole gets a shorter prompt at its original positions.

    transformers hands it positions and no mask, and takes positions that jump for several sequences packed into one.
    """
    if "flash" in attention:
        raise UnsupportedModel(
            f"{attention!r} reads the gaps that visual tokens leave in the positions as borders between sequences on "
            "this model. Load it with attn_implementation='sdpa' or 'eager'."
        )
