"""Which rows run together: the cheapest way to part them, against all ways there are."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lookaway.engine.cache.kept import Kept
from lookaway.engine.prefill.row_groups import make_groups, partition


def cost(groups, lengths, call):
    return sum(len(rows) * max(lengths[row] for row in rows) + call for rows in groups)


def all_partitions(rows):
    if not rows:
        yield []
        return
    first, *rest = rows
    for parts in all_partitions(rest):
        yield [[first], *parts]
        for i, part in enumerate(parts):
            yield [*parts[:i], [first, *part], *parts[i + 1 :]]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.sampled_from([0, 16, 60, 1000]))
def test_no_other_partition_costs_less(lengths, call):
    found = partition(lengths, call)
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    least = min(cost(groups, lengths, call) for groups in all_partitions(list(range(len(lengths)))))
    assert cost(found, lengths, call) == least


def test_short_rows_do_not_pay_for_long_ones_unless_the_call_costs_more():
    assert partition([216, 20, 216, 24], 32) == [[1, 3], [0, 2]]
    assert partition([216, 216], 0) == [[0, 1]] or partition([216, 216], 0) == [[0], [1]]
    assert partition([30, 20], 32) == [[0, 1]]


def test_a_group_holds_the_valid_slots_of_its_rows():
    index = torch.arange(300).expand(2, -1)
    valid = torch.ones(2, 300, dtype=torch.bool)
    valid[0, :280] = False
    short, long = make_groups(Kept(index, valid, False), [20, 300], pad_right=False)
    assert (short.rows.tolist(), short.slots) == ([0], slice(280, 300))
    assert short.kept.full
    assert short.kept.index.tolist() == [list(range(280, 300))]
    hidden = torch.randn(2, 300, 3)
    assert torch.equal(short.of(hidden), hidden[:1, 280:])
    assert (long.rows.tolist(), long.slots) == ([1], slice(0, 300))
