"""Says where to mend the engine when transformers changes what it calls decoder layers with."""

import pytest
import torch
from shared_tiny import families, tiny_once

import lookaway as la

NARROWED = {"attention_mask", "position_embeddings", "position_ids"}
"""What `LayerCall.narrowed` cuts to the tokens that are left."""
MEND = "mend src/lookaway/engine/prefill/decoder_call.py, LayerCall.narrowed"


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [part for one in value for part in tensors(one)] if isinstance(value, tuple | list) else []


def calls_of(model, inputs):
    """What each layer is called with: [(layer, positional, keywords)]."""
    anatomy, seen = la.anatomy(model), []
    hooks = [
        layer.register_forward_pre_hook(lambda m, args, kwargs, i=i: seen.append((i, args, kwargs)), with_kwargs=True)
        for i, layer in enumerate(anatomy.layers)
    ]
    with torch.no_grad():
        model(**inputs, use_cache=True)
    for hook in hooks:
        hook.remove()
    return seen


def check(layer, args, kwargs, length):
    assert len(args) + ("hidden_states" in kwargs) == 1, f"layer {layer} takes {len(args)} positional arguments: {MEND}"
    for name, value in kwargs.items():
        if name != "hidden_states" and any(length in part.shape for part in tensors(value)):
            assert name in NARROWED, f"layer {layer} is given {name!r} over all tokens: {MEND}"
    assert "past_key_values" in kwargs, f"layer {layer} gets no past_key_values: {MEND}, and LayerCall.cache"
    cos_sin, mask = kwargs.get("position_embeddings"), kwargs.get("attention_mask")
    assert isinstance(cos_sin, tuple), f"layer {layer} gets rotary embeddings as {type(cos_sin)}: {MEND} (_places)"
    assert [part.shape[-2] for part in cos_sin] == [length, length], f"{MEND} (_places)"
    assert isinstance(mask, torch.Tensor), f"layer {layer} gets its mask as {type(mask)}: {MEND} (_mask)"
    assert mask.shape[2:] == (length, length), f"layer {layer} gets a mask of {tuple(mask.shape)}: {MEND} (_mask)"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@families
def test_whatever_spans_the_sequence_is_narrowed(family, attention):
    example = tiny_once(family, attn_implementation=attention)
    inputs = example.inputs("left_padded")
    calls = calls_of(example.model, inputs)
    assert {layer for layer, _, _ in calls} == set(range(len(la.anatomy(example.model).layers)))
    for layer, args, kwargs in calls:
        check(layer, args, kwargs, inputs["input_ids"].shape[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda kwargs, length: kwargs | {"places": torch.zeros(1, length)},
        lambda kwargs, length: kwargs | {"attention_mask": object()},
        lambda kwargs, length: {"past_key_value" if k == "past_key_values" else k: v for k, v in kwargs.items()},
        lambda kwargs, length: {k: v for k, v in kwargs.items() if k != "position_embeddings"},
    ],
)
def test_the_canary_sings(change):
    example = tiny_once("llava")
    inputs = example.inputs("left_padded")
    length = inputs["input_ids"].shape[1]
    layer, args, kwargs = calls_of(example.model, inputs)[1]
    check(layer, args, kwargs, length)
    with pytest.raises(AssertionError, match=r"layer 1 .*mend src/lookaway/engine/prefill/decoder_call.py"):
        check(layer, args, change(kwargs, length), length)
