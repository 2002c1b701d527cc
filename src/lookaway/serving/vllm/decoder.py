"""vLLM's decoder layers over ever fewer rows, as the policies of the step's requests decide.

The loop repeats that of vLLM's `LlamaModel`, `MistralModel` and `Qwen2Model`; the layers and their kernels are vLLM's.
Rows that left are gone from the hidden states, from the attention's metadata and from the KV cache of all later layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .metrics import Savings
from .narrowed_step import NarrowedStep
from .narrowing import Group
from .plan import Plan
from .settings import Settings
from .step import StepRequest

__all__ = ["NarrowedDecoder"]


class NarrowedDecoder:
    """Runs `model.layers` up to `model.norm`.

    Args:
        model: vLLM's decoder.
        settings: the server's policies.
        savings: counts what they saved.
    """

    def __init__(self, model: Any, settings: Settings, savings: Savings) -> None:
        self.model, self.savings = model, savings
        self.layers = list(model.layers)
        self.attentions = [layer.self_attn.attn for layer in self.layers]
        self.names = [attention.layer_name for attention in self.attentions]
        self.plans = {name: Plan.of(policy, len(self.layers)) for name, policy in settings.policies.items()}

    def needed(self, requests: Sequence[StepRequest]) -> bool:
        """Whether a row may leave in this step, or a layer holds fewer tokens than a request has."""
        return any(
            bool(request.held.gone.any()) or (request.held.policy in self.plans and bool(request.visual.any()))
            for request in requests
        )

    def run(
        self, runner: Any, groups: dict[str, Group], requests: Sequence[StepRequest], hidden: Tensor, positions: Tensor
    ) -> Tensor:
        """The normed hidden states of a step, [T, D]; rows that left are 0, and vLLM does not look at them.

        Args:
            groups: attention layer's name -> its group.
            hidden: [T, D], the embedded tokens. positions: [T] or [3, T].

        Raises:
            RuntimeError: a policy that looks at the prompt got a part of it.
            InvalidDecision: a policy drops text.
        """
        from vllm.forward_context import get_forward_context, override_forward_context

        step = NarrowedStep(runner, groups, requests, self.plans, get_forward_context())
        padded = len(hidden)
        hidden, positions = hidden[: step.total], positions[..., : step.total]
        residual: Tensor | None = None
        with override_forward_context(step.context):
            for index, layer in enumerate(self.layers):
                left = step.decide(index, self.attentions, hidden, residual)
                if left is not None:
                    hidden, positions = hidden[left], positions[..., left]
                    residual = None if residual is None else residual[left]
                step.enter(index, self.names[index])
                if len(hidden):  # a chunk may hold visual rows only
                    with step.watch(index, self.attentions[index]):
                        hidden, residual = layer(positions, hidden, residual)
        step.finish(self.savings)
        if len(hidden):
            hidden, _ = self.model.norm(hidden, residual)
        if len(hidden) == padded:
            return hidden
        out = hidden.new_zeros(padded, hidden.shape[1])
        out[step.rows_left()] = hidden
        return out
