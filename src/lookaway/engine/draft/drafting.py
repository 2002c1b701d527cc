"""A draft on a live model: hooks on the first K layers and on layer K, and a `generate` that drafts.

A guessing forward ends before layer K. In the check's forward the layers under K run on the draft's last token alone,
and what enters layer K is put together from the states that guessing left. The forwards themselves are the model's own,
so masks, positions and whatever else a family does with new tokens are those of plain decoding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...anatomy.base import Anatomy
from ...core.draft import Draft
from ...core.errors import SettingsError, UnsupportedModel
from ...core.twig import TwigSpec
from ..cache.kept import window_of
from ..prefill.decoder_call import LayerCall
from ..prefill.run import ForwardRun
from ..prefill.state import PrefillState
from ..prefill.step import entering_call
from ..twig.growth import LiveTwig, grow
from .answer import Counts, DraftedAnswer, EarlyEnd
from .candidates import GuessedTokens
from .generating import drafting_generate
from .twig_run import TwigRun

__all__ = ["Drafting"]


class _Here(threading.local):
    answer: DraftedAnswer | None = None
    """The answer that this thread is generating."""


class Drafting:
    """`Draft` on one model.

    Args:
        anatomy: the model's.
        draft: what guesses.
        skipped: layers whose attention does not run.
        ranking: the attached policy's twig and what it was grown from, where it has one: the same one then drafts, and
            runs over a prompt once.

    Raises:
        SettingsError: K does not fit the decoder's depth.
        ModelMismatch: the twig was made for another model.
        UnsupportedModel: the decoder's layers cannot be drafted with.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        draft: Draft,
        skipped: frozenset[int],
        ranking: tuple[LiveTwig, TwigSpec] | None,
        allow_other_model: bool = False,
    ) -> None:
        if not isinstance(draft, Draft):
            raise SettingsError(f"draft={draft!r} is no draft. Give la.Draft(8), or la.Draft(la.load('out/twig')).")
        if anatomy.only_before:
            raise UnsupportedModel(
                f"Drafting is not possible on {anatomy.base.architecture}: {anatomy.only_before}. Attach without "
                "draft=."
            )
        start, depth = draft.start, anatomy.num_layers
        if start >= depth:
            raise SettingsError(
                f"A draft of {start} layers does not fit a decoder of {depth}: some layers must be left to check it. "
                f"Give a number from 1 to {depth - 1}."
            )
        if skipped.issuperset(range(start)):
            raise SettingsError(
                f"The policy skips the attention of all of the first {start} layers, so nothing in them could guess. "
                "Draft with more layers."
            )
        self.draft, self.start = draft, start
        self._anatomy, self._here = anatomy, _Here()
        self._counts: WeakKeyDictionary[Any, Counts] = WeakKeyDictionary()
        self.twig, self.shares_twig = self._grown(ranking, allow_other_model)

    def _grown(self, ranking: tuple[LiveTwig, TwigSpec] | None, allow_other_model: bool) -> tuple[Any, bool]:
        spec = self.draft.twig
        if spec is None:
            return None, False
        self._anatomy.check_policy(self.draft.by, allow_other_model)  # type: ignore[arg-type]
        if ranking is not None and _same(spec, ranking[1]):
            return ranking[0], True
        return grow(self._anatomy, spec), False

    def install(self, current: Callable[[], ForwardRun | None]) -> list[Callable[[], object]]:
        """Put the hooks on, after those of the policy; returns what takes them off, to be called in reverse order.

        Args:
            current: the forward that this thread runs now.
        """
        layers, undo = self._anatomy.layers, list[Callable[[], object]]()
        for index in range(self.start):
            before = partial(self._before_shared, index)
            undo.append(layers[index].register_forward_pre_hook(before, with_kwargs=True).remove)
            undo.append(layers[index].register_forward_hook(self._after_shared, with_kwargs=True, prepend=True).remove)
        first = partial(self._before_first, current)
        undo.append(layers[self.start].register_forward_pre_hook(first, with_kwargs=True, prepend=True).remove)
        undo += drafting_generate(self._anatomy.model, self.start, self._begin, self._candidates)
        return undo

    # an answer -------------------------------------------------------------------------------------------------------

    def _begin(self) -> Callable[[], None]:
        """`generate` begins in this thread; returns what ends it. One may begin within another, e.g. in a streamer."""
        around = self._here.answer
        self._here.answer = DraftedAnswer(None if self.twig is None else TwigRun(self.twig))

        def end() -> None:
            self._here.answer = around

        return end

    def _candidates(self, config: Any, processors: Any) -> GuessedTokens | None:
        """What transformers asks for guesses; None: this `generate` was not ours."""
        answer = self._here.answer
        if answer is None:
            return None
        return GuessedTokens(self._anatomy, self.draft, answer, config, processors, self._logits, self._settled)

    def began(self, record: Any) -> None:
        """A prompt's prefill ended; `record` is what its trace is made of. Later ones within an answer are others."""
        answer = self._here.answer
        if answer is not None and answer.record is None:
            answer.record = record

    def counts(self, record: Any) -> Counts | None:
        """What became of the guesses behind a prompt; None: nothing was guessed."""
        return self._counts.get(record)

    def _settled(self, answer: DraftedAnswer, drafted: int, accepted: int) -> None:
        if answer.record is None:
            return
        counts = self._counts.setdefault(answer.record, answer.counts)
        counts.drafted += drafted
        counts.accepted += accepted
        counts.checks += 1

    def _logits(self, answer: DraftedAnswer, call: LayerCall) -> Tensor:
        """What is guessed behind the token that enters layer K in `call`: logits [1, vocabulary]."""
        if answer.twig is None:
            return self._anatomy.logits(call.hidden[:, -1])
        hidden = answer.twig.step(call, answer.before + len(answer.states) - 1)
        return self._anatomy.head_logits(answer.twig.twig.norm(hidden[:, -1]))

    # the hooks -------------------------------------------------------------------------------------------------------

    def _before_shared(self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Of the check's tokens only the last is new to the layers under K."""
        answer = self._here.answer
        if answer is None or answer.mode != "check":
            return None
        call = self._call(index, args, kwargs)
        return call.last_slot(answer.places[index].take_up()).arguments()

    def _after_shared(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Tensor | None:
        """Others see as many rows as the check has; only the last is read."""
        answer = self._here.answer
        if answer is None or answer.mode != "check":
            return None
        if not isinstance(output, Tensor):
            raise UnsupportedModel(f"A decoder layer of this model returns {type(output).__name__}, not its rows.")
        return output.expand(-1, len(answer.states) + 1, -1)

    def _before_first(
        self,
        current: Callable[[], ForwardRun | None],
        layer: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Layer K: a guess ends here, a check goes on from what guessing left, and a prompt fills the twig's cache."""
        answer = self._here.answer
        if answer is None:
            return None
        call = self._call(self.start, args, kwargs)
        if answer.mode == "guess":
            answer.caught = call
            raise EarlyEnd
        if answer.mode == "check":
            return self._joined(answer, call).arguments()
        if answer.twig is not None and not answer.twig.filled:
            self._fill(answer.twig, call, current())
        return None

    def _joined(self, answer: DraftedAnswer, call: LayerCall) -> LayerCall:
        for place in answer.places:
            place.checked()
        guessed = len(answer.states)
        if call.hidden.shape[1] != guessed + 1:
            raise AssertionError(f"a draft of {guessed} tokens is checked by a forward of {call.hidden.shape[1]}")
        if answer.twig is not None:
            before = answer.before + guessed
            window = window_of(call.cache, call.layer)
            answer.twig.note_unseen(call.last_slot(None if window is None else min(before + 1, window)), before)
        return call.with_rows(answer.joined(call.hidden))

    def _fill(self, twig: TwigRun, call: LayerCall, run: ForwardRun | None) -> None:
        if run is None or run.state is None:
            raise AssertionError("an answer is drafted behind a whole prompt")  # `generating.py` refuses others
        state = run.state
        entering = entering_call(state, call)
        if self.shares_twig and state.has_visual_tokens:
            return  # the policy's ranking runs it, and fills the cache that `shared_cache` gives
        self.twig.fill(entering, twig.begin(call, state))

    def shared_cache(self, call: LayerCall, state: PrefillState) -> Any:
        """Where the policy's ranking leaves the twig's keys and values for drafting; None: nobody needs them."""
        answer = self._here.answer
        if not self.shares_twig or answer is None or answer.twig is None or answer.twig.filled:
            return None
        return answer.twig.begin(call, state)

    def _call(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall:
        anatomy = self._anatomy
        return LayerCall(index, args, kwargs, anatomy.attention, {}, anatomy.row_arguments)


def _same(one: TwigSpec, other: TwigSpec) -> bool:
    """Two specs of one twig."""
    if (one.start, one.depth, set(one.tensors)) != (other.start, other.depth, set(other.tensors)):
        return False
    return all(
        one.tensors[name] is other.tensors[name] or torch.equal(one.tensors[name], other.tensors[name])
        for name in one.tensors
    )
