"""Small sizes for the config of any image-text model: what all share, and what single models need otherwise. Data."""

TEXT = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "initializer_range": 0.25,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sliding_window": 64, "query_pre_attn_scalar": 8,
    # experts
    "moe_intermediate_size": 24, "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4,
    "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "moe_num_experts": 4,
    "moe_topk": 2, "moe_num_shared_experts": 1, "first_k_dense_replace": 1, "shared_expert_intermediate_size": 24,
    "dense_intermediate_size": 48, "shared_intermediate_size": 24, "intermediate_size_mlp": 48, "share_expert_dim": 24,
    # latent attention, linear attention, state spaces, chosen keys
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 8, "qk_nope_head_dim": 8,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2,
    "index_head_dim": 8, "index_n_heads": 2, "index_topk": 512,
    # others
    "vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8, "attention_chunk_size": 64, "ffn_dim": 48,
    "word_embed_proj_dim": 32, "global_head_dim": 8, "num_sliding_attention_heads": 4, "encoder_hidden_size": 32,
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_global_key_value_heads": 2,
}  # fmt: skip
"""For each key that a text config has."""

VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "depth": 2, "num_attention_heads": 2,
    "num_heads": 2, "num_key_value_heads": 2, "image_size": 16, "patch_size": 4, "out_hidden_size": 32,
    "initializer_range": 0.25, "embed_dim": 16, "head_dim": 8, "num_position_embeddings": 16, "n_layers": 2,
    "mlp_dim": 32, "vocab_size": 97, "max_position_embeddings": 64, "d_model": 32, "text_hidden_size": 32,
}  # fmt: skip
"""For each key that any other part of a config has."""

IDS = {"image_token_id": 5, "image_token_index": 5, "video_token_id": 6, "video_token_index": 6}

DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
THREE = {**DEFAULT, "mrope_section": [2, 1, 1]}
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 16, "patch_size": 4,
}  # fmt: skip
"""In place of towers of packages that are not installed; the walk shows no picture to it."""
AUDIO = {"encoder_attention_heads": 2, "d_model": 16, "output_dim": 32, "num_mel_bins": 8}
THREE_DIMENSIONAL = {"text_config": {"rope_parameters": THREE}}

OVERRIDES = {
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": DEFAULT, "sliding_attention": DEFAULT}}},
    "cosmos3_edge": THREE_DIMENSIONAL,
    "deepseek_ocr2": {
        "text_config": {"num_experts_per_tok": 2, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
        "vision_config": {"sam_config": {
            "global_attn_indexes": [1], "downsample_channels": [16, 16], "output_channels": 16, "window_size": 2,
        }},
    },
    "emu3": {
        "vocabulary_map": {"<image>": 5},
        "vq_config": {
            "base_channels": 32, "num_res_blocks": 1, "channel_multiplier": (1,), "embed_dim": 4, "codebook_size": 16,
            "latent_channels": 4, "hidden_size": 32, "attn_resolutions": (),
        },
    },
    "ernie4_5_vl_moe": {
        "text_config": {
            "moe_intermediate_size": [24, 24], "moe_k": 2, "head_dim": 8,
            "rope_parameters": {**DEFAULT, "mrope_section": [1, 1, 2]},
        },
        "vision_start_token_id": 90,
    },
    "fast_vlm": {"vision_config": SIGLIP},
    "gemma3n": {
        "text_config": {"intermediate_size": 48, "laurel_rank": 8, "num_kv_shared_layers": 2,
                        "activation_sparsity_pattern": None},
    },
    "glm46v": THREE_DIMENSIONAL,
    "glm4v": THREE_DIMENSIONAL,
    "glm4v_moe": {"text_config": {"rope_parameters": {**THREE, "partial_rotary_factor": 1.0}}},
    "glm5_next": {"text_config": {
        "num_key_value_heads": 4, "linear_head_dim": 8, "linear_num_heads": 4, "qk_rope_head_dim": 0, "head_dim": 0,
    }},
    "glm_ocr": THREE_DIMENSIONAL,
    "glmga": THREE_DIMENSIONAL,
    "granite4_vision": {
        "spatial_target_layers": [0, 1, 2, 3], "deepstack_layer_map": [[-1, 0]], "downsample_rate": "1/2",
        "vision_config": {"hidden_size": 64},
    },
    "hunyuan_vl": {"text_config": {"rope_parameters": {**DEFAULT, "xdrope_section": [1, 1, 1, 1]}, "head_dim": 8}},
    "janus": {"vq_config": {"base_channels": 32, "num_res_blocks": 1, "channel_multiplier": (1, 1), "embed_dim": 4,
                            "num_embeddings": 16, "latent_channels": 4, "num_patches": 4}},
    "kimi_k25": {"text_config": {"num_key_value_heads": 4}},
    "llama4": {"vision_config": {"projector_input_dim": 32, "projector_output_dim": 32, "vision_output_dim": 32}},
    "mistral_large4": {"text_config": {"num_key_value_heads": 4}},
    "molmo2": {
        "image_patch_id": 5, "vision_config": {"image_size": [16, 16]}, "text_config": {"additional_vocab_size": 8},
        "adapter_config": {"vision_feature_layer": [-1, -2]},
    },
    "muse_spark": {
        "text_config": {"moe_hidden_size": 16},
        "audio_config": {"num_hidden_layers": 4, "patch_sizes": (2, 2, 2, 2), "hidden_sizes": (8, 8, 8, 8),
                         "depths": (1, 1, 1, 1)},
    },
    "nemotron_h_omni": {
        "vision_config": {"video_temporal_patch_size": 2},
        "text_config": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]},
    },
    "paddleocr_vl": THREE_DIMENSIONAL,
    "perception_lm": {"vision_config": {**SIGLIP, "model_args": {"embed_dim": 16}}},
    "qwen2_5_omni_thinker": {**THREE_DIMENSIONAL, "audio_config": AUDIO, "vision_start_token_id": 90},
    "qwen2_5_vl": THREE_DIMENSIONAL,
    "qwen2_vl": THREE_DIMENSIONAL,
    "qwen3_omni_moe_thinker": {**THREE_DIMENSIONAL, "audio_config": AUDIO, "vision_start_token_id": 90},
    "step3p7": {"text_config": {"sliding_window": 64}},
    "qwen4_exp": {"text_config": {
        "rope_parameters": THREE, "hc_lowrank": 8, "hc_count": 2, "ple_layer_ids": [], "indexer_head_dim": 8,
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_budget": 512, "indexer_compress_ratio": 1,
    }},
}  # fmt: skip
"""`config.model_type` -> what its config needs otherwise, part by part."""

REPLACED = {
    "gemma3n": {"vision_config": {**SIGLIP, "rms_norm_eps": 1e-6, "vocab_offset": 90, "vocab_size": 7}},
}
"""Parts that a config's own checks would not take, put in after them."""

LAYERED = ("cohere_compass", "cosmos3_omni", "granite4_vision", "granite_docling", "qwen3_omni_moe_thinker")
"""Models whose vision tower gives features for several layers of the decoder."""
BY_LAYER = ("granite4_vision",)
"""Of these, those that say which layers."""
JOINED = (
    "aria", "cohere2_vision", "deepseek_vl", "deepseek_vl_hybrid", "gemma3n", "got_ocr2", "inkling_mm_model", "janus",
    "perception_lm",
    "pp_chart2table", "qianfan_ocr", "shieldgemma2",
)  # fmt: skip
"""Models that take the features of all pictures as one tensor."""
WITHOUT_FEATURES = ("fuyu",)
"""Models that take no features in place of a picture."""
