"""What `la.attach` and `la.reference` return: a policy on a live model, its traces, and how it comes off again."""

from __future__ import annotations

import inspect
import threading
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, NoReturn, Protocol, Self

from torch import Tensor, nn

from ..anatomy.base import Anatomy
from ..anatomy.find import anatomy_of
from ..core.cost import DecoderShape
from ..core.decision import Policy
from ..core.draft import Draft
from ..core.errors import AttachError, UnsupportedModel
from ..core.record import Trace
from .attached import check_detached, policy_layers, register
from .draft.drafting import Drafting
from .prefill.held_layer import held_layers
from .prefill.loss import loss_on_kept_columns
from .prefill.renumbering import check_renumbering
from .prefill.state import PrefillState
from .refusals import check_not_compiled, watch_generate
from .skip.skipping import Skipping
from .twig.growth import twig_of

__all__ = ["Handle"]

TRACES = 1000
"""Prompts whose traces are kept."""


class PromptRecord(Protocol):
    """What is kept of a prompt: enough for its trace."""

    @property
    def had_images(self) -> bool: ...
    @property
    def length(self) -> int: ...
    def trace(self, shape: DecoderShape) -> Trace: ...


class Prompt(Protocol):
    """A prompt that ran."""

    @property
    def removed(self) -> bool: ...
    def columns(self) -> tuple[Tensor, Tensor]: ...


class _Here(threading.local):
    """What belongs to one thread. A forward runs in one thread from its beginning to its end."""

    run: Any = None
    """The forward that runs now."""
    needed: int | None = None
    """Positions at the end that the model's head asks for in the call that runs now; None: all."""
    answers: Tensor | None = None
    """Which columns of the coming prompts are teacher-forced answers, bool [B, S]."""
    latest: Prompt | None = None
    record: PromptRecord | None = None


class Handle(ABC):
    """A policy on a model, until `detach()` or the end of its `with` block.

    Several threads may call the model at once: what a forward needs belongs to its thread.
    """

    narrows: bool
    """Outputs are of the kept columns alone; else of the whole prompt."""
    looks_again: ClassVar[bool] = False
    """Policies of two passes (`Policy.retry`) are carried out; else they are refused."""

    def __init__(self, model: Any, policy: Policy, allow_other_model: bool = False, draft: Draft | None = None) -> None:
        self.anatomy: Anatomy = anatomy_of(model)
        self.policy = policy
        self._layers = policy_layers(policy, self.anatomy, self.looks_again, grows=True)
        check_detached(self.anatomy)
        check_not_compiled(model, self.anatomy)
        self.anatomy.check_policy(policy, allow_other_model)
        check_renumbering(self.anatomy, policy)
        self.skipping = Skipping(self.anatomy, policy)
        self.held = held_layers(self.anatomy, policy)
        self.twig = twig_of(self.anatomy, policy, self._layers)
        self.drafting = None if draft is None else self._drafting(draft, allow_other_model)
        self._first_layer = min(self._layers, default=self.anatomy.num_layers)
        """From this decoder layer on, layers get hooks."""
        self._here = _Here()
        self._record: PromptRecord | None = None
        self._records: deque[PromptRecord] = deque(maxlen=TRACES)
        self._parameters = tuple(inspect.signature(type(self.anatomy.backbone).forward).parameters)[1:]
        self._entered = False
        self._undo: list[Callable[[], object]] = []

    def _install(self, undo: list[Callable[[], object]], generated: Callable[[], object] | None = None) -> None:
        """Put all hooks on.

        Args:
            undo: takes off what the caller has put on already.
            generated: is called when a `generate` has ended.
        """
        anatomy, self._undo = self.anatomy, undo
        self._undo.append(anatomy.backbone.register_forward_pre_hook(self._before_model, with_kwargs=True).remove)
        self._undo.append(anatomy.backbone.register_forward_hook(self._after_model, always_call=True).remove)
        for layer in self._hooked():
            self._undo += self._install_layer(layer, anatomy.layers[layer])
        self._undo += self.skipping.install()
        self._undo.append(loss_on_kept_columns(anatomy.model, self._left_columns, self.narrows))
        whole_prompt, eager = bool(self._layers or self.held or self.skipping.pools), bool(self.skipping.layers)
        if whole_prompt or eager:
            self._undo.append(watch_generate(anatomy.model, whole_prompt, eager, generated))
        if self.drafting is not None:
            self._undo += self.drafting.install(lambda: self._here.run)
        self._undo.append(register(anatomy, self))

    def _drafting(self, draft: Draft, allow_other_model: bool) -> Drafting:
        spec = self.policy.twig()
        ranking = None if self.twig is None or spec is None else (self.twig, spec)
        return Drafting(self.anatomy, draft, frozenset(self.skipping.layers), ranking, allow_other_model)

    def _hooked(self) -> list[int]:
        """Layers that get hooks."""
        first = self._first_layer
        layers = range(self.anatomy.num_layers)
        return [layer for layer in layers if layer >= first or layer in self.skipping or layer in self.held]

    # the handle ------------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Take everything off again; a second call does nothing.

        KV caches that lost columns stay marked: they are of a subclass of their class and say which columns are gone.
        """
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Self:
        if not self._undo or self._entered:
            state = "is open already" if self._undo else "has ended, and the policy is off"
            raise AttachError(f"This `with` block {state}. Attach again: with la.attach(model, policy) as run: ...")
        self._entered = True
        return self

    def __exit__(self, *exc: object) -> None:
        self.detach()

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise AttachError(
            f"{self.policy!r} is attached to this model, and a copy would keep its hooks for good. Detach it, copy the "
            "model, and attach again."
        )

    def __reduce__(self) -> NoReturn:
        raise AttachError(
            f"{self.policy!r} is attached to this model, so it cannot be pickled. Detach it first; "
            "model.save_pretrained(folder) works while it is attached."
        )

    @property
    def trace(self) -> Trace:
        """What happened to the latest prompt with an image: of this thread, where this thread ran one.

        Without any such prompt: to the latest prompt.

        Raises:
            AttachError: no prompt ran since the policy was attached.
        """
        record = self._here.record or self._record
        if record is None:
            raise _no_prompt()
        return self._trace(record)

    @property
    def traces(self) -> list[Trace]:
        """What happened to each prompt, of all threads, in the order in which they ended; the latest thousand."""
        return [self._trace(record) for record in tuple(self._records)]

    @contextmanager
    def answer_columns(self, mask: Tensor) -> Iterator[None]:
        """While it is open, prompts of this thread hold teacher-forced answers at `mask`, bool [B, S].

        Policies and adapters do not see them, and they stay.
        """
        before, self._here.answers = self._here.answers, mask
        try:
            yield
        finally:
            self._here.answers = before

    def kept_columns(self) -> tuple[Tensor, Tensor]:
        """Columns of this thread's latest prompt that its outputs (logits, hidden states) stand for.

        Returns:
            `(index int64 [B, K], valid bool [B, K])`: output slot j of row b is column `index[b, j]` of the prompt;
            slots that are not valid pad. `model(labels=...)` takes its labels by it.
        """
        if self._here.latest is None:
            raise _no_prompt()
        return self._here.latest.columns()

    def visual_layers(self) -> list[list[int]]:
        """Which visual tokens this thread's latest prompt kept for how long: what a picture of a policy shows.

        Returns:
            For each row and each of its visual tokens, in the order of the prompt, the number of decoder layers that
            processed it; of a row that looked again, in the pass it ended with.

        Raises:
            AttachError: no prompt ran since the policy was attached, or `la.reference` masked it.
        """
        state = self._here.latest
        if not isinstance(state, PrefillState):
            raise _no_prompt()
        seen = state.layers_seen()
        return [row[visual].tolist() for row, visual in zip(seen, state.initial.visual.to(seen.device), strict=True)]

    def _trace(self, record: PromptRecord) -> Trace:
        trace = self.skipping.annotate_trace(record.trace(self.anatomy.shape), record.length)
        if self.twig is not None and trace.rows_with_visual(before := self.twig.start - 1):
            entering = [seen or now for seen, now in zip(trace.first_seen(before), trace.tokens[before], strict=True)]
            flops = [self.twig.ranking_flops(self.anatomy.shape, tokens) for tokens in entering]
            trace = replace(trace, twig_flops=flops)
        if self.drafting is not None and (counts := self.drafting.counts(record)) is not None:
            trace = replace(trace, drafted=counts.drafted, accepted=counts.accepted, checks=counts.checks)
        return replace(trace, held=sorted(self.held)) if self.held else trace

    def _left_columns(self) -> tuple[Tensor, Tensor] | None:
        latest = self._here.latest
        return latest.columns() if latest is not None and latest.removed else None

    # the hooks of the whole forward ----------------------------------------------------------------------------------

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is not self.anatomy.backbone:
            raise UnsupportedModel(
                "A copy of the model runs with the policy of the original (nn.DataParallel makes such copies). Start "
                "one process a device instead: torchrun --nproc-per-node N ..."
            )
        self._here.run = None
        self._here.run = self._start({**dict(zip(self._parameters, args, strict=False)), **kwargs})

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> Any:
        run, self._here.run = self._here.run, None
        return self._end(run, output) if run is not None and output is not None else None

    def _warn_without_images(self) -> None:
        """Say once that nothing can leave; later prompts without an image are follow-ups, or passes of guidance."""
        if self._layers and (self._record is None or not self._record.had_images):
            warnings.warn(
                "A policy is attached, but no row of this batch has a visual token: nothing can leave.", stacklevel=2
            )

    def _finished(self, prompt: Prompt, record: PromptRecord) -> None:
        """A prompt's prefill ended."""
        self._here.latest = prompt
        if self.drafting is not None:
            self.drafting.began(record)
        self._records.append(record)
        if self._here.record is None or record.had_images or not self._here.record.had_images:
            self._here.record = record
        if self._record is None or record.had_images or not self._record.had_images:
            self._record = record

    @abstractmethod
    def _start(self, inputs: Mapping[str, Any]) -> Any:
        """A forward begins; returns what it carries from hook to hook."""

    @abstractmethod
    def _end(self, run: Any, output: Any) -> Any:
        """A forward ended without an error; returns the output that takes its place, None: it stays."""

    @abstractmethod
    def _install_layer(self, index: int, layer: nn.Module) -> list[Callable[[], object]]:
        """Put the hooks of one decoder layer on; returns what takes them off."""


def _no_prompt() -> AttachError:
    """What to raise where something is asked about a prompt and there was none."""
    return AttachError("No prompt ran while the policy was attached: call model(...) or model.generate(...).")
