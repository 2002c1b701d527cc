"""Published layouts give what their public code gives: ids and pixels equal, logits within 1e-5, greedy tokens too."""

from __future__ import annotations

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
OWN_TOWERS = ("Eagle-X5-7B", "VILA1.5-3b", "VILA1.5-3b-s2")
MODELS = LLAVAS + INTERNVLS + OWN_TOWERS
WIDER = dict.fromkeys(INTERNVLS, 2e-05)


@pytest.fixture(scope="module", autouse=True)
def no_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.mark.parametrize("name", MODELS)
def test_what_the_public_code_answers(name):
    model, processor = la.load_model(checkpoint(name), device="cpu")
    assert not model.training
    assert la.anatomy(model).base.id == "checkpoint"  # the folder's name, and not where it lies
    for case in cases(name):
        judge(model, processor, case, WIDER.get(name, TOLERANCE))


@pytest.mark.parametrize("name", MODELS)
def test_a_converted_folder_answers_alike(name, tmp_path):
    folder = convert(plan_for(checkpoint(name)), tmp_path / "converted")
    model, processor = la.load_model(folder, device="cpu")
    number = int(name == "llava-v1.6-vicuna-7b")  # of its two pictures the one that transformers rounds otherwise
    judge(model, processor, cases(name)[number], WIDER.get(name, TOLERANCE))


@pytest.mark.parametrize("name", MODELS)
def test_chat_templates_make_the_published_prompts(name):
    facts = cases(name)[0].facts
    question = [{"type": "image"}, {"type": "text", "text": "Please describe this image in detail."}]
    messages = [{"role": "user", "content": question}]
    processor = plan_for(checkpoint(name)).processor
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == facts["prompt"]


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


def test_the_golden_folder_is_small():
    assert sum(file.stat().st_size for file in GOLDEN.rglob("*") if file.is_file()) < 8_000_000
