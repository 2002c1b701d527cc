"""The closed form of core.cost is what PyTorch executes, on every attention kernel, with and without exits."""

import pytest
import torch

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.evaluation.cost import counted_flops


def head_flops(shape, rows):
    return 2 * shape.hidden_size * shape.vocab_size * rows


def vision_flops(model, inputs):
    return counted_flops(lambda: model.get_image_features(inputs["pixel_values"]))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layer", [None, 1, 2, 3])
def test_counted_equals_the_closed_form(attention, layer):
    small = tiny("llava", attn_implementation=attention)
    inputs, model = small.inputs("single"), small.model
    policy = la.KeepAll() if layer is None else la.ExitAt(layer)
    with la.attach(model, policy) as attached:
        found = counted_flops(lambda: model(**inputs, logits_to_keep=1))
    trace = attached.trace
    assert trace.exit_layers == [layer]
    cost = trace.cost()
    rotary = 2 * inputs["input_ids"].shape[1] * (trace.shape.head_dim // 2)  # inv_freq @ positions, once a forward
    assert found - vision_flops(model, inputs) - head_flops(trace.shape, 1) - cost.flops in (0, rotary)
    assert (cost.flops == cost.full_flops) == (layer is None)


def test_attention_on_cpus_is_counted_at_all():
    query = torch.randn(1, 2, 16, 8)
    found = counted_flops(lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query))
    assert found == 2 * 2 * 2 * 16 * 16 * 8
