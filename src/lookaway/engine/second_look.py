"""The second look: rows that are unsure after a prefill run its later layers again under another policy.

The first pass leaves the states that entered the first layer before which either policy may remove something, and the
arguments of all layer calls from there on. Unsure rows go on from these states, layer by layer through the one step of
a prefill, and their keys, values and states replace those of the first pass. A row's result is that of the policy it
ended with, which is how tests judge it (tests/engine/test_second_look.py).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..anatomy.base import Anatomy
from ..core.decision import Policy, Retry
from ..core.errors import UnsupportedModel
from ..core.layout import TokenLayout
from .attached import policy_layers
from .cache.kept import Kept
from .observe.qk_capture import QKCapture, QKStore
from .prefill.decoder_call import LayerCall
from .prefill.joining import joined_columns, joined_rows, joined_state
from .prefill.state import PrefillState
from .prefill.step import prefill_step

__all__ = ["FirstPass", "SecondPass", "changes_between_layers", "first_output", "second_pass_of", "with_states"]


@dataclass(frozen=True)
class FirstPass:
    """What a prefill leaves for rows that may go on again."""

    hidden: Tensor  # [B, S, D]
    """States entering the first of the layers that may run again."""
    calls: Mapping[int, LayerCall]
    """By layer, at full length."""

    def with_call(self, call: LayerCall) -> FirstPass:
        return replace(self, calls={**self.calls, call.layer: call})


def second_pass_of(anatomy: Anatomy, policy: Policy, layers: frozenset[int]) -> SecondPass | None:
    """What carries out `policy.retry()`; None for a policy of one pass. `layers`: where the policy itself is asked."""
    retry = policy.retry()
    return None if retry is None else SecondPass(anatomy, retry, layers)


class SecondPass:
    """Runs unsure rows of an attached model again; several threads may use it at once."""

    def __init__(self, anatomy: Anatomy, retry: Retry, first_layers: frozenset[int]) -> None:
        if anatomy.has_windows:
            raise UnsupportedModel(
                "A second look is not possible on a decoder with sliding-window layers: their KV cache has lost the "
                "columns that rows which look again would need. Attach one of its two policies alone."
            )
        self.anatomy, self.retry = anatomy, retry
        self.layers = policy_layers(retry.then, anatomy)
        begins = min(first_layers | self.layers, default=anatomy.num_layers)
        wanted = retry.then.needs_attention(anatomy.num_layers) & self.layers
        self.start = begins - 1 if begins in wanted else begins
        """The first layer that runs again: one earlier where the attention before the removal must be seen again."""
        self._here = _Here()
        self.capture = QKCapture(anatomy, frozenset(wanted), lambda: self._here.store)

    def note(self, first: FirstPass | None, call: LayerCall, left: Any) -> FirstPass | None:
        """The first pass with the call of one more layer, as the layer's hook gets it.

        Args:
            left: what the layer before returned.

        Raises:
            UnsupportedModel: the decoder changes its states between these layers, which a second pass would miss.
        """
        if call.layer < self.start:
            return first
        if call.layer > self.start and call.hidden is not left:
            raise changes_between_layers(call.layer)
        return (first or FirstPass(call.hidden, {})).with_call(call)

    def run(self, state: PrefillState, first: FirstPass, states: Tensor, cache: Any) -> tuple[PrefillState, Tensor]:
        """Look again where the first pass is unsure.

        Args:
            state: at the end of the first pass.
            states: normed rows that left the decoder, [B, K, D].
            cache: the KV cache that the first pass filled; None: there is none. Its keys and values are replaced.

        Returns:
            The state as if each row had run under the policy it ended with, and the states that go with it.
        """
        numbers = self._unsure(state, states)
        if not numbers:
            return state, states
        rows = torch.tensor(numbers, device=states.device)
        layout = state.initial.rows(rows.to(state.initial.visual.device), numbers)
        again, hidden, stored = self._again(state, first, rows, layout, cache is not None)
        columns = joined_columns(state, again, rows, self.start)
        joined = joined_state(state, again, rows, self.start, columns)
        if cache is not None:
            for layer, parts in stored.items():
                self._store(cache, layer, parts, rows, state, columns.kept_at[layer])
        width = states.shape[1] if columns.kept is None else columns.kept.index.shape[1]
        return joined, joined_rows(states, self.anatomy.norm(hidden), rows, width, 1, state.pad_right)

    def _unsure(self, state: PrefillState, states: Tensor) -> list[int]:
        """Rows that look again; rows without an image gain nothing by it. One host read."""
        _, valid = state.columns()
        slots = torch.arange(valid.shape[1], device=valid.device)
        last = (valid * slots).amax(1).to(states.device)
        logits = self.anatomy.head_logits(states[torch.arange(len(states), device=states.device), last])
        unsure = self.retry.unsure(logits)
        again = unsure & (state.initial_visual > 0).to(unsure.device)
        return [row for row, unsure_row in enumerate(again.tolist()) if unsure_row]

    def _again(
        self, state: PrefillState, first: FirstPass, rows: Tensor, layout: TokenLayout, caching: bool
    ) -> tuple[PrefillState, Tensor, dict[int, tuple[Tensor, Tensor]]]:
        answers = None if state.answers is None else state.answers[rows]
        whole = torch.arange(state.length, device=layout.visual.device).expand(len(rows), -1)
        kept = Kept(whole, torch.ones_like(layout.visual), full=True, batch=rows)
        again = PrefillState.begin(layout, state.num_layers, answers=answers, kept=kept, pad_right=state.pad_right)
        hidden, store = first.hidden[rows], QKStore()
        memo: dict[Any, Any] = {}
        stored: dict[int, tuple[Tensor, Tensor]] = {}
        self._here.store = store
        try:
            for layer in range(self.start, self.anatomy.num_layers):
                call = replace(first.calls[layer], memo=memo).with_rows(hidden)
                asked = self.retry.then if layer in self.layers and again.has_visual_tokens else None
                seen = None if asked is None else self.capture.take(store, layer, again.layout)
                again, call = prefill_step(again, call, asked, seen)
                args, kwargs = call.arguments()
                if caching:
                    kwargs = {**kwargs, "past_key_values": _Collector(stored)}
                hidden = self.anatomy.layers[layer].forward(*args, **kwargs)  # without the hooks of the first pass
                if not isinstance(hidden, Tensor):
                    raise UnsupportedModel(f"Decoder layer {layer} returns {type(hidden).__name__}, not its rows.")
        finally:
            self._here.store = None
        return again, hidden, stored

    def _store(
        self, cache: Any, layer: int, parts: tuple[Tensor, Tensor], rows: Tensor, state: PrefillState,
        kept: Kept | None,
    ) -> None:  # fmt: skip
        part = cache.layers[layer]
        if not isinstance(getattr(part, "keys", None), Tensor) or len(part.keys) != len(state.initial.visual):
            raise UnsupportedModel(
                f"A second look needs the keys of layer {layer} as one tensor, which {type(part).__name__} does not "
                "have. Use the default dynamic cache: generate(..., cache_implementation=None)."
            )
        width = state.length if kept is None else kept.index.shape[1]
        part.keys, part.values = (
            joined_rows(old, new, rows, width, 2, state.pad_right)
            for old, new in zip((part.keys, part.values), parts, strict=True)
        )


def changes_between_layers(layer: int) -> UnsupportedModel:
    return UnsupportedModel(
        f"This decoder changes its states between layers {layer - 1} and {layer} (deepstack), which the second pass of "
        "a second look would miss. Let both of its policies begin at a later layer, or attach one of them alone."
    )


def first_output(output: Any) -> Tensor:
    """The normed states among what the decoder's forward returned, [B, K, D]."""
    return output[0] if isinstance(output, tuple) else output.last_hidden_state


def with_states(output: Any, states: Tensor) -> Any:
    """The same output with other states."""
    if isinstance(output, tuple):
        return (states, *output[1:])
    output.last_hidden_state = states
    return output


class _Here(threading.local):
    """Queries and keys of the second pass that this thread runs now."""

    store: QKStore | None = None


class _Collector:
    """Stands for the KV cache of a second pass: keeps each layer's keys and values apart."""

    def __init__(self, stored: dict[int, tuple[Tensor, Tensor]]) -> None:
        self._stored = stored

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self._stored[layer] = (keys, values)
        return keys, values

    def __getattr__(self, name: str) -> Any:
        raise UnsupportedModel(
            f"A decoder layer reads {name!r} of its KV cache in prefill, which a second look cannot answer. Attach one "
            "of the two policies alone."
        )
