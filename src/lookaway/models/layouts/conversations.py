"""The prompt forms that the authors evaluate with, as chat templates.

A template puts a message's pictures in front of its text, each as `<image>` and a newline, as the public code does;
Eagle2's number them, and its later edition's leave them where the message has them.
"""

from __future__ import annotations

from ...core.errors import SettingsError

__all__ = ["CONVERSATIONS", "chat_template"]

_CONTENT = (
    "{%- macro content(message) -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}IMAGE\n{% endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}{%- endmacro -%}"
)
_COUNT = (
    "{%- set ns = namespace(all=0, seen=0) -%}"
    "{%- for message in messages if message['content'] is not string -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{%- set ns.all = ns.all + 1 -%}{%- endfor -%}"
    "{%- endfor -%}"
)
_NUMBERED_IF_SEVERAL = _COUNT + (
    "{%- macro content(message) -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}"
    "{%- set ns.seen = ns.seen + 1 -%}"
    "{%- if ns.all > 1 -%}{{ '<image ' ~ ns.seen ~ '>' }}{%- endif -%}{{ 'IMAGE\n' }}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}{%- endmacro -%}"
)
_NUMBERED_IN_PLACE = _COUNT + (
    "{%- macro content(message) -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'image' -%}"
    "{%- set ns.seen = ns.seen + 1 -%}{{ '<image ' ~ ns.seen ~ '>IMAGE' }}"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}{%- endfor -%}"
    "{%- endif -%}{%- endmacro -%}"
)
_SYSTEM = (
    "{%- if messages[0]['role'] == 'system' -%}{%- set system = content(messages[0]) -%}"
    "{%- set turns = messages[1:] -%}{%- else -%}{%- set system = default -%}{%- set turns = messages -%}{%- endif -%}"
)


def _vicuna(system: str) -> tuple[str, str]:
    return system, (
        "{{ system }}"
        "{%- for turn in turns -%}"
        "{%- if turn['role'] == 'user' -%}"
        "{%- if loop.first -%}{{ ' ' }}{%- endif -%}{{ 'USER: ' + content(turn) + ' ' }}"
        "{%- else -%}{{ 'ASSISTANT: ' + content(turn) + '</s>' }}{%- endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}ASSISTANT:{%- endif -%}"
    )


def _marked(system: str, begin: str, end: str, assistant: str = "assistant") -> tuple[str, str]:
    """Turns between marks: `begin` holds {role}."""

    def opened(role: str) -> str:
        return "{{ '" + begin.format(role=role).replace("\n", "\\n") + "' }}"

    close = "{{ '" + end.replace("\n", "\\n") + "' }}"
    return system, (
        "{%- if system -%}" + opened("system") + "{{ system }}" + close + "{%- endif -%}"
        "{%- for turn in turns -%}"
        "{%- if turn['role'] == 'user' -%}" + opened("user") + "{%- else -%}" + opened(assistant) + "{%- endif -%}"
        "{{ content(turn) }}" + close + "{%- endfor -%}"
        "{%- if add_generation_prompt -%}" + opened(assistant) + "{%- endif -%}"
    )


def _llama_3(system: str) -> tuple[str, str]:
    """VILA's: the last turn of a finished conversation is closed by another token."""

    def opened(role: str) -> str:
        return "{{ '<|start_header_id|>" + role + "<|end_header_id|>\\n\\n' }}"

    return system, (
        "{{ '<|begin_of_text|>' }}{%- if system -%}" + opened("system") + "{{ system + '<|eot_id|>' }}{%- endif -%}"
        "{%- for turn in turns -%}"
        "{%- if turn['role'] == 'user' -%}" + opened("user") + "{%- else -%}" + opened("assistant") + "{%- endif -%}"
        "{{ content(turn) }}"
        "{{ '<|end_of_text|>' if loop.last and not add_generation_prompt else '<|eot_id|>' }}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}" + opened("assistant") + "{%- endif -%}"
    )


_CHAT = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
)
_INTERN = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
_INTERN_2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
_VILA = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_CHATML = "<|im_start|>{role}\n"

CONVERSATIONS: dict[str, tuple[str, str]] = {
    "vicuna_v1": _vicuna(_CHAT.format(who="user")),
    "llava_v1": _vicuna(_CHAT.format(who="human")),
    "vicuna_v1_nosys": _vicuna(""),
    "mistral_instruct": (
        "",
        "{%- for turn in turns -%}"
        "{%- if turn['role'] == 'user' -%}"
        "{{ '[INST] ' + (system + '\\n' if system and loop.first else '') + content(turn) + ' [/INST]' }}"
        "{%- else -%}{{ ' ' + content(turn) + ' </s>' }}{%- endif -%}{%- endfor -%}",
    ),
    "chatml_direct": _marked("Answer the questions.", _CHATML, "<|im_end|>"),
    "hermes-2": _marked("Answer the questions.", _CHATML, "<|im_end|>"),
    "Hermes-2": _marked(_INTERN, _CHATML, "<|im_end|>"),
    "internlm2-chat": _marked(_INTERN, _CHATML, "<|im_end|>"),
    "phi3-chat": _marked(_INTERN, "<|{role}|>\n", "<|end|>"),
    "internvl2_5": _marked(_INTERN_2_5, _CHATML, "<|im_end|>\n"),
    "llama_3": _llama_3(_VILA),
    "qwen2-chat": _marked("You are a helpful assistant.", _CHATML, "<|im_end|>\n"),
    "eagle_2_5_vl": _marked("You are a helpful assistant.", _CHATML, "<|im_end|>\n"),
}  # fmt: skip
"""Name in the public code -> (system message, template of the turns)."""


_CONTENTS = {"qwen2-chat": _NUMBERED_IF_SEVERAL, "eagle_2_5_vl": _NUMBERED_IN_PLACE}
"""How a message's pictures and text are put together, where it is not `_CONTENT`: Eagle2 numbers its pictures."""


def chat_template(name: str, image: str = "<image>") -> str:
    """The Jinja template of a prompt form.

    Args:
        name: a key of `CONVERSATIONS`.
        image: what stands for a picture.

    Raises:
        SettingsError: the form is not known.
    """
    if name not in CONVERSATIONS:
        raise SettingsError(f"The prompt form {name!r} is not known. Known: {', '.join(CONVERSATIONS)}.")
    system, turns = CONVERSATIONS[name]
    content = _CONTENTS.get(name, _CONTENT).replace("IMAGE", image)
    return "{%- set default = " + _quoted(system) + " -%}" + content + _SYSTEM + turns


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
