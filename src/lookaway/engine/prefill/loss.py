"""A model's own loss on the columns that are left: labels come at the prompt's full length, logits are shorter."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["loss_on_kept_columns"]

IGNORED = -100


def loss_on_kept_columns(
    model: Any, columns: Callable[[], tuple[Tensor, Tensor] | None], narrowed: bool
) -> Callable[[], None]:
    """Let `model(labels=...)` compare what is left with what is left.

    A kept column predicts the next kept one, as in a prompt that never held the others. Labels of columns that left,
    and of the first of each row, are not counted.

    Args:
        columns: answers `(index [B, K], valid [B, K])` for the prompt that just ran; None where nothing left.
        narrowed: the logits are of these columns; else they have the prompt's full length (`la.reference`).

    Returns:
        What puts the model's loss back.
    """
    if not hasattr(type(model), "loss_function"):
        return lambda: None
    if not _asks_its_loss_function(model):
        return _instead_of_inline(model, columns, narrowed)
    usual, own = model.loss_function, "_loss_function" in vars(model)

    def loss(logits: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Any:
        kept = columns()
        if kept is not None:
            logits, labels, _ = _left(kept, logits, labels, None, narrowed)
        return usual(logits, labels, *args, **kwargs)

    def put_back() -> None:
        if own:
            model.loss_function = usual
        else:
            vars(model).pop("_loss_function", None)

    model.loss_function = loss
    return put_back


def _asks_its_loss_function(model: Any) -> bool:
    forwards = [inspect.unwrap(vars(kind)["forward"]) for kind in type(model).__mro__ if "forward" in vars(kind)]
    return any("loss_function" in code.co_names for f in forwards if (code := getattr(f, "__code__", None)))


def _left(
    kept: tuple[Tensor, Tensor], logits: Tensor, labels: Tensor, mask: Tensor | None, narrowed: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits [B, K, V], labels [B, K] and attention mask [B, K] of the kept columns."""
    index, valid = (part.to(labels.device) for part in kept)
    if not narrowed:
        logits = logits.gather(1, index.to(logits.device)[..., None].expand(-1, -1, logits.shape[-1]))
    predicted = valid & torch.nn.functional.pad(valid, (1, -1))  # padding predicts nothing
    labels = labels.gather(1, index).masked_fill(~predicted, IGNORED)
    return logits, labels, None if mask is None else mask.to(index.device).gather(1, index)


def _instead_of_inline(
    model: Any, columns: Callable[[], tuple[Tensor, Tensor] | None], narrowed: bool
) -> Callable[[], None]:
    """For a model that compares labels and logits inside its `forward` (Gemma 3 in transformers 5.16): the labels are
    kept from it, and compared here in the same way."""
    here = threading.local()  # each thread's call has labels of its own

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        here.labels = kwargs.get("labels")
        return None if here.labels is None else (args, {**kwargs, "labels": None})

    def after(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        labels, here.labels = getattr(here, "labels", None), None
        if labels is None:
            return None
        logits, mask = output[0], kwargs.get("attention_mask")
        kept = columns()
        if kept is not None:
            logits, labels, mask = _left(kept, logits, labels, mask, narrowed)
        logits, labels = logits.float()[:, :-1], labels[:, 1:].to(logits.device)
        if mask is not None:
            real = mask[:, -logits.shape[1] :].to(logits.device) != 0
            logits, labels = logits[real], labels[real]
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
        if isinstance(output, tuple):
            return (loss, *output)
        output.loss = loss
        return output

    hooks = [
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after, with_kwargs=True),
    ]

    def put_back() -> None:
        for hook in hooks:
            hook.remove()

    return put_back
