"""A model's own loss on the columns that are left: labels come at the prompt's full length, logits are shorter."""

from __future__ import annotations

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
        narrowed: the logits are of these columns; else they have the prompt's full length (the slow twin).

    Returns:
        What puts the model's loss back.
    """
    if not hasattr(type(model), "loss_function"):
        return lambda: None
    usual, own = model.loss_function, "_loss_function" in vars(model)

    def loss(logits: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Any:
        kept = columns()
        if kept is not None:
            index, valid = (part.to(labels.device) for part in kept)
            if not narrowed:
                logits = logits.gather(1, index.to(logits.device)[..., None].expand(-1, -1, logits.shape[-1]))
            predicted = valid & torch.nn.functional.pad(valid, (1, -1))  # padding predicts nothing
            labels = labels.gather(1, index).masked_fill(~predicted, IGNORED)
        return usual(logits, labels, *args, **kwargs)

    def put_back() -> None:
        if own:
            model.loss_function = usual
        else:
            vars(model).pop("_loss_function", None)

    model.loss_function = loss
    return put_back
