"""Every published layout under the engine: removal equals masking, a batch equals its rows, decoding equals prefill."""

from __future__ import annotations

import pytest
import torch
from golden_cases import GOLDEN, checkpoint
from PIL import Image
from transformers.modeling_outputs import BaseModelOutput

import lookaway as la
from lookaway.models.layouts.detection import plan_for
from lookaway.models.layouts.plan import build

MODELS = ("llava-v1.5-7b", "VILA-7b", "InternVL-Chat-ViT-6B-Vicuna-7B", "llava-v1.6-vicuna-7b", "InternVL2-1B",
          "InternVL2-2B", "InternVL2-4B", "Eagle-X5-7B", "VILA1.5-3b", "VILA1.5-3b-s2", "Llama-3-VILA1.5-8b",
          "Eagle2-1B")  # fmt: skip
GRIDS = {"llava-v1.5-7b": (24, 24), "VILA-7b": (24, 24), "InternVL-Chat-ViT-6B-Vicuna-7B": (24, 24),
         "Eagle-X5-7B": (32, 32)}  # fmt: skip
"""Rows and columns of visual tokens, where they are fixed and come row by row (VILA 1.5's do not)."""
QUESTIONS = ("What is in this picture?", "How many are there, and which of them is the largest?")
TOKENS = 4


@pytest.fixture(scope="module", params=MODELS)
def loaded(request):
    """A layout's name, its model, and what encodes questions about pictures."""
    plan = plan_for(checkpoint(request.param))
    processor = plan.processor
    if request.param.startswith(("InternVL2", "Eagle2")):
        processor.image_processor.max_patches = 1  # one tile: the equalities, not the tiling, are at stake
    pictures = [Image.open(file).convert("RGB") for file in sorted((GOLDEN / "images").glob("*.png"))]
    model = build(plan, torch.float32)
    see_once(model.model.vision_tower)
    return request.param, model, encoder(processor, pictures)


def see_once(tower):
    """The towers are not at stake here: each picture goes through one once."""
    forward, known = tower.forward, {}

    def remembered(pixel_values, **options):
        found = []
        for picture in pixel_values:
            key = picture.numpy().tobytes()
            if key not in known:
                known[key] = forward(picture[None], **{**options, "output_hidden_states": True})
            found.append(known[key])
        states = zip(*(one.hidden_states for one in found), strict=True)
        last = torch.cat([one.last_hidden_state for one in found])
        return BaseModelOutput(last_hidden_state=last, hidden_states=tuple(map(torch.cat, states)))

    tower.forward = remembered


def encoder(processor, pictures):
    def encode(rows):
        texts = []
        for row in rows:
            content = [{"type": "image"}, {"type": "text", "text": QUESTIONS[row]}]
            messages = [{"role": "user", "content": content}]
            texts.append(processor.apply_chat_template(messages, add_generation_prompt=True))
        images = [[pictures[row]] for row in rows]
        return processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")

    return encode


def answers(model, inputs):
    return model.generate(
        **inputs, do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS
    )[:, inputs["input_ids"].shape[1] :]  # fmt: skip


@torch.no_grad()
def test_anatomy_removal_masking_and_rows(loaded):
    name, model, encode = loaded
    both = encode([0, 1])
    found = la.anatomy(model)
    assert found.found_by == "family"
    assert found.grid == GRIDS.get(name)
    visual = (both["input_ids"] == found.image_token_id).sum(1).tolist()
    policy = la.ExitAt([1, 2])
    with la.attach(model, policy) as run:
        fast = model(**both).logits[:, -1]
        many = answers(model, both)
    assert run.trace.exit_layers == [1, 2]
    assert run.trace.visual_tokens == [visual, [0, visual[1]], [0, 0]]
    with la.reference(model, policy):
        slow = model(**both).logits[:, -1]
        again = answers(model, both)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    assert torch.equal(many, again)
    for row, layer in enumerate((1, 2)):
        with la.attach(model, la.ExitAt(layer)):
            alone = model(**encode([row])).logits[0, -1]
        torch.testing.assert_close(fast[row], alone, atol=2e-5, rtol=1e-4)
    untouched = model(**both).logits[:, -1]
    assert (untouched - fast).abs().max() > 1e-3  # the image mattered


@torch.no_grad()
def test_decoding_equals_whole_prompts(loaded):
    """Each answered token, by the cache and by a prefill of the prompt with the answer so far."""
    _, model, encode = loaded
    inputs = encode([0])
    with la.attach(model, la.ExitAt(2)):
        said = answers(model, inputs)
        grown = dict(inputs)
        for step in range(TOKENS):
            token = model(**grown).logits[0, -1].argmax()
            assert token == said[0, step]
            grown["input_ids"] = torch.cat([grown["input_ids"], token[None, None]], 1)
            grown["attention_mask"] = torch.ones_like(grown["input_ids"])
