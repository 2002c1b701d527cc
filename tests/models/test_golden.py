"""Published layouts give what their public code gives: ids and pixels equal, logits within 1e-5, greedy tokens too."""

from __future__ import annotations

import pytest
import torch
from golden_cases import GOLDEN, TOLERANCE, cases, checkpoint, judge
from transformers import AutoModelForImageTextToText, AutoProcessor

from lookaway.models.layouts.convert import convert
from lookaway.models.layouts.detection import plan_for
from lookaway.models.layouts.plan import build

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
    plan = plan_for(checkpoint(name), vision_tower=None)
    model = build(plan, torch.float32)
    for case in cases(name):
        judge(model, plan.processor, case, WIDER.get(name, TOLERANCE))


@pytest.mark.parametrize("name", MODELS)
def test_chat_templates_make_the_published_prompts(name):
    facts = cases(name)[0].facts
    question = [{"type": "image"}, {"type": "text", "text": "Please describe this image in detail."}]
    messages = [{"role": "user", "content": question}]
    processor = plan_for(checkpoint(name)).processor
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == facts["prompt"]


@pytest.mark.parametrize("name", LLAVAS)
def test_a_converted_folder_answers_alike_without_this_library(name, tmp_path):
    folder = convert(plan_for(checkpoint(name)), tmp_path / "converted")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    assert type(model).__module__.startswith("transformers.")
    judge(model, processor, cases(name)[0])


def test_the_golden_folder_is_small():
    assert sum(file.stat().st_size for file in GOLDEN.rglob("*") if file.is_file()) < 8_000_000
