"""Prompt forms of several turns, written out by hand from the public code's description."""

from __future__ import annotations

import pytest
from jinja2 import Environment

from lookaway.core.errors import SettingsError
from lookaway.models.layouts.conversations import CONVERSATIONS, chat_template

TURNS = [
    {"role": "user", "content": [{"type": "text", "text": "Q1"}, {"type": "image"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A1"}]},
    {"role": "user", "content": "Q2"},
]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
INTERN = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
NEWER = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
EXPECTED = {
    "vicuna_v1": VICUNA + " USER: <image>\nQ1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:",
    "llava_v1": VICUNA.replace("user", "human") + " USER: <image>\nQ1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:",
    "vicuna_v1_nosys": " USER: <image>\nQ1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:",
    "mistral_instruct": "[INST] <image>\nQ1 [/INST] A1 </s>[INST] Q2 [/INST]",
    "chatml_direct": "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nQ1<|im_end|>"
    "<|im_start|>assistant\nA1<|im_end|><|im_start|>user\nQ2<|im_end|><|im_start|>assistant\n",
    "internlm2-chat": f"<|im_start|>system\n{INTERN}<|im_end|><|im_start|>user\n<image>\nQ1<|im_end|>"
    "<|im_start|>assistant\nA1<|im_end|><|im_start|>user\nQ2<|im_end|><|im_start|>assistant\n",
    "phi3-chat": f"<|system|>\n{INTERN}<|end|><|user|>\n<image>\nQ1<|end|><|assistant|>\nA1<|end|><|user|>\nQ2<|end|>"
    "<|assistant|>\n",
    "internvl2_5": f"<|im_start|>system\n{NEWER}<|im_end|>\n<|im_start|>user\n<image>\nQ1<|im_end|>\n"
    "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n",
    "qwen2-chat": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nQ1"
    "<|im_end|>\n"
    "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n",
}
VILA = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
EXPECTED["llama_3"] = (
    f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{VILA}<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n<image>\nQ1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
EXPECTED["eagle_2_5_vl"] = EXPECTED["qwen2-chat"].replace("<image>\nQ1", "Q1<image 1><image>")
EXPECTED["hermes-2"] = EXPECTED["chatml_direct"]
EXPECTED["Hermes-2"] = EXPECTED["internlm2-chat"]


def rendered(name, messages, more=True):
    template = Environment(trim_blocks=True, lstrip_blocks=True).from_string(chat_template(name))
    return template.render(messages=messages, add_generation_prompt=more)


def test_every_form_is_written_out_here():
    assert EXPECTED.keys() == CONVERSATIONS.keys()


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_several_turns(name):
    assert rendered(name, TURNS) == EXPECTED[name]


def test_a_system_message_takes_the_place_of_the_published_one():
    messages = [{"role": "system", "content": "S'1"}, *TURNS]
    assert rendered("vicuna_v1", messages) == EXPECTED["vicuna_v1"].replace(VICUNA, "S'1")
    assert rendered("internlm2-chat", messages) == EXPECTED["internlm2-chat"].replace(INTERN, "S'1")
    assert rendered("mistral_instruct", messages).startswith("[INST] S'1\n<image>\nQ1 [/INST]")


def test_pictures_come_first_and_an_answer_is_closed():
    two = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}, {"type": "image"}]}]
    assert "USER: <image>\n<image>\nQ ASSISTANT:" in rendered("vicuna_v1", two)
    assert rendered("vicuna_v1", TURNS[:2], more=False).endswith("ASSISTANT: A1</s>")
    assert rendered("llama_3", TURNS[:2], more=False).endswith("assistant<|end_header_id|>\n\nA1<|end_of_text|>")


def test_eagle2_numbers_its_pictures_where_there_are_several():
    two = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}, {"type": "image"}]}]
    assert "user\n<image 1><image>\n<image 2><image>\nQ<|im_end|>" in rendered("qwen2-chat", two)
    assert "user\n<image 1><image>Q<image 2><image><|im_end|>" in rendered("eagle_2_5_vl", two)


def test_an_unknown_form_is_named():
    with pytest.raises(SettingsError, match=r"'vicuna_v9' is not known. Known: vicuna_v1"):
        chat_template("vicuna_v9")
