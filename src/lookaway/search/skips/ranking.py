"""Skip sets without training: by how much the output changes, at random, or the last layers. The search's baselines."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...anatomy.find import anatomy_of
from ...core.decision import Policy
from ...core.errors import DataError, SettingsError
from ...engine.api import attach
from ...engine.replay.exit_table import EncodedBatch
from ...engine.replay.teacher_forcing import answer_logits
from ...policies.attention_skip import AttentionSkip
from ...policies.fixed import KeepAll

__all__ = ["last_skips", "least_change", "output_changes", "random_skips"]


@torch.no_grad()
def output_changes(
    model: Any, batches: Iterable[EncodedBatch], layers: Sequence[int] | None = None
) -> dict[int, float]:
    """How much the model's answers change when the attention of one layer does not run.

    Args:
        model: without a policy attached.
        batches: encoded with answers; one run a layer and one more of each.
        layers: which; None: all.

    Returns:
        Layer -> mean KL divergence (nats) of the full model's predictions of the answer tokens from the skipping one's.

    Raises:
        DataError: there is no batch.
    """
    layers = range(anatomy_of(model).num_layers) if layers is None else layers
    total, tokens = dict.fromkeys(layers, 0.0), 0
    for batch in batches:
        expected = _predictions(model, batch, KeepAll())
        tokens += len(expected)
        for layer in layers:
            found = _predictions(model, batch, AttentionSkip((layer,)))
            kl = torch.nn.functional.kl_div(found, expected, log_target=True, reduction="sum")
            total[layer] += float(kl)
    if not tokens:
        raise DataError("There is no answer to rank attentions on. Give samples with answers.")
    return {layer: value / tokens for layer, value in total.items()}


def least_change(changes: dict[int, float], count: int) -> tuple[int, ...]:
    """The `count` layers whose attention alone changes least."""
    _check(count, len(changes))
    return tuple(sorted(sorted(changes, key=lambda layer: (changes[layer], -layer))[:count]))


def random_skips(num_layers: int, count: int, seed: int = 0) -> tuple[int, ...]:
    """`count` layers at random, the same for the same seed."""
    _check(count, num_layers)
    return tuple(sorted(random.Random(f"skips:{seed}").sample(range(num_layers), count)))


def last_skips(num_layers: int, count: int) -> tuple[int, ...]:
    """The last `count` layers (what the published LLaVA search ended in: 20 to 31 of 32)."""
    _check(count, num_layers)
    return tuple(range(num_layers - count, num_layers))


def _predictions(model: Any, batch: EncodedBatch, policy: Policy) -> Tensor:
    """Log-probabilities of the answer tokens, [N, vocabulary]."""
    with attach(model, policy) as attached:
        return answer_logits(model, attached, batch)[0].float().log_softmax(-1)


def _check(count: int, layers: int) -> None:
    if not 1 <= count < layers:
        raise SettingsError(f"{count} attentions to skip of {layers}: ask for 1 to {layers - 1}, at least one stays.")
