"""METER as transformers models: the two-stream co-attention model, with its VQA, NLVR2 and retrieval heads.

Made of transformers' RoBERTa and CLIP tower and of `co_attention.py`. Each layer's streams are updated at once, both
from the previous layer's pair. No visual token can leave it and nothing generates: it is a host for attention
skipping alone (`sites.py`), and PIA cannot be merged there (see `co_attention.py`). docs/methods/eas-models.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, PreTrainedModel, RobertaModel
from transformers.modeling_outputs import ModelOutput

from ...core.errors import DataError
from .co_attention import CoAttentionLayer
from .config import MeterConfig

__all__ = ["MeterForImageAndTextRetrieval", "MeterForImagesAndTextClassification", "MeterForQuestionAnswering",
           "MeterModel", "MeterOutput"]  # fmt: skip


@dataclass
class MeterOutput(ModelOutput):
    """What METER gives."""

    loss: Tensor | None = None
    logits: Tensor | None = None  # [B, labels]; of retrieval [B, 1]
    text_states: Tensor | None = None  # [B, S, D]
    image_states: Tensor | None = None  # [B, 1 + patches, D]
    pooled: Tensor | None = None  # [B, 2 D]


class MeterPreTrainedModel(PreTrainedModel):
    """What transformers asks of all METER classes."""

    config_class = MeterConfig
    config: MeterConfig
    base_model_prefix = "meter"
    input_modalities = ("image", "text")
    _supports_sdpa = True
    _no_split_modules = ["CoAttentionLayer", "RobertaLayer", "CLIPEncoderLayer"]  # noqa: RUF012


class _Pooler(nn.Module):
    """Linear and tanh on the first token: [B, S, D] -> [B, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))


class MeterModel(MeterPreTrainedModel):
    """Encoders, co-attention and poolers, without a head."""

    def __init__(self, config: MeterConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.text_transformer = RobertaModel(config.text_config, add_pooling_layer=False)
        self.vision_model = CLIPVisionModel(config.vision_config)
        self.cross_modal_text_transform = nn.Linear(config.text_config.hidden_size, width)
        self.cross_modal_image_transform = nn.Linear(config.vision_config.hidden_size, width)
        self.token_type_embeddings = nn.Embedding(config.token_types, width)
        layers = range(config.num_top_layers)
        self.cross_modal_text_layers = nn.ModuleList(CoAttentionLayer(config) for _ in layers)
        self.cross_modal_image_layers = nn.ModuleList(CoAttentionLayer(config) for _ in layers)
        self.cross_modal_text_pooler = _Pooler(width)
        self.cross_modal_image_pooler = _Pooler(width)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_transformer.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_transformer.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        image_type: int = 1,
    ) -> MeterOutput:
        """One text and one image a row.

        Args:
            input_ids: int64 [B, S].
            pixel_values: [B, 3, H, W].
            attention_mask: [B, S], 1 = real token; None: all are.
            image_type: token type of the image: 2 for the second one of NLVR2.
        """
        if len(input_ids) != len(pixel_values):
            raise DataError(f"METER reads one image a text; there are {len(input_ids)} and {len(pixel_values)} images.")
        if not 0 < image_type < self.config.token_types:
            raise DataError(
                f"image_type {image_type} has no embedding: the model's token_types is {self.config.token_types}."
            )
        text = self.text_transformer(input_ids, attention_mask=attention_mask).last_hidden_state
        tower = self.vision_model
        image = getattr(tower, "vision_model", tower).post_layernorm(tower(pixel_values).last_hidden_state)
        types = self.token_type_embeddings.weight
        text = self.cross_modal_text_transform(text) + types[0]
        image = self.cross_modal_image_transform(image) + types[image_type]
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None]
        for text_layer, image_layer in zip(self.cross_modal_text_layers, self.cross_modal_image_layers, strict=True):
            text, image = text_layer(text, image, mask, None), image_layer(image, text, None, mask)
        pooled = torch.cat([self.cross_modal_text_pooler(text), self.cross_modal_image_pooler(image)], -1)
        return MeterOutput(text_states=text, image_states=image, pooled=pooled)


def _classifier(in_features: int, width: int, labels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_features, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, labels))


class _MeterWithHead(MeterPreTrainedModel):
    """METER and one head on its pooled states."""

    head_name: ClassVar[str]
    """The head's module, named as in the published checkpoints."""

    def __init__(self, config: MeterConfig) -> None:
        super().__init__(config)
        self.meter = MeterModel(config)
        self.add_module(self.head_name, self._make_head(config))
        self.post_init()

    def _make_head(self, config: MeterConfig) -> nn.Module:
        raise NotImplementedError

    def _loss(self, logits: Tensor, labels: Any) -> Tensor:
        raise NotImplementedError

    def _answer(self, pooled: Tensor, labels: Any) -> tuple[Tensor, Tensor | None]:
        """The head's logits and, given labels, the loss."""
        logits = getattr(self, self.head_name)(pooled)
        return logits, None if labels is None else self._loss(logits, labels)

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None, labels: Any = None
    ) -> MeterOutput:
        """As `MeterModel`, with logits and, given `labels` (the class says which), the loss."""
        out: MeterOutput = self.meter(input_ids, pixel_values, attention_mask)
        assert out.pooled is not None
        out.logits, out.loss = self._answer(out.pooled, labels)
        return out


class MeterForQuestionAnswering(_MeterWithHead):
    """VQA as classification over `config.num_labels` answers.

    labels: soft scores in [0, 1], [B, num_labels]. The loss is binary cross-entropy times num_labels.
    """

    head_name = "vqa_classifier"

    def _make_head(self, config: MeterConfig) -> nn.Module:
        return _classifier(2 * config.hidden_size, 2 * config.hidden_size, config.num_labels)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return loss * labels.shape[1]


class MeterForImagesAndTextClassification(_MeterWithHead):
    """NLVR2: is the statement true of the two images? Two passes, one an image, one classifier on both.

    pixel_values: [B, 2, 3, H, W], left and right; labels: int64 [B]. logits [B, num_labels].
    """

    head_name = "nlvr2_classifier"

    def __init__(self, config: MeterConfig) -> None:
        if config.token_types < 3:
            raise DataError(f"NLVR2 needs token_types of 3 (text, two images), not {config.token_types}.")
        super().__init__(config)

    def _make_head(self, config: MeterConfig) -> nn.Module:
        return _classifier(4 * config.hidden_size, 2 * config.hidden_size, config.num_labels)

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None, labels: Any = None
    ) -> MeterOutput:
        left = self.meter(input_ids, pixel_values[:, 0], attention_mask, image_type=1)
        right = self.meter(input_ids, pixel_values[:, 1], attention_mask, image_type=2)
        pooled = torch.cat([left.pooled, right.pooled], -1)
        logits, loss = self._answer(pooled, labels)
        return MeterOutput(loss=loss, logits=logits, pooled=pooled)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels)


class MeterForImageAndTextRetrieval(_MeterWithHead):
    """How well a text and an image fit: one score a pair."""

    head_name = "rank_output"

    def _make_head(self, config: MeterConfig) -> nn.Module:
        return nn.Linear(2 * config.hidden_size, 1)

    def _loss(self, logits: Tensor, labels: int) -> Tensor:
        scores = logits.view(-1, labels)
        return nn.functional.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.int64))

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        texts_per_image: int | None = None,
    ) -> MeterOutput:
        """One score a row, logits [B, 1].

        Args:
            texts_per_image: rows come in runs of so many texts for one image, the right one first; the loss is the
                cross-entropy of the right one.
        """
        return super().forward(input_ids, pixel_values, attention_mask, texts_per_image)
