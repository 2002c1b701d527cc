"""Published layouts give what their public code gives: ids and pixels equal, logits within 1e-5, greedy tokens too."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from golden_cases import GOLDEN, TOLERANCE, cases, checkpoint, judge
from transformers import AutoModelForImageTextToText, AutoProcessor, InternVLProcessor

import lookaway as la
from lookaway.core.errors import SettingsError
from lookaway.models.layouts.convert import convert
from lookaway.models.layouts.detection import plan_for

LLAVAS = ("llava-v1.5-7b", "VILA-7b", "InternVL-Chat-ViT-6B-Vicuna-7B", "llava-v1.6-vicuna-7b")
INTERNVLS = ("InternVL2-1B", "InternVL2-2B", "InternVL2-4B")
OWN_TOWERS = ("Eagle-X5-7B", "VILA1.5-3b", "VILA1.5-3b-s2", "Llama-3-VILA1.5-8b")
EAGLE2 = ("Eagle2-1B", "Eagle2-1B-eagle_2_5_vl")
MODELS = LLAVAS + INTERNVLS + OWN_TOWERS + EAGLE2
WIDER = dict.fromkeys(EAGLE2, 5e-05)
"""Rounding: of Eagle2's logits, up to 7.3, the public code's and ours are each within 2.5e-5 of what float64 gives, in
every case (test_eagle2.py holds both to that)."""


@pytest.mark.parametrize("name", MODELS)
def test_what_the_public_code_answers(name):
    model, processor = la.load_model(checkpoint(name), device="cpu")
    assert not model.training
    assert la.anatomy(model).base.id == "checkpoint"  # the folder's name, and not where it lies
    for case in cases(name):
        judge(model, processor, case, WIDER.get(name, TOLERANCE))


@pytest.mark.parametrize("name", MODELS)
def test_a_converted_folder_is_the_same_model(name, tmp_path):
    """The same classes, weights and settings as when it is loaded as it was published, and the same inputs."""
    folder = convert(plan_for(checkpoint(name)), tmp_path / "converted")
    (model, processor), (again, reader) = (la.load_model(place, device="cpu") for place in (checkpoint(name), folder))
    assert type(again) is type(model)
    assert type(reader) is type(processor)
    first, second = model.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    free = ("_name_or_path", "transformers_version")
    settings = [{k: v for k, v in one.config.to_dict().items() if k not in free} for one in (model, again)]
    assert settings[0] == settings[1]
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id
    case = cases(name)[-1]
    inputs = [one(text=case.facts["prompt"], images=case.image, return_tensors="pt") for one in (processor, reader)]
    assert inputs[0].keys() == inputs[1].keys()
    assert all(torch.equal(inputs[0][key], inputs[1][key]) for key in inputs[0])
    assert reader.chat_template == processor.chat_template


@pytest.mark.parametrize("name", MODELS)
def test_chat_templates_make_the_published_prompts(name):
    facts = cases(name)[0].facts
    question = [{"type": "image"}, {"type": "text", "text": "Please describe this image in detail."}]
    messages = [{"role": "user", "content": question}]
    processor = plan_for(checkpoint(name)).processor
    ours = processor.apply_chat_template(messages, add_generation_prompt=True)
    if name.endswith("eagle_2_5_vl"):  # what its own processor makes of <image-1>
        ours = ours.replace("<image 1><image>", "<image-1>")
    assert ours == facts["prompt"]


@pytest.mark.parametrize("name", LLAVAS)
def test_transformers_alone_reads_a_converted_folder(name, tmp_path):
    folder = convert(plan_for(checkpoint(name)), tmp_path / "converted")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    assert type(model).__module__.startswith("transformers.")
    judge(model, processor, cases(name)[0])


@pytest.mark.parametrize("name", INTERNVLS)
def test_transformers_own_internvl_reads_prompts_alike(name, monkeypatch):
    """Its class needs torchvision for a video part that these models have not; the text part does not."""
    monkeypatch.setattr(InternVLProcessor, "check_argument_for_proper_class", lambda *arguments: None)
    ours = plan_for(checkpoint(name)).processor
    theirs = InternVLProcessor(ours.image_processor, ours.tokenizer, object(), ours.image_seq_length)
    case = cases(name)[0]
    inputs = theirs(text=case.facts["prompt"], images=case.image, return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == case.facts["input_ids"]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_and_dtype_are_as_asked(attention):
    model, _ = la.load_model(checkpoint("Eagle-X5-7B"), device="cpu", dtype="auto", attention=attention)
    assert model.dtype == torch.bfloat16
    assert model.config.text_config._attn_implementation == attention
    assert model.model.vision_tower.towers[0].config._attn_implementation == attention
    with pytest.raises(SettingsError, match="'float31' is not one of torch's"):
        la.load_model(checkpoint("VILA1.5-3b"), dtype="float31")


def test_another_prompt_form(tmp_path):
    messages = [{"role": "user", "content": "Hello"}]
    source = checkpoint("VILA1.5-3b")
    folder = convert(plan_for(source), tmp_path / "converted")
    for place in (source, folder):
        _, processor = la.load_model(place, device="cpu", conversation="llava_v1")
        assert processor.apply_chat_template(messages).startswith("A chat between a curious human")
    with pytest.raises(SettingsError, match="'llava_v9' is not known"):
        la.load_model(source, conversation="llava_v9")
    with pytest.raises(SettingsError, match="holds its vision tower itself"):
        la.load_model(folder, vision_tower=GOLDEN)
    with pytest.raises(SettingsError, match=r"VILA 1.5 holds its vision tower itself"):
        la.load_model(source, vision_tower=GOLDEN)


def test_a_mistral_decoder_without_a_window_computes_what_a_llama_does(tmp_path):
    """LLaVA-1.6-Mistral's layout: the same weights under its name, and its prompt form."""
    name = "llava-v1.6-vicuna-7b"
    folder = shutil.copytree(checkpoint(name), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    mistral = {"model_type": "llava_mistral", "architectures": ["LlavaMistralForCausalLM"]}
    (folder / "config.json").write_text(json.dumps({**config, **mistral}))
    tower = GOLDEN / "towers" / "openai" / "clip-vit-large-patch14-336"
    model, processor = la.load_model(folder, device="cpu", vision_tower=tower)
    assert model.config.text_config.model_type == "mistral"
    assert model.config.text_config.sliding_window is None
    judge(model, processor, cases(name)[1])
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]}]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == "[INST] <image>\nQ [/INST]"


def test_the_golden_folder_is_small():
    assert sum(file.stat().st_size for file in GOLDEN.rglob("*") if file.is_file()) < 8_000_000
