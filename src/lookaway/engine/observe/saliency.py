"""Gradient saliency of the image: how the answer's loss changes with the attention that text pays it, layer by layer.

The first-order counterpart of the knockout. A text row i, an image column j and a layer have one number: the
derivative of the loss by the score s_ij (before the softmax, the same shift in all heads). One layer's graph lives at
a time: a forward without gradients keeps the states entering each layer, then layers are run again from the last to
the first, each with the gradient that the one above handed down. So no autograd graph of the whole depth exists, and
no map but one layer's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...anatomy.find import anatomy_of
from ...core.errors import DataError
from ..prefill.decoder_call import LayerCall, gather_rows
from ..replay.exit_table import EncodedBatch
from ..replay.tape import LayerState, record_layers
from .knockout import _full_mask, _require_masks

__all__ = ["Saliency", "image_saliency"]


@dataclass(frozen=True)
class Saliency:
    """Of one sample with V visual tokens, fp32."""

    reading: Tensor  # [L, V]
    """Sum over text rows of |d loss / d s_ij|: how much the loss hangs on text reading token j in this layer.

    What hangs on this layer and later ones is the sum of theirs (`analysis.saliency`). Gradient times the state that
    enters a layer is no measure of it: each layer reads its states through a norm, which no scale of theirs changes,
    so in the last layer that product is zero whatever the image does there."""


def image_saliency(model: Any, batch: EncodedBatch) -> Saliency:
    """Saliency of one sample's image for its teacher-forced answer: about four prefills.

    Args:
        model: a supported model with SDPA or eager attention and no policy attached.
        batch: one sample, encoded with its answer. Rows are all text behind the first visual token, the answer too.

    Raises:
        DataError: more than one sample, no answer or no image.
        UnsupportedModel: its masks cannot be read.
    """
    anatomy = anatomy_of(model)
    anatomy.require_inside("Saliency")
    _require_masks(anatomy)
    if batch.answer_mask is None or len(batch.answer_mask) != 1:
        raise DataError("Saliency takes one sample with its answer: encode(processor, [sample], answers=[...]).")
    inputs = batch.inputs
    layout = anatomy.layout(inputs["input_ids"], inputs.get("attention_mask"))
    visual = layout.visual[0].nonzero()[:, 0]  # [V]
    rows = layout.question_mask()[0].nonzero()[:, 0]  # [T]
    if not len(visual):
        raise DataError("This sample has no image, so there is nothing to be salient.")

    # 1. The forward: states entering each layer, and what each layer was called with.
    def keep(call: LayerCall) -> tuple[Tensor, LayerState]:
        places = call.kwargs.get("attention_mask"), call.kwargs["position_embeddings"]
        return call.hidden, LayerState(*places, by_row=call.row_arguments())

    with torch.no_grad(), record_layers(anatomy, keep, {}) as (entering, states):
        anatomy.backbone(**{**inputs, "use_cache": False})

    # 2. The loss by the states that leave the last layer.
    where = batch.answer_mask.nonzero()[:, 1][None]
    wanted = inputs["input_ids"].gather(1, where)[0]

    def loss(hidden: Tensor) -> Tensor:
        logits = anatomy.logits(gather_rows(hidden, where - 1))[0].float()
        return nn.functional.cross_entropy(logits, wanted)

    gradient = _pull(loss, entering.pop())[0]

    # 3. Back through one layer at a time.
    reading = []
    for layer in reversed(range(anatomy.num_layers)):
        hidden, state = entering.pop(), states[layer]
        mask = _additive(_full_mask(state.mask, hidden.shape[1], hidden.device), hidden.dtype)
        shift = torch.zeros(1, 1, len(rows), hidden.shape[1], dtype=hidden.dtype, device=hidden.device)

        def run(
            hidden: Tensor, shift: Tensor, layer: int = layer, state: LayerState = state, mask: Tensor = mask
        ) -> Tensor:
            return anatomy.layers[layer](
                hidden,
                attention_mask=mask.index_add(2, rows, shift),
                position_embeddings=state.cos_sin,
                position_ids=None,
                past_key_values=None,
                use_cache=False,
                **state.by_row,
            )

        gradient, by_score = _pull(run, hidden, shift, weights=gradient)
        reading.append(by_score[0, 0][:, visual].float().abs().sum(0))
    return Saliency(torch.stack(reading[::-1]).cpu())


def _pull(function: Callable[..., Tensor], *inputs: Tensor, weights: Tensor | None = None) -> tuple[Tensor, ...]:
    """Gradients of `function(*inputs)`, weighted by `weights`, by its inputs."""
    with torch.enable_grad():
        leaves = [value.detach().requires_grad_() for value in inputs]
        output = function(*leaves)
        return torch.autograd.grad(output, leaves, weights)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as numbers to add."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
