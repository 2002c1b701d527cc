"""vLLM's decoder layers over ever fewer rows, as the policies of the step's requests decide.

The loop repeats that of vLLM's `LlamaModel`, `MistralModel` and `Qwen2Model`; the layers and their kernels are vLLM's.
Rows that left are gone from the hidden states, from the attention's metadata and from the KV cache of all later layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .metrics import Savings
from .narrowed_step import NarrowedStep
from .narrowing import Group
from .plan import Plan
from .settings import Settings
from .steady_steps import SteadySteps
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
        self.plans = {
            (name, shortened): Plan.of(policy, len(self.layers))
            for name in settings.policies
            for shortened in (False, True)
            if (policy := settings.inside(name, shortened)) is not None
        }
        """(policy's name, whether the prompt was shortened before the decoder) -> what is done inside it."""
        self.steady = SteadySteps(self.names, self.plans.values())
        """How vLLM's own loop over layers runs a step in which nothing leaves."""

    def drops(self, requests: Sequence[StepRequest]) -> bool:
        """Whether a row may leave in this step."""
        return any(self._plan(request) is not None and bool(request.visual.any()) for request in requests)

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
        plans = [self._plan(request) for request in requests]
        step, out = self._pass(runner, groups, requests, plans, hidden, positions)
        again = self._unsure(runner, requests, plans, out)
        step.finish(self.savings, again)
        if again:
            second, rows = _only(requests, again)
            then = [None if plan is None else plan.then for plan in plans]
            where = torch.from_numpy(rows).to(hidden.device)
            step, out[where] = self._pass(runner, groups, second, then, hidden[where], positions[..., where], True)
            step.finish(self.savings)
        return out

    def _plan(self, request: StepRequest) -> Plan | None:
        plan = self.plans.get((request.held.policy, request.held.shortened))
        return plan.then if plan is not None and request.held.looks_again else plan

    def _unsure(
        self, runner: Any, requests: Sequence[StepRequest], plans: Sequence[Plan | None], out: Tensor
    ) -> list[int]:
        """Places of the requests that run again; noted in their `held`. One read for each policy that asks."""
        again = []
        for plan in {id(plan): plan for plan in plans if plan is not None}.values():
            if plan.unsure is None:
                continue
            asked = [
                index
                for index, request in enumerate(requests)
                if plans[index] is plan and request.held.looks_again is None and request.visual.any()
            ]
            if not asked:
                continue
            last = torch.tensor([requests[index].start + requests[index].prompt - 1 for index in asked])
            logits = runner.model.compute_logits(out[last.to(out.device)])
            for index, unsure in zip(asked, plan.unsure(logits).tolist(), strict=True):
                requests[index].held.looks_again = unsure
                again += [index] if unsure else []
        return again

    def _pass(
        self,
        runner: Any,
        groups: dict[str, Group],
        requests: Sequence[StepRequest],
        plans: Sequence[Plan | None],
        hidden: Tensor,
        positions: Tensor,
        partial: bool = False,
    ) -> tuple[NarrowedStep, Tensor]:
        """All layers once: the step as it ended, and the normed hidden states [T, D]."""
        from vllm.forward_context import get_forward_context, override_forward_context

        padded = len(hidden)
        # Where a CUDA graph could have run the step, its own metadata are of more rows, too.
        partial = partial or padded > sum(request.rows for request in requests)
        step = NarrowedStep(runner, groups, requests, plans, get_forward_context(), partial)
        hidden, positions = hidden[: step.total], positions[..., : step.total]
        residual: Tensor | None = None
        with override_forward_context(step.context):
            for index, layer in enumerate(self.layers):
                stay = step.decide(index, self.attentions, hidden, residual)
                if stay is not None:
                    places, hidden, residual = stay
                    positions = positions[..., places]
                step.enter(index, self.names[index])
                if len(hidden):  # a chunk may hold visual rows only
                    with step.watch(index, self.attentions[index]):
                        hidden, residual = layer(positions, hidden, residual)
        if len(hidden):
            hidden, _ = self.model.norm(hidden, residual)
        if len(hidden) == padded:
            return step, hidden
        out = hidden.new_zeros(padded, hidden.shape[1])
        out[step.rows_left()] = hidden
        return step, out


def _only(requests: Sequence[StepRequest], chosen: Sequence[int]) -> tuple[list[StepRequest], NDArray[np.int64]]:
    """The same requests with rows of the chosen ones alone, and which rows of the step these are, int64 [K]."""
    found, rows, start = [], [], 0
    for index, request in enumerate(requests):
        count = request.rows if index in chosen else 0
        found.append(replace(request, start=start, rows=count))
        rows.append(request.start + np.arange(count))
        start += count
    return found, np.concatenate(rows)
