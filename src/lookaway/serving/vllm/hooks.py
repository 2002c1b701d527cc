"""The only places where vLLM is changed: methods that are wrapped once, all idle where no policy was configured.

vLLM has no extension point for what happens inside a decoder. Everything that the wrappers do lives in other files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["place_hooks", "place_server_hooks"]


def place_hooks() -> None:
    """Wrap vLLM's methods, where that was not done yet."""
    from vllm.v1.core.kv_cache_coordinator import KVCacheCoordinator
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.output_processor import OutputProcessor, RequestState
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from .kv_groups import register_spec

    register_spec()
    _wrap(InputProcessor, "__init__", _check_config)
    _wrap(InputProcessor, "process_inputs", _check_request)
    _wrap(Scheduler, "__init__", _attach_to_scheduler)
    _wrap(KVCacheManager, "get_computed_blocks", _find_cached)
    _wrap(KVCacheManager, "allocate_slots", _tell_managers)
    _wrap(KVCacheCoordinator, "cache_blocks", _cache_blocks)
    _wrap(GPUModelRunner, "get_kv_cache_spec", _attach)
    _wrap(GPUModelRunner, "initialize_metadata_builders", _split_groups)
    _wrap(GPUModelRunner, "_get_slot_mappings", _note_slots)
    _wrap(GPUModelRunner, "_build_attention_metadata", _prepare)
    _wrap(GPUModelRunner, "_init_mrope_positions", _begin_positions)
    _wrap(GPUModelRunner, "_execute_mm_encoder", _encode)
    _wrap(GPUModelRunner, "_model_forward", _run_decoder)
    _wrap(GPUModelRunner, "sample_tokens", _attach_reports)
    _wrap(Scheduler, "update_from_output", _hand_on_reports)
    _wrap(OutputProcessor, "process_outputs", _take_reports)
    _wrap(RequestState, "_new_request_output", _report)


def place_server_hooks() -> None:
    """Wrap the methods of vLLM's OpenAI server, in the process that has one."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    from .openai_api import answered, streamed

    _wrap(ChatCompletionRequest, "to_sampling_params", _choose_policy)
    _wrap(CompletionRequest, "to_sampling_params", _choose_policy)
    _wrap(OpenAIServingChat, "chat_completion_full_generator", answered)
    _wrap(OpenAIServingChat, "chat_completion_stream_generator", streamed)


Plain = Callable[..., Any]


def _wrap(owner: type, name: str, wrapper: Callable[..., Any]) -> None:
    plain: Plain = getattr(owner, name)
    if getattr(plain, "_lookaway", False):
        return

    @functools.wraps(plain)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(plain, self, *args, **kwargs)

    wrapped._lookaway = True  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)


def _check_config(plain: Plain, processor: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
    """In the front end, before the engine starts: refuse what cannot be served right."""
    from .front_end import FrontEnd
    from .settings import settings_of

    settings = settings_of(vllm_config)
    processor.lookaway = None if settings is None else FrontEnd(vllm_config, settings)
    if settings is not None:
        place_server_hooks()
    plain(processor, vllm_config, *args, **kwargs)


def _check_request(
    plain: Plain, processor: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
) -> Any:
    """In the front end, for each request: an unknown policy is the client's error, not the engine's."""
    if processor.lookaway is None:
        return plain(processor, request_id, prompt, params, *args, **kwargs)
    from vllm.exceptions import VLLMValidationError

    from .refusals import RequestRefused

    try:
        processor.lookaway.check(params, resumable=kwargs.get("resumable", False))
        request = plain(processor, request_id, prompt, params, *args, **kwargs)
        processor.lookaway.shorten(request)
    except RequestRefused as error:  # the kind of error that vLLM's server answers with status 400
        processor.lookaway.forget(processor.renderer.mm_processor_cache, prompt)
        raise VLLMValidationError(str(error)) from error
    return request


def _attach_to_scheduler(plain: Plain, scheduler: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
    """In the scheduler, once."""
    from .settings import settings_of

    plain(scheduler, vllm_config, *args, **kwargs)
    settings = settings_of(vllm_config)
    if settings is not None:
        from .prefix_caching import attach_to_scheduler

        attach_to_scheduler(scheduler, settings)


def _find_cached(plain: Plain, manager: Any, request: Any) -> Any:
    """In the scheduler, for each request that begins: which of its first tokens are in the prefix cache."""
    blocks, hit, boundary = plain(manager, request)
    if hit and getattr(manager, "lookaway", None) is not None:
        blocks, hit = manager.lookaway.find(manager, request, blocks, hit)
        boundary = 0  # of layers that keep a sparse state, which the plugin does not serve
    return blocks, hit, boundary


def _cache_blocks(plain: Plain, coordinator: Any, request: Any, num_computed_tokens: int) -> None:
    """In the scheduler, for each request of a step: blocks go into the prefix cache as far as others may read them."""
    if getattr(coordinator, "lookaway", None) is not None:
        num_computed_tokens = int(min(num_computed_tokens, coordinator.lookaway.shareable(request)))
    plain(coordinator, request, num_computed_tokens)


def _tell_managers(plain: Plain, manager: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """In the scheduler: managers of exit groups learn which of the request's tokens their layers will never hold."""
    from .kv_groups import tell_managers

    tell_managers(manager.coordinator.single_type_managers, request)
    return plain(manager, request, *args, **kwargs)


def _attach(plain: Plain, runner: Any) -> Any:
    """In the worker, between loading the model and laying out its KV cache."""
    from .attachment import attach
    from .settings import settings_of

    settings = settings_of(runner.vllm_config)
    runner.lookaway = None if settings is None else attach(runner, settings)
    specs = plain(runner)
    return specs if runner.lookaway is None else runner.lookaway.kv_cache_specs(specs)


def _split_groups(plain: Plain, runner: Any, *args: Any, **kwargs: Any) -> None:
    """In the worker, when its KV cache was laid out."""
    if getattr(runner, "lookaway", None) is not None:
        runner.lookaway.split_groups()
    plain(runner, *args, **kwargs)


def _note_slots(plain: Plain, runner: Any, *args: Any, **kwargs: Any) -> Any:
    """In the worker, for each step, before `_prepare`."""
    by_group, by_layer = plain(runner, *args, **kwargs)
    if getattr(runner, "lookaway", None) is not None:
        runner.lookaway.slots = by_layer
    return by_group, by_layer


def _prepare(plain: Plain, runner: Any, *args: Any, **kwargs: Any) -> Any:
    """In the worker, for each step: what its layers hold, where that is known before they run."""
    if getattr(runner, "lookaway", None) is not None:
        runner.lookaway.prepare(kwargs["num_reqs"], real=kwargs.get("num_scheduled_tokens") is not None)
    return plain(runner, *args, **kwargs)


def _begin_positions(plain: Plain, runner: Any, record: Any) -> None:
    """In the worker, for each new request of a model with positions in three dimensions."""
    if getattr(runner, "lookaway", None) is not None and runner.lookaway.positions.wanted(record):
        runner.lookaway.positions.begin(runner, record)
    else:
        plain(runner, record)


def _encode(plain: Plain, runner: Any, scheduled: Any) -> Any:
    """In the worker, for each step with new pictures: the vision tower, and what stays of each picture."""
    if getattr(runner, "lookaway", None) is None:
        return plain(runner, scheduled)
    return runner.lookaway.encode(plain, scheduled)


def _attach_reports(plain: Plain, runner: Any, *args: Any, **kwargs: Any) -> Any:
    """In the worker, at the end of each step: what the prompts saved that it computed."""
    output = plain(runner, *args, **kwargs)
    if getattr(runner, "lookaway", None) is not None:
        runner.lookaway.reports.attach_to(output)
    return output


def _hand_on_reports(plain: Plain, scheduler: Any, scheduled: Any, output: Any) -> Any:
    """In the scheduler, for each step."""
    from .reports import hand_on

    outputs = plain(scheduler, scheduled, output)
    hand_on(output, outputs)
    return outputs


def _take_reports(plain: Plain, processor: Any, outputs: Any, *args: Any, **kwargs: Any) -> Any:
    """In the front end, for each step."""
    from .reports import take

    take(processor.request_states, outputs)
    return plain(processor, outputs, *args, **kwargs)


def _report(plain: Plain, state: Any, *args: Any, **kwargs: Any) -> Any:
    """In the front end, for each `RequestOutput`: what its prompt saved; None without pictures."""
    output = plain(state, *args, **kwargs)
    output.lookaway = getattr(state, "lookaway", None)
    return output


def _choose_policy(plain: Plain, body: Any, *args: Any, **kwargs: Any) -> Any:
    """In the server, for each request."""
    from .openai_api import choose_policy

    return choose_policy(body, plain(body, *args, **kwargs))


def _run_decoder(plain: Plain, runner: Any, *args: Any, **kwargs: Any) -> Any:
    """In the worker, for each step: the narrowed decoder where tokens leave, else vLLM's own."""
    if getattr(runner, "lookaway", None) is not None:
        hidden = runner.lookaway.forward(kwargs["inputs_embeds"], kwargs["positions"])
        if hidden is not None:
            return hidden
    return plain(runner, *args, **kwargs)
