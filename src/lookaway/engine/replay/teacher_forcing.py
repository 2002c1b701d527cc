"""The loss of given answers under a policy: what tuning, adapters and searches learn from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...core.decision import Policy
from ...core.errors import DataError
from ..api import attach
from ..handle import Handle
from .exit_table import EncodedBatch

__all__ = ["answer_logits", "answer_loss", "attached_loss", "frozen"]


def answer_loss(model: Any, batch: EncodedBatch, policy: Policy) -> Tensor:
    """Mean cross-entropy of the answer tokens while `policy` is attached.

    Computed here because removal shortens the logits; answers follow text, so no column that leaves stands between a
    kept column and the answer token that it predicts.

    With gradient checkpointing and skipped attention, layers run again in the backward pass and must find the policy
    still attached: attach it, and take `attached_loss`.

    Args:
        model: without a policy attached.
        batch: left-padded, encoded with answers.

    Raises:
        DataError: the batch has no answers.
    """
    with attach(model, policy) as attached:
        return attached_loss(model, attached, batch)


def attached_loss(model: Any, attached: Handle, batch: EncodedBatch) -> Tensor:
    """The same while a policy is attached already; it stays so."""
    logits, targets = answer_logits(model, attached, batch)
    return torch.nn.functional.cross_entropy(logits.float(), targets)


def answer_logits(model: Any, attached: Handle, batch: EncodedBatch) -> tuple[Tensor, Tensor]:
    """Logits [N, vocabulary] that predict the N answer tokens of all rows, in order, and those tokens int64 [N]."""
    answers, ids = batch.answer_mask, batch.inputs["input_ids"]
    if answers is None:
        raise DataError("There are no encoded answers: encode(processor, samples, device, answers=[...]).")
    first = int(answers.any(0).to(torch.uint8).argmax())
    needed = ids.shape[1] - first + 1  # from the last prompt column on
    with attached.answer_columns(answers):
        logits = model(**batch.inputs, use_cache=False, logits_to_keep=needed).logits  # [B, needed, vocabulary]
    index, valid = (part[:, -needed:] for part in attached.kept_columns())  # slot j stands for column index[row, j]
    counts = (answers.gather(1, index) & valid)[:, 1:]
    return logits[:, :-1][counts], ids.gather(1, index)[:, 1:][counts]


@contextmanager
def frozen(model: nn.Module, checkpointing: bool = False) -> Iterator[None]:
    """While it is open, no weight of the model wants a gradient, and it is in eval mode; then it is as before.

    Args:
        checkpointing: gradient checkpointing, for which layers must be in training mode (their dropout off).
    """
    wanted = [weight for weight in model.parameters() if weight.requires_grad]
    modes = {module: module.training for module in model.modules()}
    whole: Any = model
    try:
        model.requires_grad_(False).eval()
        if checkpointing:
            whole.gradient_checkpointing_enable({"use_reentrant": False})
            for module in modes:
                module.training = not isinstance(module, nn.Dropout)
        yield
    finally:
        if checkpointing:
            whole.gradient_checkpointing_disable()
        for weight in wanted:
            weight.requires_grad_(True)
        for module, training in modes.items():
            module.training = training
