"""Fewer KV blocks for layers that no visual token reaches: a KV cache group of their own, and its manager.

vLLM gives every layer of a group as many blocks as the request has tokens. Here the layers behind a fixed exit form
groups whose manager leaves the visual tokens out of the count, so that more requests fit into the same memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from .pictures import visual_ranges

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["exit_spec", "first_text_layer", "register_spec", "tell_managers"]

MOST_GROUPS = 8
"""vLLM makes groups of equal size: where the layers behind the exit are many times those before it (or the other way
round), every step would build metadata for very many groups."""


def first_text_layer(settings: Settings) -> int:
    """The layer behind which KV cache groups of their own are worth it; `num_layers` where they are not.

    With several policies it is the last of their fixed exits: layers behind it hold visual tokens only of requests with
    another policy, or none, and these get full blocks.
    """
    exits = [k for name in settings.policies if (k := settings.empty_from(name)) < settings.num_layers]
    first = max(exits, default=settings.num_layers)
    smaller = min(first, settings.num_layers - first)
    if not settings.own_kv_groups or smaller == 0 or -(-settings.num_layers // smaller) > MOST_GROUPS:
        return settings.num_layers
    return first


@cache
def _classes() -> tuple[Any, Any]:
    """(spec, manager): made on first use, since their bases are vLLM's."""
    from dataclasses import dataclass

    from vllm.utils.math_utils import cdiv
    from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
    from vllm.v1.kv_cache_interface import AttentionSpec

    # A subclass of FullAttentionSpec would be merged into one group with the layers before the exit.
    @dataclass(frozen=True, kw_only=True)
    class ExitSpec(AttentionSpec):
        """KV cache of a layer that no visual token of the requests with certain policies reaches."""

        without_visual: tuple[str, ...] = ()
        """Names of those policies."""
        default: str = ""
        """The policy of a request that chooses none."""

        def max_memory_usage_bytes(self, vllm_config: Any) -> int:
            return cdiv(vllm_config.model_config.max_model_len, self.block_size) * self.page_size_bytes

        @property
        def prefix_cacheable(self) -> bool:
            return False

    class ExitManager(FullAttentionManager):
        """Allocates blocks for the tokens that the group's layers hold."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.left_out: dict[str, list[tuple[int, int]]] = {}
            """Request id -> ranges of tokens that the layers never hold."""

        def learn(self, request: Any) -> None:
            if request.request_id in self.left_out:
                return
            chosen = (getattr(request.sampling_params, "extra_args", None) or {}).get(
                "lookaway", self.kv_cache_spec.default
            )
            applies = chosen in self.kv_cache_spec.without_visual
            self.left_out[request.request_id] = visual_ranges(request.mm_features) if applies else []

        def held(self, request_id: str, num_tokens: int) -> int:
            """How many of a request's first tokens the layers hold; at least 1, since vLLM expects a block."""
            ranges = self.left_out.get(request_id, ())
            return max(num_tokens - sum(max(min(stop, num_tokens) - start, 0) for start, stop in ranges), 1)

        def get_num_blocks_to_allocate(self, request_id: str, num_tokens: int, *args: Any, **kwargs: Any) -> int:
            wanted = cdiv(self.held(request_id, num_tokens), self.block_size)
            return max(wanted - len(self.req_to_blocks.get(request_id, ())), 0)

        def allocate_new_blocks(self, request_id: str, num_tokens: int, num_tokens_main_model: int) -> Any:
            held = self.held(request_id, num_tokens)
            return super().allocate_new_blocks(request_id, held, held)

        def pop_blocks_for_free(self, request_id: str) -> Any:
            self.left_out.pop(request_id, None)
            return super().pop_blocks_for_free(request_id)

    # vLLM sends specs from the worker to the scheduler by name.
    for cls in (ExitSpec, ExitManager):
        cls.__qualname__ = cls.__name__
        globals()[cls.__name__] = cls
    return ExitSpec, ExitManager


def register_spec() -> None:
    """Make the spec and its manager known to vLLM."""
    from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

    KVCacheSpecRegistry._ensure_registered()  # without it, the first registration would keep vLLM's own out
    KVCacheSpecRegistry.register(*_classes())


def exit_spec(plain: Any, settings: Settings, first: int) -> Any:
    """The spec of a layer at or behind `first`, from the one that vLLM would use."""
    from dataclasses import fields

    from vllm.v1.kv_cache_interface import AttentionSpec

    names = tuple(name for name in settings.policies if settings.empty_from(name) <= first)
    shared = {field.name: getattr(plain, field.name) for field in fields(AttentionSpec)}
    return _classes()[0](**shared, without_visual=names, default=settings.default)


def tell_managers(managers: Iterable[Any], request: Any) -> None:
    """Let the managers of exit groups know a request before its blocks are allocated."""
    exit_manager = _classes()[1]
    for manager in managers:
        if isinstance(manager, exit_manager):
            manager.learn(request)
