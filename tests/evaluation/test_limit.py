"""The least time of a prefill and of decoding, against an example computed by hand."""

import pytest
import torch

from lookaway.core.cost import DecoderShape
from lookaway.core.record import Trace
from lookaway.evaluation.limit import Machine, decode_limit, layer_seconds, measure_machine, prefill_limit

# A token meets 2 x 4 x 4 (queries, output) + 2 x 4 x 2 (one KV head of 2) + 3 x 4 x 8 (FFN) = 144 entries a layer; a
# query and a key meet in 2 heads x (2 + 2) = 8 multiply-adds; a token's keys and values are 4 elements of 4 bytes.
SHAPE = DecoderShape(num_layers=2, hidden_size=4, intermediate_size=8, num_heads=2, num_kv_heads=1, head_dim=2,
                     vocab_size=10)  # fmt: skip
TRACE = Trace(SHAPE, [1], [[3], [0]], [[5], [2]], [5, 2])


def test_arithmetic_of_a_layer_counts_the_causal_half():
    slow = Machine(flops=1.0, bandwidth=1e9)
    # 5 tokens: 2 x 144 x 5 = 1440, and 15 pairs of 2 x 8: 240
    assert layer_seconds(SHAPE, slow, [5], [0], 0) == 1440 + 240
    # one token behind 5: 288, and 6 pairs: 96
    assert layer_seconds(SHAPE, slow, [1], [5], 0) == 288 + 96
    assert layer_seconds(SHAPE, slow, [1, 1], [5, 2], 0) == 288 * 2 + 96 + 48
    assert layer_seconds(SHAPE, slow, [5], [0], 0, attends=False) == 2 * 96 * 5


def test_bytes_of_a_layer_are_its_weights_once_and_its_keys_and_values():
    narrow = Machine(flops=1e9, bandwidth=1.0)
    assert layer_seconds(SHAPE, narrow, [5], [0], 0) == 144 * 4 + 5 * 16
    assert layer_seconds(SHAPE, narrow, [1, 1], [5, 2], 0) == 144 * 4 + (6 + 3) * 16
    assert layer_seconds(SHAPE, narrow, [5], [0], 0, attends=False) == 96 * 4


def test_each_layer_takes_the_longer_of_the_two_and_the_head_is_added():
    # layer 0, 5 tokens: 1680 FLOPs, 656 bytes; layer 1, 2 tokens: 624 FLOPs, 608 bytes; head: 80 FLOPs, 160 bytes
    assert prefill_limit(TRACE, Machine(1.0, 1.0)) == 1680 + 624 + 160
    assert prefill_limit(TRACE, Machine(2.0, 1.0)) == 840 + 608 + 160
    # a step behind it: 288 + 6 x 16 FLOPs and 576 + 6 x 16 bytes; 288 + 3 x 16 and 576 + 3 x 16
    assert decode_limit(TRACE, Machine(1.0, 1.0), 1) == 672 + 624 + 160
    assert decode_limit(TRACE, Machine(1.0, 1.0), 2) == (672 + 624 + 160) + (688 + 640 + 160)
    assert decode_limit(TRACE, Machine(1.0, 1.0), 0) == 0


def test_skipped_frozen_and_needless_work_is_not_in_the_limit():
    machine = Machine(1.0, 1e9)
    skipped = Trace(SHAPE, [None], [[3], [3]], [[5], [5]], [5, 0], skipped=[1], tail=1)
    assert prefill_limit(skipped, machine) == 1680 + 2 * 96 * 1 + 80
    frozen = Trace(SHAPE, [None], [[3], [3]], [[5], [5]], [5, 5], held=[1])
    assert prefill_limit(frozen, machine) == 1680 + 624 + 80


def test_a_machine_s_rates_are_measured_and_the_better_of_two_counts():
    found = measure_machine(SHAPE, torch.float32, "cpu", 5, seconds=0)
    assert found.flops > 1e6
    assert found.bandwidth > 1e6
    assert Machine(1.0, 4.0).better(Machine(2.0, 3.0)) == Machine(2.0, 4.0)
    assert Machine(2.0, 4.0).seconds(6, 4) == pytest.approx(3)
