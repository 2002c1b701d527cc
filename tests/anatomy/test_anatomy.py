"""Every family is found, layouts are right, and what is not a supported model is refused by name."""

import re

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import lookaway as la
from lookaway.anatomy import find
from lookaway.anatomy.registry import FAMILIES, REFUSED
from lookaway.anatomy.tiny import BATCH_KINDS, PAD, TINY, TINY_BEFORE, tiny
from lookaway.core.errors import UnknownAnatomy, UnsupportedModel
from lookaway.models.tiny_models import tiny_lavin


@pytest.mark.parametrize("family", TINY)
def test_what_is_found_works(family):
    example = tiny(family, num_layers=3)
    model = example.model
    found = la.anatomy(model)
    assert found.family == example.family in FAMILIES
    assert found.found_by == "family"
    assert found.num_layers == found.shape.num_layers == len(found.layers) == 3
    assert found.base.architecture == type(model).__name__
    assert found.shape.vocab_size == found.head.out_features
    assert found.shape.kv_bytes(1) == 2 * 2 * 8 * 4
    hidden = torch.randn(1, 2, found.shape.hidden_size)
    assert found.head(found.norm(hidden)).shape == (1, 2, found.base.vocab_size)
    assert "3 layers" in str(found)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", TINY)
def test_tiny_models_run_with_the_attention_that_was_asked_for(family, attention):
    found = la.anatomy(tiny(family, attn_implementation=attention).model)
    assert found.attention == ("eager" if "text_config" in TINY[family].without_sdpa else attention)


@pytest.mark.parametrize("batch", BATCH_KINDS)
@pytest.mark.parametrize("family", TINY)
def test_the_layout_covers_every_position_once(family, batch):
    model = tiny(family)
    inputs = model.inputs(batch)
    layout = la.anatomy(model.model).layout(inputs["input_ids"], inputs["attention_mask"])
    assert (layout.visual.int() + layout.text.int() + layout.padding.int() == 1).all()
    assert torch.equal(layout.padding, inputs["input_ids"] == PAD)
    if batch != "single":
        assert [len(spans) for spans in layout.spans] == [1, 1, 0, 2]
        assert layout.visual_counts[2] == 0
    counts = layout.visual_counts.tolist()
    if batch != "single":
        assert (counts[0] != counts[1]) == TINY[family].any_size  # pictures of different size


def test_every_family_has_a_tiny_model():
    own = {"lavin", "eagle2"}  # our own classes, whose tests are in tests/models: anatomy does not import models
    every = {**TINY, **TINY_BEFORE}
    assert {every[name].family or name for name in every} == set(FAMILIES) - own
    assert tiny_lavin().config.model_type in own


@pytest.mark.parametrize("family", TINY_BEFORE)
def test_decoders_that_tokens_may_leave_before_only(family):
    found = la.anatomy(tiny(family, num_layers=3).model)
    assert found.found_by == "family"
    assert found.first_prunable_layer == found.num_layers == found.shape.num_layers == 3
    assert found.only_before in str(found)
    with pytest.raises(UnsupportedModel, match=r"^This is not possible on .*: its .*la\.CDPruner"):
        found.require_inside("This")


def test_refused_families_say_why():
    for model_type, (name, reason) in REFUSED.items():
        model = nn.Linear(1, 1)
        model.config = type("Config", (), {"model_type": model_type, "vision_config": None})()
        with pytest.raises(UnsupportedModel, match=re.escape(f"{name} is not supported: {reason}")):
            la.anatomy(model)
    assert "cross-attention" in REFUSED["mllama"][1]


def test_llava_knows_its_grid_and_cuts_neighbouring_images_apart():
    found = la.anatomy(tiny("llava").model)
    assert found.grid == (4, 4)
    layout = found.layout(torch.tensor([[9, *[5] * 32, 9]]))
    assert [(span.start, span.length) for span in layout.spans[0]] == [(1, 16), (17, 16)]


def test_the_image_is_found_in_embeddings_before_it_is_merged():
    model = tiny("llava")
    found, inputs = la.anatomy(model.model), model.inputs("left_padded")
    embeds = model.model.get_input_embeddings()(inputs["input_ids"])
    layout = found.layout_of_embeddings(embeds, inputs["attention_mask"])
    assert torch.equal(layout.visual, inputs["input_ids"] == 5)
    with pytest.raises(UnsupportedModel, match="input_ids"):
        found.layout_of_embeddings(embeds[:, :, :] + 1, inputs["attention_mask"])


def test_text_only_models_are_refused_with_the_reason():
    model = LlamaForCausalLM(LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9))
    with pytest.raises(UnsupportedModel, match="text-only"):
        la.anatomy(model)


def test_a_part_of_a_model_is_refused():
    with pytest.raises(UnsupportedModel, match="no language head"):
        la.anatomy(tiny("llava").model.model)


def test_unknown_architectures_are_told_which_are_known():
    model = nn.Linear(1, 1)
    model.config = type("Config", (), {"model_type": "lava", "vision_config": None})()
    with pytest.raises(UnknownAnatomy, match=r"'lava'.*Did you mean 'llava'.*llava_onevision.*adding-a-model"):
        la.anatomy(model)
    with pytest.raises(UnknownAnatomy, match="NoneType"):
        la.anatomy(None)


def test_tiny_models_are_the_same_for_the_same_seed_and_leave_the_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, second, other = tiny("llava").model, tiny("llava").model, tiny("llava", seed=1).model
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_a_local_folder_gives_its_name_only_a_hub_id_stays(tmp_path):
    import lookaway as la

    model = tiny("llava").model
    model.config._name_or_path = str(tmp_path / "my-model")
    assert la.anatomy(model).base.id == "my-model"
    model.config._name_or_path = "llava-hf/llava-1.5-7b-hf"
    assert la.anatomy(model).base.id == "llava-hf/llava-1.5-7b-hf"


@pytest.mark.parametrize("version", ["5.24.0", "5.24.0.dev0", "6.0.0"])
def test_a_transformers_that_is_not_known_is_refused_before_anything_runs(version, monkeypatch):
    monkeypatch.setattr(find.transformers, "__version__", version)  # the module that is read, whatever others imported
    with pytest.raises(UnsupportedModel, match=rf"transformers {version} .* pip install 'transformers>=5\.16,<5\.24'"):
        la.anatomy(tiny("llava").model)
