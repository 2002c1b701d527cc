"""LaVIN as a transformers model: load, save, batched cached `generate`, attachable like any other.

Made of transformers' CLIP tower and LLaMA, whose attentions get an adapter (`lavin_parts.py`). Visual tokens stand in
`input_ids` as `config.image_token_id`; a row without one has no image. `lavin_keys.py` reads the published
checkpoints, `lavin_processor.py` makes the published prompt. docs/methods/eas-models.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, GenerationMixin, LlamaModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast

from ...core.errors import DataError
from .config import LavinConfig
from .parts import LavinAttention, LavinProjector, LavinVisionAttention, RoutedAdapter, modality_routing

__all__ = ["LavinForConditionalGeneration", "LavinModel", "LavinOutput"]


@dataclass
class LavinOutput(CausalLMOutputWithPast):
    """As of every causal model, and the routing, which decoding takes over from the prefill."""

    last_hidden_state: Tensor | None = None  # [B, S, D], of the model without a head
    routing: Tensor | None = None  # float32 [B, L, 2]


class LavinPreTrainedModel(PreTrainedModel):
    """What transformers asks of all LaVIN classes."""

    config_class = LavinConfig
    config: LavinConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaDecoderLayer", "CLIPEncoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RoutedAdapter | LavinProjector):
            init.xavier_uniform_(module.down.weight)
            if isinstance(module, LavinProjector):
                init.xavier_uniform_(module.up.weight)
                return
            for expert in (module.first, module.second):  # identity at the start
                init.zeros_(expert.weight)
                init.zeros_(expert.bias)


class LavinModel(LavinPreTrainedModel):
    """Tower, projector, modality embedding and decoder, without the head."""

    def __init__(self, config: LavinConfig) -> None:
        super().__init__(config)
        self.vision_tower = CLIPVisionModel(config.vision_config)
        self.projector = LavinProjector(config)
        self.modality_embedding = nn.Embedding(2, config.text_config.hidden_size)
        self.language_model = LlamaModel(config.text_config)
        for block in vision_blocks(self.vision_tower):
            block.self_attn = LavinVisionAttention(config)
        for index, layer in enumerate(self.language_model.layers):
            layer.self_attn = LavinAttention(config, index)
        # A plain list, so that nothing is registered twice: routing reads the adapters also while something else
        # stands in an attention's place.
        self._attentions = [layer.self_attn for layer in self.language_model.layers]
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """[N, 3, H, W] -> visual tokens [N, V, D]: the class token after every `feature_every`-th block."""
        states = self.vision_tower(pixel_values, output_hidden_states=True).hidden_states
        tokens = torch.stack([states[layer][:, 0] for layer in self.config.vision_feature_layers], 1)
        return self.projector(tokens)

    def get_routing(self, modality: Tensor) -> Tensor:
        """Weights of the experts for rows with (1) or without (0) an image. modality: [B]. Returns [B, L, 2]."""
        table = modality_routing(self.modality_embedding.weight, self.language_model.layers, self._attentions)
        return table[modality.to(table.device, torch.int64)]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        modality: Tensor | None = None,
        routing: Tensor | None = None,
        **kwargs: Any,
    ) -> LavinOutput:
        """Hidden states of the decoder.

        Args:
            input_ids: int64 [B, S], visual tokens as `config.image_token_id`.
            attention_mask: [B, S], 1 = real token.
            pixel_values: [N, 3, H, W], images in the order of their tokens.
            modality: int or bool [B], 1: the row has an image; None: seen from `input_ids`.
            routing: [B, L, 2], of an earlier call for the same rows; None: computed.

        Raises:
            DataError: images and visual tokens do not match, or rows that continue a cache do not say their modality.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise DataError("Give either input_ids or inputs_embeds.")
        visual = None if input_ids is None else input_ids == self.config.image_token_id
        if routing is None:
            if modality is None:
                modality = self._modality_of(visual, past_key_values)
            routing = self.get_routing(modality)
        if inputs_embeds is None:
            assert input_ids is not None
            assert visual is not None
            inputs_embeds = self.get_input_embeddings()(input_ids.masked_fill(visual, 0))
            if pixel_values is not None:
                inputs_embeds = self._merged(inputs_embeds, visual, self.get_image_features(pixel_values))
            elif bool(visual.any()):
                raise DataError(f"input_ids holds {int(visual.sum())} visual tokens, but there are no pixel_values.")
        if self.config.published_decode_positions and position_ids is not None and _continues(past_key_values):
            position_ids = position_ids - 1
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            routing=routing,
            **kwargs,
        )
        return LavinOutput(**outputs, routing=routing)

    def _modality_of(self, visual: Tensor | None, past_key_values: Any) -> Tensor:
        if visual is None or _continues(past_key_values):
            raise DataError(
                "Which rows have an image cannot be seen here: give `modality` [B] (1: image), or the `routing` that "
                "the prefill returned."
            )
        return visual.any(-1)

    @staticmethod
    def _merged(embeddings: Tensor, visual: Tensor, features: Tensor) -> Tensor:
        """Text embeddings [B, S, D] with `features` [N, V, D] at the visual positions [B, S]."""
        wanted, found = int(visual.sum()), features.shape[0] * features.shape[1]
        if wanted != found:
            raise DataError(
                f"input_ids holds {wanted} visual tokens, but the {len(features)} images make {found} "
                f"({features.shape[1]} each)."
            )
        features = features.to(embeddings.device, embeddings.dtype)
        return embeddings.masked_scatter(visual[..., None], features)


class LavinForConditionalGeneration(LavinPreTrainedModel, GenerationMixin):
    """LaVIN with its language head."""

    carried_outputs = ("routing",)
    """Outputs, each [B, ...], that the forward of every later token takes again under the same names."""

    def __init__(self, config: LavinConfig) -> None:
        super().__init__(config)
        self.model = LavinModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    # `LavinModel`'s arguments stand here in full: `generate` reads from this signature what the model takes.
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        modality: Tensor | None = None,
        routing: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> LavinOutput:
        """As `LavinModel`, with logits [B, S or logits_to_keep, vocabulary] and, given labels [B, S], the loss.

        Labels of -100 do not count (the published code leaves out id 0, its padding).
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            modality=modality,
            routing=routing,
            **kwargs,
        )
        logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])  # -0: all of them
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size)
        return LavinOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            routing=outputs.routing,
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, pixel_values: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if not _continues(kwargs.get("past_key_values")):
            inputs["pixel_values"] = pixel_values
        if inputs.get("routing") is None and inputs.get("modality") is None:  # `input_ids` is the whole text so far
            inputs["modality"] = (input_ids == self.config.image_token_id).any(-1)
        return inputs

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        for name in self.carried_outputs:  # rows of one prompt share them, so beams may change places
            model_kwargs[name] = outputs[name]
        return model_kwargs


def _continues(cache: Any) -> bool:
    return cache is not None and cache.get_seq_length() > 0


def vision_blocks(tower: nn.Module) -> Any:
    """The blocks of a CLIP tower, whatever the version of transformers calls the way there."""
    inner: Any = getattr(tower, "vision_model", tower)
    return inner.encoder.layers
