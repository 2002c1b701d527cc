"""Every statistic against a straightforward computation, on made-up numbers whose answer is known."""

import numpy as np
import pytest
from made_up_study import DEPTH, WINDOWS, made_up
from scipy.stats import kendalltau, spearmanr

from lookaway.analysis.attention_flow import entropy_table, flow_table
from lookaway.analysis.findings import find
from lookaway.analysis.intervals import bootstrap, mean_interval
from lookaway.analysis.knockout import causes_table, rank_correlation
from lookaway.analysis.rank_stability import kendall_matrix, overlap_matrix, rank_table
from lookaway.analysis.saliency import saliency_table
from lookaway.analysis.stopping import earliest_safe, settled, stopping_table
from lookaway.core.errors import DataError


def test_kendall_and_overlap_equal_the_textbook_with_ties():
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.random((4, 40)), rng.integers(0, 4, (3, 40))]).astype(float)
    tau, overlap = kendall_matrix(scores), overlap_matrix(scores, 10)
    for one in range(7):
        for two in range(7):
            assert tau[one, two] == pytest.approx(kendalltau(scores[one], scores[two]).statistic)
            if one < 4 and two < 4:
                common = set(np.argsort(-scores[one])[:10]) & set(np.argsort(-scores[two])[:10])
                assert overlap[one, two] == pytest.approx(len(common) / 10)
    assert np.isnan(kendall_matrix(np.ones((2, 5)))).all()


def test_spearman_with_ties_and_flat_curves():
    rng = np.random.default_rng(2)
    one, two = rng.random((3, 11)), rng.integers(0, 4, (3, 11)).astype(float)
    wanted = [spearmanr(a, b).statistic for a, b in zip(one, two, strict=True)]
    assert rank_correlation(one, two) == pytest.approx(wanted)
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))


def test_intervals_equal_a_plain_bootstrap_and_leave_out_what_is_not_known():
    values = np.random.default_rng(3).random((20, 2, 3))
    mean, low, high = mean_interval(values)
    plain_low, plain_high = bootstrap(values, lambda drawn: drawn.mean(0))
    assert mean == pytest.approx(values.mean(0))
    assert low == pytest.approx(plain_low)
    assert high == pytest.approx(plain_high)
    assert (low < mean).all()
    assert (mean < high).all()
    values[0, 0, 0], values[:, 1, 1] = np.nan, np.nan
    mean, _, high = mean_interval(values)
    assert mean[0, 0] == pytest.approx(values[1:, 0, 0].mean())
    assert np.isnan(mean[1, 1])
    assert np.isnan(high[1, 1])


def test_flow_and_entropy_tables_are_means_and_variances_by_family():
    records = [made_up(n, family="ab"[n % 2]) for n in range(6)]
    table = flow_table(records)
    assert list(table) == ["all", "a", "b"]
    assert [table[family]["samples"] for family in table] == [6, 3, 3]
    own = np.array([r["flow"]["mean"]["cross"] for r in records[1::2]])
    assert table["b"]["mean"]["cross"]["mean"] == pytest.approx(own.mean(0))
    assert table["b"]["mean"]["cross"]["variance"] == pytest.approx(own.var(0, ddof=1))
    assert flow_table(records[:1])["all"]["max"]["cross"]["variance"] == [None] * DEPTH
    entropy = entropy_table(records)
    assert list(entropy) == ["full", "6"]
    assert entropy["6"]["cross"]["mean"] == [0.5] * 6 + [None] * 6


def test_causes_find_where_mass_and_effect_disagree():
    table = causes_table([made_up(n) for n in range(8)])
    assert table["windows"] == [list(w) for w in WINDOWS]
    effect = np.mean([np.array(made_up(n)["knockout"]["loss"]) - 0.3 for n in range(8)], axis=0)
    assert table["effect"][0] == pytest.approx(effect)
    assert table["changed"][0] == [float(first >= 5) for first, _ in WINDOWS]
    assert table["accuracy"] == [float(first < 5) for first, _ in WINDOWS]
    assert table["agreement"]["mass"][0] == pytest.approx(-1.0)  # attention falls with depth, effect rises
    assert table["agreement"]["mass"][2] < 0
    assert table["overrated"] == list(range(5))
    assert table["underrated"] == list(range(5, 10))
    mass = np.mean([[np.mean(made_up(n)["flow"]["mean"]["cross"][a:b]) for a, b in WINDOWS] for n in range(8)], axis=0)
    gap = np.abs(mass / mass.sum() - effect / effect.sum()).sum() / 2
    assert table["distance"] == pytest.approx(gap)
    assert table["families"]["a"]["effect"] == pytest.approx(effect)


def test_causes_of_a_model_that_does_not_look():
    records = [made_up(n) for n in range(3)]
    for record in records:
        record["knockout"].update(loss=[0.3] * 10, same=[True] * 10, right=None, full_right=None)
    table = causes_table(records)
    assert table["agreement"]["mass"] == [None, None, None]
    assert (table["accuracy"], table["full_accuracy"]) == (None, None)


def test_stopping_counts_every_sample_once():
    assert earliest_safe((1, 2, 3), (False, True, False), 4) == 2
    assert settled((1, 2, 3), (False, True, False), 4) == 4
    assert settled((1, 2, 3), (True, False, True), 4) == 3
    assert settled((1, 2, 3), (True, True, True), 4) == 1
    assert earliest_safe((1, 2), (False, False), 4) == 4
    records = [made_up(n, family="ab"[n % 2]) for n in range(6)]
    table = stopping_table(records)
    assert table["all"]["layers"] == list(range(1, DEPTH + 1))
    assert table["all"]["earliest"] == [0, 0, 0, 0, 2, 2, 2, 0, 0, 0, 0, 0, 0]
    assert table["all"]["agreement"][0][3:6] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert table["all"]["accuracy"][0] == [0.0] * 3 + [1.0] * 9
    assert table["all"]["loss"] == pytest.approx([1 / k for k in range(1, DEPTH)] + [0.0])
    records[0]["exits"].update(right=None, full_right=None)
    assert stopping_table(records)["all"]["accuracy"] is None
    assert stopping_table(records)["b"]["accuracy"] is not None


def test_saliency_gives_each_sample_one_voice():
    records = [made_up(n) for n in range(3)]
    plain = saliency_table(records)
    records[0]["saliency"] = {name: [1000 * v for v in curve] for name, curve in records[0]["saliency"].items()}
    assert saliency_table(records)["all"]["reading"][0] == pytest.approx(plain["all"]["reading"][0])
    assert sum(plain["all"]["reading"][0]) == pytest.approx(1.0)
    reading, remaining = plain["all"]["reading"][0], plain["all"]["remaining"][0]
    assert remaining == pytest.approx([sum(reading[layer:]) for layer in range(DEPTH)])
    assert (remaining[0], remaining[-1]) == pytest.approx((1.0, reading[-1]))
    assert remaining[-1] > 0  # what the last layer reads is still to be read there
    records[1]["saliency"]["reading"] = [0.0] * DEPTH  # hangs on nothing: left out
    assert np.isfinite(saliency_table(records)["all"]["reading"][0]).all()


def test_rank_table_reads_neighbours_off_the_diagonal():
    records = [made_up(n) for n in range(4)]
    table = rank_table(records)
    own = np.mean([r["ranks"]["text"]["tau"] for r in records], axis=0)
    assert np.array(table["text"]["tau"]) == pytest.approx(own)
    assert table["text"]["next_tau"][0] == pytest.approx([own[i, i + 1] for i in range(DEPTH - 1)])


def test_records_that_do_not_belong_together_are_refused():
    with pytest.raises(DataError, match="no study records"):
        find([])
    with pytest.raises(DataError, match="layers of '0' and '1' are 12 and 8"):
        find([made_up(0), made_up(1, depth=8)])
    other = made_up(1)
    other["ranks"]["top_share"] = 0.5
    with pytest.raises(DataError, match="top share"):
        find([made_up(0), other])
