"""FLOPs and KV bytes of decoders whose layers are not alike: sums by hand, and torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import lookaway as la
from lookaway.anatomy.tiny import tiny

D, HEADS, KV, HEAD = 32, 4, 2, 8  # the sizes of anatomy.tiny


def test_a_token_costs_the_experts_that_it_visits():
    """Qwen3-VL MoE: 2 of 4 experts of width 24, three matrices each, and a router."""
    shape = la.anatomy(tiny("qwen3_vl_moe").model).shape
    attention = D * HEADS * HEAD * 2 + 2 * D * KV * HEAD  # q, o, k, v
    layer = shape.layer(0)
    assert layer.queries + layer.keys == attention
    assert layer.keys == 2 * D * KV * HEAD
    assert layer.ffn == 2 * 3 * D * 24 + D * 4
    assert (layer.scores, layer.kv) == (2 * HEADS * HEAD, 2 * KV * HEAD)
    assert shape.layer_flops(5) == 2 * 5 * (attention + 2 * 3 * D * 24 + D * 4) + 2 * 25 * 2 * HEADS * HEAD


def test_a_shared_expert_and_a_running_state():
    """Qwen3.5 MoE: three linear layers and a full one, 2 of 4 experts and a shared one with a gate."""
    shape = la.anatomy(tiny("qwen3_5_moe").model).shape
    linear, full = shape.layer(0), shape.layer(3)
    ffn = 2 * 3 * D * 24 + D * 4 + 3 * D * 24 + D  # experts, router, shared expert, its gate
    assert linear.ffn == full.ffn == ffn
    assert (linear.scores, linear.kv) == (0, 0)  # a state of fixed size
    assert full.queries == D * 2 * HEADS * HEAD + HEADS * HEAD * D  # q with its gate, o
    assert full.keys == 2 * D * KV * HEAD
    assert (full.scores, full.kv) == (2 * HEADS * HEAD, 2 * KV * HEAD)
    assert shape.kv_bytes(10, 3) == 10 * 2 * KV * HEAD * 4
    assert shape.kv_bytes(10, 0) == 0


@pytest.mark.parametrize("family", ["qwen3_vl_moe", "llava", "qwen2_5_vl"])
def test_matrices_are_those_that_torch_counts(family):
    """One token without a past: its score with itself is all that comes on top of matrices."""
    example = tiny(family, attn_implementation="eager")
    if family == "qwen3_vl_moe":
        example.model.set_experts_implementation("eager")  # torch counts no grouped matrices
    anatomy = la.anatomy(example.model)
    ids = torch.tensor([[20]])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        anatomy.language_model(inputs_embeds=anatomy.language_model.get_input_embeddings()(ids), use_cache=False)
    counts = counter.get_flop_counts()
    found = [sum(counts[name].values()) for name in counts if name.count(".layers.") == 1
             and name.rsplit(".", 1)[-1].isdigit()]  # fmt: skip
    assert found == [anatomy.shape.layer_flops(1, layer=layer) for layer in range(4)]
