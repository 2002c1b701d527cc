"""The state of one step while it goes through the layers: which rows are left, and the metadata of those."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .metrics import Savings
from .narrowing import Counts, Group, metadata_for
from .plan import Plan
from .prompt import Prompt, seen_by_attention
from .step import StepRequest

__all__ = ["NarrowedStep"]


class NarrowedStep:
    """Who asks, which rows leave, and what each layer's attention is told.

    Args:
        runner: vLLM's V1 runner.
        groups: attention layer's name -> its group.
        requests: in the order of their rows.
        plans: of each request; None: its policy is not asked.
        context: the step's forward context.
        partial: only some of the step's requests have rows here, so no layer can do with the step's own metadata.
    """

    def __init__(
        self,
        runner: Any,
        groups: Mapping[str, Group],
        requests: Sequence[StepRequest],
        plans: Sequence[Plan | None],
        context: Any,
        partial: bool = False,
    ) -> None:
        self.runner, self.groups, self.requests, self.partial = runner, groups, requests, partial
        self.full: Counts = np.array([request.rows for request in requests])
        self.done: Counts = np.array([request.done for request in requests])
        self.gone: Counts = np.stack([request.held.gone for request in requests])  # [R, L]
        self.lost = np.zeros_like(self.gone)
        self.total = int(self.full.sum())
        self.rows = self.full.copy()
        """[R], rows that are left of each request."""
        self.left: NDArray[np.int64] = np.arange(self.total)
        self.prompts = _prompts(requests, plans)
        self.seen: tuple[Tensor, Tensor] | None = None
        self.metadata, self.slots = dict(context.attn_metadata), dict(context.slot_mapping)
        self.context = replace(context, attn_metadata=self.metadata, slot_mapping=self.slots)
        self._made_for: tuple[Counts, Counts] | None = None
        self._made: dict[Group, tuple[Any, Tensor]] = {}

    def decide(
        self, layer: int, attentions: Sequence[Any], hidden: Tensor, residual: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """What stays before `layer`; None: everything, as it is.

        Args:
            attentions: vLLM's `Attention` of each layer.
            hidden, residual: [K, D], whose sum is the residual stream before `layer`.

        Returns:
            `(places int64 [k] among the rows that were left, hidden [k, D], residual [k, D])`, with the states that a
            policy merged.
        """
        if not self.prompts:  # a step of decoding
            return None
        ends = self.rows.cumsum()
        leaving: list[tuple[Prompt, NDArray[np.bool_]]] = []
        asked: list[tuple[Prompt, Tensor]] = []
        merged: list[tuple[slice, Prompt, Tensor]] = []
        for prompt in self.prompts:
            if prompt.plan.exit_at == layer:
                leaving.append((prompt, ~prompt.visual))
            elif prompt.plan.exit_at is None and layer in prompt.plan.asks and prompt.visual.any():
                own = slice(ends[prompt.index] - len(prompt.rows), ends[prompt.index])
                states = hidden[own] if residual is None else hidden[own] + residual[own]
                inputs = None
                if layer in prompt.plan.looks and self.seen is not None:
                    inputs = seen_by_attention(attentions[layer - 1], *(seen[own] for seen in self.seen))
                decision = prompt.plan.policy.decide(prompt.view(layer, states, inputs))
                if decision.keep is not None:
                    asked.append((prompt, decision.keep[0]))
                    if decision.values is not None:
                        merged.append((own, prompt, decision.values[0]))
        if asked:  # one read for all requests
            masks = torch.cat([keep for _, keep in asked]).cpu().numpy()
            places = np.cumsum([len(prompt.rows) for prompt, _ in asked])[:-1]
            leaving += [
                (prompt, prompt.checked(mask)) for (prompt, _), mask in zip(asked, np.split(masks, places), strict=True)
            ]
        stay = np.ones(len(self.left), dtype=bool)
        for prompt, own_stay in leaving:
            stay[ends[prompt.index] - len(prompt.rows) : ends[prompt.index]] = own_stay
        if stay.all():
            return None
        for own, prompt, values in merged:
            hidden, residual = _with_values(hidden, residual, own, prompt.visual, values)
        for prompt, own_stay in leaving:
            prompt.keep(own_stay)
            self.rows[prompt.index] = len(prompt.rows)
        self.left = self.left[stay]
        chosen = torch.from_numpy(np.flatnonzero(stay)).to(hidden.device)
        return chosen, hidden[chosen], None if residual is None else residual[chosen]

    def enter(self, layer: int, name: str) -> None:
        """Put the metadata and the slots that the attention `name` of `layer` needs into the forward context."""
        self.lost[:, layer] = self.full - self.rows
        before = self.done - self.gone[:, layer]
        if self._made_for is None or not all(map(np.array_equal, self._made_for, (self.rows, before))):
            self._made_for, self._made = (self.rows.copy(), before), {}
        unchanged = np.array_equal(self.rows, self.full) and np.array_equal(before, self.done)
        if (unchanged and not self.partial) or not len(self.left):
            return
        group = self.groups[name]
        if group not in self._made:
            self._made[group] = metadata_for(self.runner, group, before, self.rows)
        self.metadata[name], self.slots[name] = self._made[group]

    @contextmanager
    def watch(self, layer: int, attention: Any) -> Iterator[None]:
        """While `layer` runs, remember the queries and keys of its attention where a policy wants them afterwards."""
        self.seen = None
        if not any(layer + 1 in prompt.plan.looks and prompt.visual.any() for prompt in self.prompts):
            yield
            return
        handle = attention.register_forward_pre_hook(self._remember)
        try:
            yield
        finally:
            handle.remove()

    def _remember(self, module: Any, inputs: tuple[Tensor, ...]) -> None:
        self.seen = (inputs[0], inputs[1])

    def finish(self, savings: Savings, again: Collection[int] = ()) -> None:
        """Count what was saved, and note for later steps what each layer does not hold of this one.

        Args:
            again: places of requests that run again: what their layers hold now is not what they will hold.
        """
        for prompt in self.prompts:
            count = savings.count_first_look if prompt.index in again else savings.count
            count(self.requests[prompt.index], self.lost[prompt.index])
        for index, (request, lost) in enumerate(zip(self.requests, self.lost, strict=True)):
            if index not in again:
                request.held.gone += lost

    def rows_left(self) -> Tensor:
        """Rows of the step that reached the end, int64 [K]."""
        return torch.from_numpy(self.left).to(self.runner.device)


def _with_values(
    hidden: Tensor, residual: Tensor | None, own: slice, visual: NDArray[np.bool_], values: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The rows `own` with other states where they are visual: a policy merged into them what leaves."""
    where = torch.from_numpy(visual).to(hidden.device)[:, None]
    hidden = hidden.clone()  # before the first layer it is the runner's own buffer
    hidden[own] = torch.where(where, values.to(hidden.dtype), hidden[own])
    if residual is not None:
        residual = residual.clone()
        residual[own] = residual[own].masked_fill(where, 0)
    return hidden, residual


def _prompts(requests: Sequence[StepRequest], plans: Sequence[Plan | None]) -> list[Prompt]:
    """The requests whose policy may drop rows in this step."""
    found = []
    for index, (request, plan) in enumerate(zip(requests, plans, strict=True)):
        if plan is None or not request.visual.any():
            continue
        if plan.exit_at is None and not request.whole:
            raise RuntimeError(
                f"The policy {request.held.policy!r} looks at the whole prompt, but got {request.rows} of its "
                f"{request.prompt} tokens. Start the server with --no-enable-chunked-prefill."
            )
        found.append(Prompt(request, index, plan))
    return found
