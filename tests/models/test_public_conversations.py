"""Prompts of one, two and three turns, and their ids, as the public conversation code and tokenizers made them.

`golden/conversations.json` was written once by that code (golden/README.md); none of it is here.
"""

from __future__ import annotations

import json

import pytest
from golden_cases import GOLDEN
from jinja2 import Environment
from PIL import Image

from lookaway.models.layouts.conversations import CONVERSATIONS, chat_template
from lookaway.models.layouts.detection import plan_for

PUBLIC = json.loads((GOLDEN / "conversations.json").read_text(encoding="utf-8"))
IDS = [(model, form) for model, forms in PUBLIC["ids"].items() for form in forms]
PICTURE = GOLDEN / "images" / "a-300x200.png"


def messages(prompt):
    """What was said before the question that the prompt of this place ends with: one, three or five messages."""
    first, *later = PUBLIC["said"][: 2 * prompt + 1]
    question = {"type": "text", "text": first.removeprefix("<image>\n")}
    found = [{"role": "user", "content": [{"type": "image"}, question]}]
    return found + [{"role": ("assistant", "user")[i % 2], "content": text} for i, text in enumerate(later)]


def test_every_form_of_the_public_conversation_code_is_held():
    assert set(CONVERSATIONS) - set(PUBLIC["prompts"]) == {"eagle_2_5_vl"}  # test_eagle2.py: the hub's own template


@pytest.mark.parametrize("form", PUBLIC["prompts"])
def test_the_text_is_the_public_one(form):
    template = Environment(trim_blocks=True, lstrip_blocks=True).from_string(chat_template(form))
    for number, prompt in enumerate(PUBLIC["prompts"][form]["prompts"]):
        assert template.render(messages=messages(number), add_generation_prompt=True) == prompt


@pytest.mark.parametrize(("model", "form"), IDS)
def test_the_ids_are_the_public_ones(model, form, copy):
    """Of the same tiny vocabularies; each run of visual tokens is written once, in LLaVA as -200."""
    name, _, legacy = model.partition(", ")
    folder = copy(name)
    if legacy:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": True}))
    plan = plan_for(folder, conversation=form)
    image, picture = plan.config.image_token_id, Image.open(PICTURE).convert("RGB")
    for number, wanted in enumerate(PUBLIC["ids"][model][form]):
        text = plan.processor.apply_chat_template(messages(number), add_generation_prompt=True)
        ids = plan.processor(text=text, images=picture, return_tensors="pt")["input_ids"][0].tolist()
        squeezed = [token for i, token in enumerate(ids) if token != image or ids[i - 1] != image]
        assert [-200 if token == image and -200 in wanted else token for token in squeezed] == wanted
