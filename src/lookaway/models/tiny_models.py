"""Tiny random models of our own classes, and inputs for them: tests and docs without downloads."""

from __future__ import annotations

from typing import Any

from ..core.random_state import seeded

__all__ = ["tiny_lavin", "tiny_meter", "tiny_vilt"]


def tiny_lavin(num_layers: int = 4, seed: int = 0, attn_implementation: str = "sdpa", **config: Any) -> Any:
    """A tiny random LaVIN in fp32 and eval mode: 2 visual tokens an image, vocabulary 97, image token 97, padding 0.

    Its adapters are random too, not the identity that a fresh model has. The global random state is left as it was.
    """
    from transformers import CLIPVisionConfig, LlamaConfig

    from .lavin.model import LavinConfig, LavinForConditionalGeneration

    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=64, num_hidden_layers=8, num_attention_heads=2,
                              image_size=16, patch_size=8, projection_dim=16, initializer_range=0.25)  # fmt: skip
    text = LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=num_layers,
                       num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512,
                       initializer_range=0.25, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                       rms_norm_eps=1e-6)  # fmt: skip
    settings = {"image_token_id": 97, "projector_dim": 8, "adapter_dim": 4, "initializer_range": 0.25, **config}
    model = _random(
        LavinForConditionalGeneration, LavinConfig(vision, text, **settings), seed, attn_implementation, "adapter"
    )
    model.generation_config.pad_token_id = 0
    return model


def tiny_meter(task: str = "vqa", num_top_layers: int = 3, seed: int = 0, **config: Any) -> Any:
    """A tiny random METER in fp32 and eval mode: vocabulary 97, padding 1, images of 16 x 16.

    Args:
        task: 'vqa' (5 answers), 'nlvr2' or 'retrieval'.
    """
    from transformers import CLIPVisionConfig, RobertaConfig

    from .meter import model as meter

    classes = {
        "vqa": meter.MeterForQuestionAnswering,
        "nlvr2": meter.MeterForImagesAndTextClassification,
        "retrieval": meter.MeterForImageAndTextRetrieval,
    }
    text = RobertaConfig(vocab_size=97, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=40, type_vocab_size=1, layer_norm_eps=1e-5,
                         initializer_range=0.25)  # fmt: skip
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                              image_size=16, patch_size=8, initializer_range=0.25)  # fmt: skip
    sizes: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    settings = {"token_types": 3 if task == "nlvr2" else 2, "num_labels": 2 if task == "nlvr2" else 5,
                "initializer_range": 0.25, **sizes, **config}  # fmt: skip
    built = meter.MeterConfig(text, vision, num_top_layers=num_top_layers, **settings)
    return _random(classes[task], built, seed, "sdpa", "LayerNorm.bias")


def tiny_vilt(num_layers: int = 3, seed: int = 0) -> Any:
    """A tiny random ViLT for question answering (5 answers) in fp32 and eval mode; transformers' own class."""
    from transformers import ViltConfig, ViltForQuestionAnswering

    config = ViltConfig(vocab_size=97, hidden_size=16, num_hidden_layers=num_layers, num_attention_heads=2,
                        intermediate_size=32, image_size=16, patch_size=8, max_position_embeddings=40,
                        initializer_range=0.25, num_labels=5, hidden_dropout_prob=0.0)  # fmt: skip
    return _random(ViltForQuestionAnswering, config, seed, "eager", "layernorm")


def _random(model_class: Any, config: Any, seed: int, attn_implementation: str, random_parts: str) -> Any:
    """A model whose parameters under `random_parts` are drawn too, where its own initialisation makes them constant."""
    with seeded(seed):
        model = model_class._from_config(config, attn_implementation=attn_implementation)
        for name, parameter in model.named_parameters():
            if random_parts in name:
                parameter.data.normal_(std=0.3)
    return model.eval()
