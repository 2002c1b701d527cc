"""Curves from a table, against numbers worked out by hand."""

import numpy as np
import pytest

from lookaway.core.cost import DecoderShape
from lookaway.core.errors import DataError
from lookaway.evaluation.curves import ExitOutcomes

SHAPE = DecoderShape(4, 8, 16, 2, 1, 4, 50)


def outcomes(agree, right=None, layers=(1, 2, 4), visual=6, text=3):
    agree = np.array(agree, dtype=bool)
    n = len(agree)
    right = agree if right is None else np.array(right, dtype=bool)
    return ExitOutcomes(layers, right, agree, np.full(n, visual), np.full(n, text), SHAPE)


TABLE = outcomes([[0, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 1]], right=[[0, 1, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1]])


def test_flops_are_those_of_the_closed_form():
    full, text = SHAPE.layer_flops(9), SHAPE.layer_flops(3)
    assert TABLE.flops.tolist() == [[full + 3 * text, 2 * full + 2 * text, 4 * full]] * 4


def test_fixed_exits():
    first, second, never = TABLE.fixed()
    assert (first.accuracy, first.agreement, first.mean_exit) == (0.25, 0.5, 1.0)
    assert (second.accuracy, never.accuracy, never.agreement, never.flops_share) == (0.75, 0.75, 1.0, 1.0)
    assert first.visual_tokens_share == 0.25


def test_the_oracle_takes_the_earliest_layer_that_agrees():
    oracle = TABLE.oracle()
    assert oracle.agreement == 1.0
    assert oracle.mean_exit == (2 + 1 + 4 + 1) / 4
    assert oracle.accuracy == TABLE.fixed()[-1].accuracy


def test_random_exits_keep_the_mean_and_mix_the_fixed_ones():
    for mean in (1.0, 1.7, 2.3, 4.0):
        assert TABLE.random(mean).mean_exit == pytest.approx(mean, abs=1e-6)
    middle = TABLE.random(7 / 3)  # all three alike
    assert middle.accuracy == pytest.approx((0.25 + 0.75 + 0.75) / 3)


def test_the_best_fixed_exit_at_a_cost_may_mix_two_layers():
    table = outcomes([[0, 0, 1], [0, 0, 1], [1, 1, 1], [1, 1, 1]])
    first, _, never = table.fixed()
    at = (first.flops_share + never.flops_share) / 2
    assert table.best_fixed_at(at).accuracy == pytest.approx(0.75)  # not the 0.5 that layer 2 alone would give
    assert table.best_fixed_at(1.0).accuracy == 1.0
    assert table.best_fixed_at(0.0) == first


def test_gates_are_judged_by_their_exit_layers():
    chosen = TABLE.of(TABLE.columns_of([2, 1, None, 1]))
    assert chosen == TABLE.oracle()
    with pytest.raises(DataError, match="Layer 3 is no candidate"):
        TABLE.columns_of([3])


def test_subset_and_checks():
    assert TABLE.subset(np.array([True, False, False, True])).fixed()[0].accuracy == 0.5
    with pytest.raises(DataError, match="must ascend to 4"):
        outcomes([[1, 1]], layers=(1, 2))
    with pytest.raises(DataError, match="Outcomes must be"):
        outcomes([[1, 1]], layers=(1, 2, 4))
