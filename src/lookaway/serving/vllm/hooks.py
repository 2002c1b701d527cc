"""The only places where vLLM is changed: four methods, each wrapped once, all idle where no policy was configured.

vLLM has no extension point for what happens inside a decoder. Everything that the wrappers do lives in other files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["place_hooks"]


def place_hooks() -> None:
    """Wrap vLLM's methods, where that was not done yet."""
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from .kv_groups import register_spec

    register_spec()
    _wrap(InputProcessor, "__init__", _check_config)
    _wrap(InputProcessor, "process_inputs", _check_request)
    _wrap(KVCacheManager, "allocate_slots", _tell_managers)
    _wrap(GPUModelRunner, "get_kv_cache_spec", _attach)
    _wrap(GPUModelRunner, "_model_forward", _run_decoder)


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
    from .refusals import check_config
    from .settings import settings_of

    processor.lookaway = settings = settings_of(vllm_config)
    if settings is not None:
        check_config(vllm_config, settings)
    plain(processor, vllm_config, *args, **kwargs)


def _check_request(
    plain: Plain, processor: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
) -> Any:
    """In the front end, for each request: an unknown policy is the client's error, not the engine's."""
    if processor.lookaway is not None:
        from vllm.exceptions import VLLMValidationError

        from .refusals import RequestRefused, check_request

        try:
            check_request(processor.lookaway, params, resumable=kwargs.get("resumable", False))
        except RequestRefused as error:  # the kind of error that vLLM's server answers with status 400
            raise VLLMValidationError(str(error)) from error
    return plain(processor, request_id, prompt, params, *args, **kwargs)


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


def _run_decoder(plain: Plain, runner: Any, *args: Any, **kwargs: Any) -> Any:
    """In the worker, for each step: the narrowed decoder where tokens leave or have left, else vLLM's own."""
    if getattr(runner, "lookaway", None) is not None:
        hidden = runner.lookaway.forward(kwargs["inputs_embeds"], kwargs["positions"])
        if hidden is not None:
            return hidden
    return plain(runner, *args, **kwargs)
