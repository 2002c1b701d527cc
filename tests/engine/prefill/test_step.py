"""One step of a prefill: (state, call) -> (state', call'), and what came in stays as it was."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from local_policies import Exit, Thin

from lookaway.core.errors import DataError, InvalidDecision
from lookaway.core.layout import ImageSpan, TokenLayout
from lookaway.engine.prefill.decoder_call import LayerCall
from lookaway.engine.prefill.start import last_column_is_text
from lookaway.engine.prefill.state import PrefillState
from lookaway.engine.prefill.step import prefill_step, repeated_step

ROWS, LENGTH, WIDTH, LAYERS = 2, 8, 4, 3


@pytest.fixture
def layout():
    """text, four visual tokens, three of text; the second row is padded by two on the left."""
    visual = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    visual[0, 1:5] = visual[1, 3:6] = True
    mask = torch.ones(ROWS, LENGTH, dtype=torch.int64)
    mask[1, :2] = 0
    return TokenLayout.from_masks(visual, mask)


def call_of(layer):
    draw = torch.Generator().manual_seed(layer)
    hidden = torch.randn(ROWS, LENGTH, WIDTH, generator=draw)
    places = torch.arange(LENGTH)[None, :, None].expand(1, LENGTH, 2).float()
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril().expand(ROWS, 1, -1, -1)
    keywords = {"attention_mask": causal, "position_embeddings": (places, places), "position_ids": None}
    return LayerCall(layer, (hidden,), keywords, "sdpa", {})


def test_a_removal_is_a_new_state_and_a_new_call(layout):
    state, call = PrefillState.begin(layout, LAYERS), call_of(1)
    after, narrowed = prefill_step(state, call, Exit([1, None]))
    assert (state.kept, state.removals, state.has_visual_tokens) == (None, {}, True)
    assert call.hidden.shape[1] == LENGTH
    assert call.columns is None
    assert after.history.trace is not None
    assert after.layout.counts.tolist() == [4, 6]
    assert after.kept.index[0, -4:].tolist() == [0, 5, 6, 7]
    (hidden,), keywords = narrowed.arguments()
    assert torch.equal(hidden[0, -4:], call.hidden[0, [0, 5, 6, 7]])
    assert keywords["position_embeddings"][0][0, -4:, 0].tolist() == [0, 5, 6, 7]
    open_to = keywords["attention_mask"][0, 0, -4:, -4:]
    assert torch.equal(open_to, torch.ones(4, 4, dtype=torch.bool).tril())


def test_a_state_cannot_be_written(layout):
    state = PrefillState.begin(layout, LAYERS)
    for name in ("kept", "layout", "history", "has_visual_tokens"):
        with pytest.raises(FrozenInstanceError):
            setattr(state, name, None)
    with pytest.raises(FrozenInstanceError):
        state.past.length = 3
    with pytest.raises(FrozenInstanceError):
        call_of(0).layer = 2


def test_a_layer_that_runs_again_gets_the_same_rows(layout):
    state = PrefillState.begin(layout, LAYERS)
    state, first = prefill_step(state, call_of(1), Thin())
    state, _ = prefill_step(state, first.with_rows(first.hidden), None)
    again = repeated_step(state, call_of(1))
    (hidden,), keywords = again.arguments()
    (expected,), wanted = first.arguments()
    assert torch.equal(hidden, expected)
    assert torch.equal(keywords["attention_mask"], wanted["attention_mask"])


def test_nobody_is_asked_where_nothing_is_left_to_drop(layout):
    class Once(Exit):
        asked = 0

        def decide(self, view):
            Once.asked += 1
            return super().decide(view)

    state, call = PrefillState.begin(layout, LAYERS), call_of(1)
    state, call = prefill_step(state, call, Once(1))
    assert not state.has_visual_tokens
    state, _ = prefill_step(state, LayerCall(2, (call.hidden,), call.kwargs, "sdpa", {}), Once(2))
    assert Once.asked == 1


def test_answers_are_not_seen_and_stay(layout):
    answers = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    answers[:, -2:] = True
    seen = []

    class Looking(Exit):
        def decide(self, view):
            seen.append(view.layout)
            keep = view.layout.text  # drops all that is no text to it, the answers among them
            return super().decide(view).__class__(keep=keep)

    state, _ = prefill_step(PrefillState.begin(layout, LAYERS, answers=answers), call_of(1), Looking(1))
    assert not bool((seen[0].text & answers).any())
    assert state.layout.counts.tolist() == [4, 3]
    assert state.answers_left().sum().item() == 4
    with pytest.raises(DataError, match="mask of answers has shape"):
        PrefillState.begin(layout, LAYERS, answers=answers[:, 1:])
    with pytest.raises(InvalidDecision, match="dropped 4 text tokens"):
        prefill_step(PrefillState.begin(layout, LAYERS), call_of(1), Hiding(1))


class Hiding(Exit):
    """Drops the last two columns of every row."""

    def decide(self, view):
        keep = torch.ones_like(view.layout.text)
        keep[:, -2:] = False
        return super().decide(view).__class__(keep=keep)


def test_the_last_column_counts_as_text(layout):
    assert last_column_is_text(layout) is layout
    visual = layout.visual.clone()
    visual[0, 5:] = True
    ends = last_column_is_text(TokenLayout.from_masks(visual, (~layout.padding).long()))
    assert ends.visual[0].tolist() == [False, *[True] * 6, False]
    assert ends.text[0, -1]
    assert ends.spans[0] == (ImageSpan(1, 6),)
    assert torch.equal(ends.visual[1], layout.visual[1])
    alone = torch.zeros(1, 3, dtype=torch.bool)
    alone[0, 2] = True
    assert last_column_is_text(TokenLayout.from_masks(alone)).spans == ((),)
