"""Tiny random models of the hosts, and inputs for them: tests and docs without downloads."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["tiny_lavin"]


def tiny_lavin(num_layers: int = 4, seed: int = 0, attn_implementation: str = "sdpa", **config: Any) -> Any:
    """A tiny random LaVIN in fp32 and eval mode: 2 visual tokens an image, vocabulary 97, image token 97 (behind it), padding 0.

    Its adapters are random too, not the identity that a fresh model has. The global random state is left as it was.
    """
    from transformers import CLIPVisionConfig, LlamaConfig

    from .lavin import LavinConfig, LavinForConditionalGeneration

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


def _random(model_class: Any, config: Any, seed: int, attn_implementation: str, random_parts: str) -> Any:
    """A model whose parameters under `random_parts` are drawn too, where its own initialisation makes them constant."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class._from_config(config, attn_implementation=attn_implementation)
        for name, parameter in model.named_parameters():
            if random_parts in name:
                parameter.data.normal_(std=0.3)
    return model.eval()
