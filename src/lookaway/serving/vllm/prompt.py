"""A request's rows in the step that computes its prompt: what a policy sees of them, and what is left of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.attention_inputs import AttentionInputs
from ...core.decision import LayerView
from ...core.errors import InvalidDecision
from ...core.layout import TokenLayout
from .plan import Plan
from .step import StepRequest

__all__ = ["Prompt", "seen_by_attention"]


class Prompt:
    """The rows of one request that are left, and which of them are visual.

    Args:
        request: with at least one visual row in this step.
        index: its place among the step's requests.
    """

    def __init__(self, request: StepRequest, index: int, plan: Plan) -> None:
        self.index, self.plan = index, plan
        self.visual: NDArray[np.bool_] = request.visual
        self.rows = request.start + np.arange(request.rows)
        self.answer = request.done + np.arange(request.rows) >= request.prompt
        self.total = int(self.visual.sum())
        self.spans = (request.held.spans,)

    def view(self, layer: int, hidden: Tensor, inputs: AttentionInputs | None) -> LayerView:
        """What the policy sees before `layer`: a batch of one row.

        Tokens of the answer, which a preempted request computes again, count as padding: the policy did not see them
        the first time.

        Args:
            hidden: [K, D], the residual stream of the K rows that are left.
        """
        visual = torch.from_numpy(self.visual).to(hidden.device)[None]
        answer = torch.from_numpy(self.answer).to(hidden.device)[None]
        layout = TokenLayout(visual, ~visual & ~answer, answer, self.spans)
        total = torch.tensor([self.total], device=hidden.device)
        return LayerView(layer, self.plan.num_layers, layout, hidden[None], total, inputs)

    def checked(self, keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The policy's answer, bool [K], with the tokens of the answer, which always stay.

        Raises:
            InvalidDecision: it drops text of the prompt.
        """
        if bool((~keep & ~self.visual & ~self.answer).any()):
            raise InvalidDecision(f"{self.plan.policy!r} drops text; a policy may drop visual tokens only.")
        return keep | self.answer

    def keep(self, stay: NDArray[np.bool_]) -> None:
        """Only rows where `stay` bool [K] is True are left."""
        self.rows, self.visual, self.answer = self.rows[stay], self.visual[stay], self.answer[stay]


def seen_by_attention(attention: Any, query: Tensor, key: Tensor) -> AttentionInputs:
    """What vLLM's attention of the layer before was called with, for one request.

    Args:
        attention: vLLM's `Attention`.
        query, key: [K, heads x d], with their rotary phase.
    """

    def by_head(x: Tensor, heads: int) -> Tensor:
        return x.view(1, len(x), heads, -1).transpose(1, 2)

    def plain() -> tuple[Tensor, Tensor]:
        raise NotImplementedError("vLLM hands over queries and keys with their rotary phase only.")

    real = torch.ones(1, len(query), dtype=torch.bool, device=query.device)
    queries, keys = by_head(query, attention.num_heads), by_head(key, attention.num_kv_heads)
    return AttentionInputs(queries, keys, real, attention.impl.scale, plain)
