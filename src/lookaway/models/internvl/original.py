"""InternVL2 and 2.5 in their original layout -> transformers' InternVL, around any of their decoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from ...core.errors import PreparationError, UnsupportedModel
from ..layouts.conversations import CONVERSATIONS, chat_template
from ..layouts.plan import MARK, Plan
from ..layouts.reader import Shards
from ..layouts.request import Request, generation_config, pick, rope, stored_dtype
from ..layouts.rules import Rule, Source, rename
from ..layouts.tokenizing import IMAGE, byte_level_tokenizer, whole_tokenizer
from .processing import InternVLProcessor
from .vision import internvit_config, internvit_rules

__all__ = ["CONTEXT", "Decoder", "decoder_of", "plan_internvl", "projector_rules"]

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CONTEXT = "<IMG_CONTEXT>"
SAME = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
        "use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "attention_dropout", "head_dim")  # fmt: skip
DECODER = "language_model."
ENDS = {"phi3-chat": "<|end|>"}
"""The token that ends an answer, where it is not <|im_end|>."""


def plan_internvl(request: Request) -> Plan:
    """What such a folder becomes.

    Raises:
        UnsupportedModel: a variant that transformers' class does not compute; the text names the key.
        PreparationError: a part is missing.
    """
    from transformers import GotOcr2ImageProcessorPil, InternVLConfig, InternVLForConditionalGeneration

    config = request.config
    _refuse_variants(config)
    conversation = request.conversation or str(config.get("template"))
    if conversation not in CONVERSATIONS:
        raise UnsupportedModel(
            f"The checkpoint's prompt form {conversation!r} is not known. Give one of these as --conversation: "
            f"{', '.join(CONVERSATIONS)}."
        )
    shards = Shards(request.folder)
    if not shards.files:
        raise PreparationError(f"{request.folder} has a config.json and no weights. Download its *.safetensors too.")
    end = ENDS.get(conversation, "<|im_end|>")
    decoder = decoder_of(config["llm_config"])
    tokenizer = decoder.tokenizer(request.folder, CONTEXT, end=end)
    dtype = stored_dtype(config, next(iter(shards.specs.values())).dtype)
    size = int(config.get("force_image_size") or config["vision_config"]["image_size"])
    vision = internvit_config({**config["vision_config"], "image_size": size})
    tokens = int((size // vision.patch_size[0]) ** 2 * config["downsample_ratio"] ** 2)
    built = InternVLConfig(
        vision_config=vision.to_dict(),
        text_config=decoder.config.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=tokens,
        downsample_ratio=config["downsample_ratio"],
        vision_feature_layer=config.get("select_layer", -1),
        tie_word_embeddings=False,
        architectures=["InternVLForConditionalGeneration"],
        dtype=dtype,
        **{MARK: "internvl2"},
    )
    pictures = GotOcr2ImageProcessorPil(
        size={"height": size, "width": size},
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
        crop_to_patches=bool(config.get("dynamic_image_size", True)),
        min_patches=config.get("min_dynamic_patch", 1),
        max_patches=config.get("max_dynamic_patch", 12),
    )
    generation = generation_config(request.folder, config, tokenizer)
    generation.eos_token_id = tokenizer.eos_token_id  # the public chat stops at the prompt form's separator alone
    return Plan(
        layout="internvl2",
        model_class=InternVLForConditionalGeneration,
        config=built,
        generation=generation,
        processor=InternVLProcessor(pictures, tokenizer, tokens, chat_template(conversation)),
        sources=(Source(shards, _rules(decoder)),),
        dtype=dtype,
        conversation=conversation,
    )


@dataclass(frozen=True)
class Decoder:
    """One kind of decoder: its config, names and tokenizer in transformers."""

    config: Any
    rules: tuple[Rule, ...]
    tokenizer: Any


PLAIN = (
    rename(DECODER + r"model\.(.+)", r"model.language_model.\1"),
    rename(DECODER + r"lm_head\.weight", "lm_head.weight"),
)


def decoder_of(config: Mapping[str, Any]) -> Decoder:
    """The decoder that the published config of a language model asks for.

    Raises:
        UnsupportedModel: another one than those that are read.
    """
    from transformers import LlamaConfig, Phi3Config, Qwen2Config

    kind = (config.get("architectures") or ["?"])[0]
    same = {**pick(config, *SAME), "tie_word_embeddings": False}
    if kind == "InternLM2ForCausalLM":
        built = LlamaConfig(**same, attention_bias=bool(config.get("bias")), rope_parameters=rope(config))
        return Decoder(built, _internlm2_rules(built), partial(whole_tokenizer, mark=False))
    if kind == "Qwen2ForCausalLM":
        if config.get("use_sliding_window"):
            raise UnsupportedModel("use_sliding_window is set: Qwen2 with sliding windows is not read.")
        return Decoder(Qwen2Config(**same, rope_parameters=rope(config)), PLAIN, byte_level_tokenizer)
    if kind == "Phi3ForCausalLM":
        turned = rope(config)
        if turned["rope_type"] == "su":  # its name before 'longrope'
            turned["rope_type"] = "longrope"
        if turned["rope_type"] == "longrope":
            turned["original_max_position_embeddings"] = config["original_max_position_embeddings"]
        window = config.get("sliding_window")
        window = window if window and window < config["max_position_embeddings"] else None  # it would never close
        more = pick(config, "original_max_position_embeddings", "resid_pdrop", "embd_pdrop")
        built = Phi3Config(**same, **more, sliding_window=window, rope_parameters=turned)
        return Decoder(built, PLAIN, partial(whole_tokenizer, mark=True))
    if kind == "LlamaForCausalLM":
        return Decoder(LlamaConfig(**same, rope_parameters=rope(config)), PLAIN, partial(whole_tokenizer, mark=True))
    raise UnsupportedModel(
        f"The decoder {kind} is not one of InternVL2's that are read: InternLM2, Qwen2, Phi3, Llama (ForCausalLM)."
    )


def projector_rules() -> tuple[Rule, ...]:
    """Layer norm and two matrices, by their numbers."""
    names = {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}
    return tuple(
        rename(rf"mlp1\.{number}\.(weight|bias)", rf"model.multi_modal_projector.{name}.\1")
        for number, name in names.items()
    )


def _rules(decoder: Decoder) -> tuple[Rule, ...]:
    return (*decoder.rules, *projector_rules(), *internvit_rules("model.vision_tower.", r"vision_model\."))


def _internlm2_rules(config: Any) -> tuple[Rule, ...]:
    """InternLM2 is Llama under other names, with one matrix for queries, keys and values."""
    layer, ours = DECODER + r"model\.layers\.(\d+)\.", r"model.language_model.layers.\1."
    kind = r"\.(weight|bias)"
    moved = {
        "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w3": "mlp.up_proj",
        "feed_forward.w2": "mlp.down_proj", "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }  # fmt: skip
    parts = tuple(ours + f"self_attn.{part}_proj.\\2" for part in "qkv")
    groups = config.num_attention_heads // config.num_key_value_heads

    def split(joint: Tensor) -> list[Tensor]:
        """[kv heads * (groups + 2) * head_dim, ...]: every KV head's queries, then its key, then its value."""
        heads = joint.unflatten(0, (config.num_key_value_heads, groups + 2, config.head_dim))
        return [heads[:, :groups].flatten(0, 2), heads[:, groups].flatten(0, 1), heads[:, groups + 1].flatten(0, 1)]

    return (
        rename(DECODER + r"model\.tok_embeddings\.weight", "model.language_model.embed_tokens.weight"),
        rename(DECODER + r"model\.norm\.weight", "model.language_model.norm.weight"),
        rename(DECODER + r"output\.weight", "lm_head.weight"),
        Rule(layer + r"attention\.wqkv" + kind, parts, split),
        *(rename(layer + theirs.replace(".", r"\.") + kind, ours + place + r".\2") for theirs, place in moved.items()),
    )


def _refuse_variants(config: Mapping[str, Any]) -> None:
    if config.get("pad2square"):
        raise UnsupportedModel("pad2square is set: pictures padded to a square before tiling are not supported.")
    if config.get("dynamic_image_size", True) and not config.get("use_thumbnail", True):
        raise UnsupportedModel("use_thumbnail is off: tiles without the whole picture behind them are not supported.")
