"""Configuration of LaVIN: CLIP's class tokens in a LLaMA, both with routed adapters.

Source: Luo et al., *Cheap and Quick: Efficient Vision-Language Instruction Tuning for LLMs*, arXiv 2305.15023.
"""

from __future__ import annotations

from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, PretrainedConfig

from ...core.errors import SettingsError

__all__ = ["VISION_ROUTING", "LavinConfig"]

VISION_ROUTING = ("token", "patches")


class LavinConfig(PretrainedConfig):
    """LaVIN-7B's sizes by default.

    Args:
        vision_config: of the CLIP tower; None: ViT-L/14 at 224.
        text_config: of the LLaMA; None: 7B.
        image_token_id: id that stands for a visual token in `input_ids`; it may lie behind the vocabulary, which the
            LLaMA tokenizer's own 32,000 entries leave no room in.
        feature_every: the class token is read after every so many blocks of the tower.
        projector_dim: width of the projector's bottleneck.
        adapter_dim: width h of the adapters' bottleneck.
        adapter_groups: blocks of the adapters' second matrices.
        adapter_scale: s, in front of the experts.
        adapter_dropout: on the bottleneck, in training.
        router_temperature: of the router's softmax.
        vision_routing: how the adapters of the tower weigh their experts: 'token' (each token by itself: what LaVIN's
            code does to one image) or 'patches' (one pair an image, from the mean of its patches: LaVIN in EAS).
        published_decode_positions: decode as the published generator does, which counts a modality token in the
            prompt's positions but not in those of generated tokens: each stands one place too early, the first on the
            prompt's last. For comparing with published answers only.
    """

    model_type = "lavin"
    sub_configs = {"vision_config": CLIPVisionConfig, "text_config": LlamaConfig}  # noqa: RUF012  (transformers' form)

    def __init__(
        self,
        vision_config: CLIPVisionConfig | dict[str, Any] | None = None,
        text_config: LlamaConfig | dict[str, Any] | None = None,
        image_token_id: int = 32000,
        feature_every: int = 4,
        projector_dim: int = 128,
        adapter_dim: int = 8,
        adapter_groups: int = 2,
        adapter_scale: float = 1.0,
        adapter_dropout: float = 0.1,
        router_temperature: float = 10.0,
        vision_routing: str = "token",
        published_decode_positions: bool = False,
        **kwargs: Any,
    ) -> None:
        if vision_config is None:
            vision_config = {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "patch_size": 14,
                "image_size": 224,
                "projection_dim": 768,
            }
        if text_config is None:  # the published tokenizer pads with its unknown token
            text_config = {"pad_token_id": 0, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
        vision = CLIPVisionConfig(**vision_config) if isinstance(vision_config, dict) else vision_config
        text = LlamaConfig(**text_config) if isinstance(text_config, dict) else text_config
        if vision_routing not in VISION_ROUTING:
            raise SettingsError(f"vision_routing must be one of {', '.join(VISION_ROUTING)}, not {vision_routing!r}.")
        if feature_every < 1 or vision.num_hidden_layers < feature_every:
            raise SettingsError(
                f"feature_every must lie between 1 and the tower's {vision.num_hidden_layers} blocks, not "
                f"{feature_every}."
            )
        for name, width in (("vision", vision.hidden_size), ("text", text.hidden_size), ("adapter", adapter_dim)):
            if width % adapter_groups:
                raise SettingsError(f"adapter_groups {adapter_groups} does not divide the {name} width {width}.")
        self.vision_config = vision
        self.text_config = text
        self.image_token_id = image_token_id
        self.feature_every = feature_every
        self.projector_dim = projector_dim
        self.adapter_dim = adapter_dim
        self.adapter_groups = adapter_groups
        self.adapter_scale = adapter_scale
        self.adapter_dropout = adapter_dropout
        self.router_temperature = router_temperature
        self.vision_routing = vision_routing
        self.published_decode_positions = published_decode_positions
        super().__init__(**{"tie_word_embeddings": False, **kwargs})

    @property
    def vision_feature_layers(self) -> tuple[int, ...]:
        """Blocks after which the class token is read, from 1."""
        return tuple(range(self.feature_every, self.vision_config.num_hidden_layers + 1, self.feature_every))

    @property
    def image_seq_length(self) -> int:
        """Visual tokens of one image: 6 for ViT-L/14."""
        return len(self.vision_feature_layers)
