"""The closed form: against sums by hand, against published numbers, and its laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookaway.core.cost import DecoderShape, prefill_cost

LLAMA_7B = DecoderShape(32, 4096, 11008, 32, 32, 128, 32000, dtype_bytes=2)
GROUPED = DecoderShape(30, 576, 1536, 9, 3, 64, 49152)


def exit_at(shape, layer, visual=576, text=65, rows=1):
    """Cost of exiting before `layer`, [L][B]."""
    seen = [visual] * layer + [0] * (shape.num_layers - layer)
    return prefill_cost(shape, [[v + text] * rows for v in seen], [[v] * rows for v in seen])


def test_one_layer_by_hand():
    shape = DecoderShape(1, 8, 16, 2, 1, 4, 50)
    projections = 8 * 8 + 2 * (8 * 4) + 8 * 8  # q, k and v of one of two heads, o
    assert shape.layer_flops(5) == 2 * 5 * (projections + 3 * 8 * 16) + 2 * 2 * 5 * 5 * 8
    assert shape.layer_fastv(5) == 4 * 5 * 64 + 2 * 25 * 8 + 2 * 5 * 8 * 16
    assert shape.kv_bytes(5) == 2 * 5 * 4 * 4


def test_a_held_layer_by_hand():
    shape = DecoderShape(1, 8, 16, 2, 1, 4, 50)
    running, all_of_it, pairs = 8 * 8 + 8 * 8 + 3 * 8 * 16, 2 * (8 * 4), 2 * 5  # q, o and FFN of 2; k and v of 5
    assert shape.layer_flops(5, held=3) == 2 * (2 * running + 5 * all_of_it) + 2 * 2 * pairs * 8
    assert shape.layer_fastv(5, held=3) == 2 * 2 * 64 + 2 * 5 * 64 + 2 * pairs * 8 + 2 * 2 * 8 * 16
    assert shape.layer_flops(5, held=0) == shape.layer_flops(5)


def test_shortv_costs_what_its_paper_says():
    """LLaVA-1.5-7B, 19 of 32 layers frozen: 4.7 of 8.5 TFLOPs, 55 % (arXiv 2504.00502, its main table)."""
    tokens, visual = [[641]] * 32, [[576]] * 32
    cost = prefill_cost(LLAMA_7B, tokens, visual, held=range(13, 32))
    assert cost.flops == pytest.approx(4.7e12, rel=0.01)
    assert cost.flops_share == pytest.approx(0.55, abs=0.005)
    assert cost.kv_share == 1


def test_published_totals_for_llava_7b():
    """LLaVA-1.5-7B with 576 visual and 65 text tokens: 8.52 T counted, 3.33 T by FastV's formula."""
    cost = exit_at(LLAMA_7B, 32)
    assert cost.full_flops == pytest.approx(8.52e12, rel=0.002)
    assert cost.full_fastv_flops == pytest.approx(3.33e12, rel=0.002)
    assert cost.flops_share == cost.fastv_share == cost.kv_share == 1.0


@pytest.mark.parametrize(("layer", "share"), [(8, 0.324), (16, 0.550), (20, 0.662), (24, 0.775)])
def test_ceilings_of_an_exit(layer, share):
    assert exit_at(LLAMA_7B, layer).flops_share == pytest.approx(share, abs=0.001)


@given(st.integers(1, 29), st.integers(0, 300), st.integers(1, 60), st.integers(1, 4))
def test_an_earlier_exit_never_costs_more(layer, visual, text, rows):
    early, late = exit_at(GROUPED, layer, visual, text, rows), exit_at(GROUPED, layer + 1, visual, text, rows)
    for name in ("flops", "fastv_flops", "kv_bytes", "visual_tokens"):
        assert getattr(early, name) <= getattr(late, name)
        assert getattr(late, f"full_{name}") == getattr(early, f"full_{name}") >= getattr(late, name)
    assert early.visual_tokens == pytest.approx(visual * layer / 30)
    assert 0 < early.flops_share <= 1


@given(st.integers(1, 300), st.integers(1, 300))
def test_rows_add_up(first, second):
    both = prefill_cost(GROUPED, [[first, second]] * 30, [[0, 0]] * 30)
    alone = [prefill_cost(GROUPED, [[n]] * 30, [[0]] * 30) for n in (first, second)]
    assert (both.flops, both.kv_bytes) == (sum(c.flops for c in alone), sum(c.kv_bytes for c in alone))


def test_padding_is_stored_but_not_computed():
    padded = prefill_cost(GROUPED, [[10, 4]] * 30, [[0, 0]] * 30, cache_slots=[[10, 10]] * 30)
    exact = prefill_cost(GROUPED, [[10, 4]] * 30, [[0, 0]] * 30)
    assert padded.flops == exact.flops
    assert padded.kv_bytes == 30 * 2 * GROUPED.kv_bytes(10) > exact.kv_bytes
