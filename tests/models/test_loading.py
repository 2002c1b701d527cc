"""A model folder loads in eval mode with its processor; what is not one is explained."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from lookaway.anatomy.tiny import tiny
from lookaway.anatomy.tiny.processor import tiny_processor
from lookaway.core.errors import PreparationError, UnsupportedModel
from lookaway.models.loading import MINI, load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny("llava").model.save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return path


def test_a_folder_loads(folder):
    model, processor = load_model(folder, attention="eager", device="cpu")
    assert not model.training
    assert model.dtype == torch.float32
    assert model.config.text_config._attn_implementation == "eager"
    assert torch.equal(model.lm_head.weight, tiny("llava").model.lm_head.weight)
    assert processor.tokenizer("abc")["input_ids"] == tiny_processor().tokenizer("abc")["input_ids"]
    assert load_model(folder, dtype=torch.bfloat16, device="cpu")[0].dtype == torch.bfloat16


def test_a_missing_model_is_explained_offline():
    with pytest.raises(PreparationError, match=r"no folder here.*lookaway-mini"):
        load_model("nobody/no-such-model-anywhere")


def test_a_damaged_folder_is_explained(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(PreparationError, match="complete Hugging Face model"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(PreparationError, match="complete Hugging Face model"):
        load_model(tmp_path)


def test_a_text_only_model_is_refused(tmp_path):
    config = LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9, intermediate_size=8)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="text-only"):
        load_model(tmp_path)


def test_the_default_models_are_known_by_name(folder, monkeypatch):
    asked = []
    monkeypatch.setattr("lookaway.models.mini.model.prepare_mini", lambda variant: asked.append(variant) or folder)
    for name in MINI:
        load_model(name, device="cpu")
    assert asked == ["exit-aware", "plain"]


def test_weights_that_are_missing_are_not_drawn_at_random(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    name = next(key for key in weights if key.endswith("layers.1.self_attn.q_proj.weight"))
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        PreparationError, match=r"does not hold 1 of the model's weights .*layers\.1\.self_attn\.q_proj"
    ):
        load_model(tmp_path, device="cpu")
