"""Configuration of METER: RoBERTa and CLIP, joined by two-stream co-attention."""

from __future__ import annotations

from typing import Any

from transformers import CLIPVisionConfig, PretrainedConfig, RobertaConfig

from ...core.errors import SettingsError

__all__ = ["MeterConfig"]


class MeterConfig(PretrainedConfig):
    """METER with CLIP ViT-B/16 and RoBERTa-base by default, as published for VQA.

    Args:
        text_config: of the RoBERTa; None: roberta-base.
        vision_config: of the CLIP tower, without its last block, which METER removes; None: ViT-B/16, 11 blocks, 288.
        hidden_size: width of the co-attention.
        num_top_layers: its layers; each has one a stream.
        token_types: text, image and, for NLVR2, second image.
        num_labels: of the classifier: 3,129 for VQA, 2 for NLVR2.
        classes: the same as it is saved (transformers leaves two labels out of a config file); `num_labels` wins.
    """

    model_type = "meter"
    sub_configs = {"text_config": RobertaConfig, "vision_config": CLIPVisionConfig}  # noqa: RUF012

    def __init__(
        self,
        text_config: RobertaConfig | dict[str, Any] | None = None,
        vision_config: CLIPVisionConfig | dict[str, Any] | None = None,
        hidden_size: int = 768,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        num_top_layers: int = 6,
        token_types: int = 2,
        hidden_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        layer_norm_eps: float = 1e-12,
        num_labels: int | None = None,
        classes: int = 3129,
        **kwargs: Any,
    ) -> None:
        if text_config is None:
            text_config = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1,
                           "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}  # fmt: skip
        if vision_config is None:
            vision_config = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 11,
                             "num_attention_heads": 12, "patch_size": 16, "image_size": 288}  # fmt: skip
        self.text_config = RobertaConfig(**text_config) if isinstance(text_config, dict) else text_config
        self.vision_config = CLIPVisionConfig(**vision_config) if isinstance(vision_config, dict) else vision_config
        if hidden_size % num_attention_heads:
            raise SettingsError(f"num_attention_heads {num_attention_heads} does not divide hidden_size {hidden_size}.")
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.num_top_layers = num_top_layers
        self.token_types = token_types
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_eps = layer_norm_eps
        self.classes = classes if num_labels is None else num_labels
        super().__init__(num_labels=self.classes, **kwargs)
