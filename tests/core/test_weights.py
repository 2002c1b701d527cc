"""Digests of weights: every value counts, and one checkpoint is one model whatever float it is loaded in."""

import copy

import pytest
import torch
from torch import nn

import lookaway as la
from lookaway.anatomy.tiny import tiny
from lookaway.core.errors import UnsupportedModel
from lookaway.core.weights import identity_digest, tensors_digest, weights_digest


@pytest.fixture
def model():
    return tiny("llava").model


def test_one_value_of_one_weight_changes_the_digest(model):
    """The digest of 0.1 looked at some 33 values a weight: this one it did not see."""
    before, other = weights_digest(model), copy.deepcopy(model)
    assert weights_digest(other) == before
    weight = other.model.language_model.layers[2].mlp.down_proj.weight
    with torch.no_grad():
        weight.view(-1)[weight.numel() // 2 + 1] += 1e-3
    assert weights_digest(other) != before
    assert weights_digest(model) == before


@pytest.mark.parametrize("change", ["in place", "swapped", "data"])
def test_what_changes_after_it_was_hashed_is_hashed_again(model, change):
    before = weights_digest(model)
    weight = model.lm_head.weight
    if change == "in place":
        with torch.no_grad():
            weight[3, 3] += 1
    elif change == "swapped":
        weight.data = weight.data + torch.eye(*weight.shape)
    else:
        weight.data += 1  # as peft merges: without a new version of the tensor
    assert weights_digest(model) != before


def test_the_second_look_hashes_nothing(model, monkeypatch):
    import lookaway.core.weights as module

    first = weights_digest(model)
    monkeypatch.setattr(module, "_hash", lambda *a: pytest.fail("hashed again"))
    assert weights_digest(model) == first


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_a_checkpoint_is_one_model_as_stored_in_float32_and_in_bfloat16(model, stored):
    checkpoint = model.to(stored)
    digests = {identity_digest(copy.deepcopy(checkpoint).to(d)) for d in (stored, torch.float32, torch.bfloat16)}
    assert len(digests) == 1
    assert len({weights_digest(copy.deepcopy(checkpoint).to(d)) for d in (torch.float32, torch.bfloat16)}) == 2


def test_an_adapter_makes_another_model(model):
    peft = pytest.importorskip("peft")
    before = la.anatomy(model).identity.weights
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(copy.deepcopy(model), config)
    beside = la.anatomy(tuned).identity.weights
    merged = la.anatomy(tuned.merge_and_unload()).identity.weights
    assert len({before, beside, merged}) == 3


def test_names_dtypes_and_shapes_count():
    value = torch.zeros(4)
    digests = [tensors_digest(t) for t in ({"a": value}, {"b": value}, {"a": value.half()}, {"a": value.view(2, 2)})]
    assert len(set(digests)) == 4


def test_weights_that_are_not_in_memory_are_not_taken_for_known():
    with torch.device("meta"):
        away = nn.Linear(2, 2)
    assert identity_digest(away) == ""
    with pytest.raises(UnsupportedModel, match="'weight' is not in memory"):
        weights_digest(away)
