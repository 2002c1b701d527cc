"""Folders of tiny random models, with processors, that vLLM and transformers both load. Head size 32: vLLM's CPU kernel
takes no smaller one, so the package's own tiny models will not do."""

import string

import torch

VOCAB, LAYERS, HIDDEN = 128, 6, 128
IMAGE_TOKENS = 64  # of a 32 x 32 picture, where the family gives all pictures the same number
SPECIAL = {
    "<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "<image>": 5, "<|image_pad|>": 6, "<|video_pad|>": 7,
    "<|vision_start|>": 8, "<|vision_end|>": 9, "<IMG_CONTEXT>": 100, "<img>": 101, "</img>": 102, "<video>": 103,
}  # fmt: skip
TEXT = {
    "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": 192, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_hidden_layers": LAYERS, "max_position_embeddings": 512, "initializer_range": 0.12,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 4, "initializer_range": 0.2,
}  # fmt: skip
SIZE = {"height": 32, "width": 32}


def tokenizer(**more):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = "\n " + string.ascii_letters + string.digits + ":?.,'!-+"
    vocabulary = {**SPECIAL, **{letter: 10 + i for i, letter in enumerate(letters)}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=list(SPECIAL)[4:], padding_side="left", **more,
    )  # fmt: skip


def llava():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(**VISION, projection_dim=16)
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_id=5, image_seq_length=IMAGE_TOKENS
    )
    return LlavaForConditionalGeneration, config, llava_processor()


def llava_qwen2():
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, Qwen2Config

    vision = CLIPVisionConfig(**VISION, projection_dim=16)
    config = LlavaConfig(
        vision_config=vision, text_config=Qwen2Config(**TEXT), image_token_id=5, image_seq_length=IMAGE_TOKENS
    )
    return LlavaForConditionalGeneration, config, llava_processor()


def llava_processor():
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(size=SIZE, crop_size=SIZE, do_center_crop=False)
    return LlavaProcessor(
        images, tokenizer(), patch_size=4, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1,
    )  # fmt: skip


def llava_next():
    from transformers import (
        CLIPVisionConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
        MistralConfig,
    )

    pinpoints = [[32, 64], [64, 32], [64, 64]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, projection_dim=16),
        text_config=MistralConfig(**TEXT, sliding_window=None),
        image_token_id=5,
        image_grid_pinpoints=pinpoints,
    )
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 32}, crop_size=SIZE, do_center_crop=False, image_grid_pinpoints=pinpoints
    )
    processor = LlavaNextProcessor(
        images, tokenizer(), patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return LlavaNextForConditionalGeneration, config, processor


QWEN_IDS = {
    "image_token_id": 6, "video_token_id": 7, "vision_start_token_id": 8, "vision_end_token_id": 9,
    "vision_token_id": 104,
}  # fmt: skip
QWEN_TOWER = {
    "depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
    "initializer_range": 0.2,
}  # fmt: skip


def qwen_text():
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    return {**TEXT, "rope_parameters": rope}


def qwen2_vl():
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    vision = {**QWEN_TOWER, "embed_dim": 64, "hidden_size": HIDDEN, "mlp_ratio": 2}
    config = Qwen2VLConfig(vision_config=vision, text_config=qwen_text(), **QWEN_IDS)
    return Qwen2VLForConditionalGeneration, config, qwen_processor(Qwen2VLProcessor)


def qwen2_5_vl():
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    vision = {
        **QWEN_TOWER, "hidden_size": 64, "intermediate_size": 96, "out_hidden_size": HIDDEN, "window_size": 16,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=qwen_text(), **QWEN_IDS)
    return Qwen2_5_VLForConditionalGeneration, config, qwen_processor(Qwen2_5_VLProcessor)


def qwen_processor(cls):
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    parts = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 16 * 16, "longest_edge": 96 * 96}
    return cls(Qwen2VLImageProcessor(**parts, size=size), tokenizer(), Qwen2VLVideoProcessor(**parts, size=size))


def internvl():
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
        Qwen2Config,
    )

    config = InternVLConfig(
        vision_config={**VISION, "image_size": [32, 32], "patch_size": [4, 4]},
        text_config=Qwen2Config(**TEXT),
        image_token_id=SPECIAL["<IMG_CONTEXT>"],
        image_seq_length=16,
    )
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=SIZE, crop_to_patches=True, min_patches=1, max_patches=4),
        tokenizer(extra_special_tokens=named),
        InternVLVideoProcessor(size=SIZE),
        image_seq_length=16,
    )
    return InternVLForConditionalGeneration, config, processor


FAMILIES = {
    "llava": (llava, "<image>"),
    "llava_qwen2": (llava_qwen2, "<image>"),
    "llava_next": (llava_next, "<image>"),
    "qwen2_vl": (qwen2_vl, "<|vision_start|><|image_pad|><|vision_end|>"),
    "qwen2_5_vl": (qwen2_5_vl, "<|vision_start|><|image_pad|><|vision_end|>"),
    "internvl": (internvl, "<IMG_CONTEXT>"),
}
"""Name -> (what makes it, how a picture stands in a prompt)."""


def save(family, folder, seed=0):
    """Make and save a family's model and processor; returns the folder that vLLM loads."""
    from lookaway.serving.vllm.checkpoints import copy_for_vllm

    model_class, config, processor = FAMILIES[family][0]()
    torch.manual_seed(seed)
    model = model_class._from_config(config, attn_implementation="sdpa").float().eval()
    for weight in model.parameters():
        if weight.dim() > 1 and not weight.any():  # some projectors begin at zero, and would show nothing
            torch.nn.init.normal_(weight, std=0.12)
    model.generation_config.update(pad_token_id=0, do_sample=False)
    plain = folder / "saved"
    model.save_pretrained(plain)
    processor.save_pretrained(plain)
    return copy_for_vllm(plain, folder / "model")
