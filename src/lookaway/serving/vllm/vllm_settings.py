"""Settings of vLLM with which an answer would be wrong, each with the one to take instead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .settings import Settings

__all__ = ["acts_inside", "inside_reasons", "reasons", "whole_prompts"]

GRAPHS_OF_DECODING = '{"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}'


def whole_prompts(config: Any) -> bool:
    """Whether a policy that looks at the prompt gets all of it at once."""
    return not config.scheduler_config.enable_chunked_prefill


def acts_inside(config: Any, settings: Settings) -> bool:
    """Whether tokens leave inside the decoder on this server. So do those of a policy that only shortens prompts, where
    it cannot say beforehand how many tokens stay."""
    return not inside_reasons(config, settings) and (not settings.all_before() or whole_prompts(config))


def inside_reasons(config: Any, settings: Settings) -> list[str]:
    """Why visual tokens cannot leave inside the decoder under these settings of vLLM, each with its cure; empty: they
    can. What leaves before the decoder does not mind."""
    policies = settings.policies.values()
    cache, parallel = config.cache_config, config.parallel_config
    looks = any(policy.needs_attention(settings.num_layers) for policy in policies)
    looks_again = any(policy.retry() is not None for policy in policies)
    return _that_apply([
        (
            not config.model_config.enforce_eager and not settings.unproved_cuda_graphs,
            "CUDA graphs or compilation",
            "--enforce-eager",
        ),
        (
            settings.unproved_cuda_graphs and not _eager_but_for_decoding(config),
            "compilation, or CUDA graphs of more than decoding steps",
            f"--compilation-config '{GRAPHS_OF_DECODING}'",
        ),
        (
            bool(config.kv_events_config and config.kv_events_config.enable_kv_cache_events),
            "events about the KV cache (they would not name what layers behind an exit hold)",
            "leave out enable_kv_cache_events",
        ),
        (
            not whole_prompts(config) and not settings.all_static(),
            "chunked prefill with a policy that looks at the prompt",
            "--no-enable-chunked-prefill, or a fixed exit",
        ),
        (cache.kv_sharing_fast_prefill, "fast prefill", "leave out --kv-sharing-fast-prefill"),
        (config.model_config.use_mla, "multi-head latent attention", "use a model without it"),
        (
            parallel.tensor_parallel_size > 1 and looks,
            "tensor parallelism with a policy that ranks by attention (each GPU has a part of the heads)",
            "--tensor-parallel-size 1",
        ),
        (
            parallel.tensor_parallel_size > 1 and looks_again,
            "tensor parallelism with a second look (each GPU would have to know the first answer token's logits)",
            "--tensor-parallel-size 1",
        ),
    ])  # fmt: skip


def _eager_but_for_decoding(config: Any) -> bool:
    """Whether only decoding steps may be CUDA graphs, and nothing is compiled: prompts go through the plugin's loop."""
    compilation = config.compilation_config
    return compilation.mode == 0 and compilation.cudagraph_mode.name in ("NONE", "FULL_DECODE_ONLY")


def reasons(config: Any, settings: Settings) -> list[str]:
    """What no policy can be served with, each with its cure."""
    parallel, cache = config.parallel_config, config.cache_config
    watches = any(policy.needs_vision() for policy in settings.policies.values())
    return _that_apply([
        (config.use_v2_model_runner, "vLLM's second model runner", "set the variable VLLM_USE_V2_MODEL_RUNNER=0"),
        (config.speculative_config is not None, "speculative decoding", "leave out --speculative-config"),
        (config.kv_transfer_config is not None, "KV transfer", "leave out --kv-transfer-config"),
        (config.ec_transfer_config is not None, "a vision tower in another process", "leave out --ec-transfer-config"),
        (config.lora_config is not None, "LoRA adapters (chosen by row)", "merge them into the model"),
        (cache.sliding_window is not None, "a sliding window", "use a model without one"),
        (config.model_config.runner_type != "generate", "pooling", "--runner generate"),
        (parallel.pipeline_parallel_size > 1, "pipeline parallelism", "--pipeline-parallel-size 1"),
        (parallel.data_parallel_size > 1, "data parallelism", "start one server a GPU"),
        (
            parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1,
            "context parallelism",
            "set its sizes to 1",
        ),
        (parallel.enable_dbo or parallel.ubatch_size > 0, "micro-batching", "leave out --enable-dbo"),
        (
            watches and parallel.tensor_parallel_size > 1,
            "tensor parallelism with a policy that ranks by the vision tower's attention",
            "--tensor-parallel-size 1",
        ),
        (
            watches and config.compilation_config.cudagraph_mm_encoder,
            "CUDA graphs of the vision tower with a policy that ranks by its attention",
            "leave out cudagraph_mm_encoder",
        ),
    ])  # fmt: skip


def _that_apply(conditions: Iterable[tuple[bool, str, str]]) -> list[str]:
    """Of (whether it applies, what is set, what to do instead) those that apply, as lines."""
    return [f"{what}: {cure}" for applies, what, cure in conditions if applies]
