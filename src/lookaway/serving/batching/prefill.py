"""The prefill of one request under its policy: `model.generate` for one token, with everything that decoding needs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...engine.cache.row_batch import CacheRow, row_of
from .answer_text import AnswerText
from .choosing import TokenChooser
from .model_checks import carried_outputs
from .policy_switch import PolicySwitch
from .requests import Generation
from .savings import kept_by_layer, saved_by, saved_nothing

__all__ = ["Row", "prefill"]


@dataclass(eq=False)
class Row:
    """A request that decodes."""

    request: Generation
    held: CacheRow
    position: Tensor
    """int64 [P...]: position ids of the next token; one number, or one for each of the decoder's kinds of positions."""
    tokens: list[int]
    """Prompt and answer so far."""
    prompt_tokens: int
    chooser: TokenChooser
    text: AnswerText
    saved: dict[str, Any]
    carried: dict[str, Tensor]
    """What every later token's forward takes again, by name, each [1, ...]."""
    began: float = 0.0
    """When its prefill began."""

    @property
    def answer_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens


def prefill(
    switch: PolicySwitch, request: Generation, tokenizer: Any, repetition_penalty: float | None = None
) -> tuple[Row, Tensor]:
    """Run a request's prompt.

    Returns:
        The row, and the logits [vocabulary] of its first answer token.

    Raises:
        LookawayError: the policy cannot be carried out on this prompt.
    """
    model, anatomy = switch.model, switch.anatomy
    inputs = {name: value.to(model.device) for name, value in request.inputs.items()}
    ids = inputs["input_ids"]
    layout = anatomy.layout(ids, inputs.get("attention_mask"))
    visual = layout.visual[0]
    count = int(visual.sum())
    attached = None
    if count or switch.skips_attention(request.policy):
        attached = switch.use(request.policy)
    else:
        switch.use_for_text()
    began = time.monotonic()
    with _positions(anatomy.language_model) as seen, _carried(model) as carried, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A policy is attached, but no row")  # as it should be
        out = model.generate(
            **inputs, do_sample=False, max_new_tokens=1, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
    logits, cache, length = out.logits[0][0], out.past_key_values, ids.shape[1]
    held = row_of(cache, length, anatomy.num_layers)
    position = seen[0][..., 0, -1] + 1 if seen else torch.tensor(length, device=ids.device)
    saved = saved_nothing(anatomy.shape, length, count) if attached is None else saved_by(attached.trace)
    saved = {"policy": request.policy or "off", **saved, "prefill_seconds": time.monotonic() - began}
    if request.details:
        saved["kept"] = kept_by_layer(held.kept, visual)
        saved["pictures"] = [[span.length, span.grid] for span in layout.spans[0]]
        saved.update(request.extra)
    tokens = ids[0].tolist()
    row = Row(
        request, held, position, tokens, length, TokenChooser(request.sampling, repetition_penalty),
        AnswerText(tokenizer, request.stop), saved, carried,
    )  # fmt: skip
    return row, logits


@contextmanager
def _carried(model: Any) -> Iterator[dict[str, Tensor]]:
    """The outputs of the prompt's forward that later tokens need."""
    found: dict[str, Tensor] = {}
    names = carried_outputs(model)
    if not names:
        yield found
        return
    handle = model.register_forward_hook(lambda module, args, out: found.update({name: out[name] for name in names}))
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def _positions(decoder: Any) -> Iterator[Sequence[Tensor]]:
    """The position ids that the decoder is called with: families number tokens in their own ways, and the token after
    the prompt's last has the next number in each of them."""
    seen: list[Tensor] = []

    def see(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("position_ids") is not None:
            seen.append(kwargs["position_ids"])

    handle = decoder.register_forward_pre_hook(see, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
