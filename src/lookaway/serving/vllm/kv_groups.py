"""Fewer KV blocks for layers that no visual token reaches: a KV cache group of their own, and its manager.

vLLM gives every layer of a group as many blocks as the request has tokens. Here the layers behind a fixed exit form
groups whose manager leaves the visual tokens out of the count, so that more requests fit into the same memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from .compact_blocks import CompactBlocks
from .pictures import visual_ranges

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["exit_managers", "exit_spec", "first_text_layer", "register_spec", "tell_managers"]

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
    from vllm.v1.core.kv_cache_utils import BlockHash, make_block_hash_with_group_id, resolve_block_hashes
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
            return False  # not by vLLM's own rule that a block holds what the prompt's block of its number does

    class ExitManager(FullAttentionManager):
        """Allocates blocks for the tokens that the group's layers hold."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.layouts: dict[str, CompactBlocks] = {}
            """Request id -> where its tokens lie."""
            self.cached_until: dict[str, int] = {}
            """Request id -> so many of its tokens are in the prefix cache; a multiple of the block size."""
            self.fresh: set[bytes] = set()
            """Keys of blocks that get their tokens in the step that is being planned; copies come before these."""

        def new_step_starts(self) -> None:
            super().new_step_starts()
            self.fresh.clear()

        def learn(self, request: Any) -> None:
            if request.request_id in self.layouts:
                return
            chosen = (getattr(request.sampling_params, "extra_args", None) or {}).get(
                "lookaway", self.kv_cache_spec.default
            )
            applies = chosen in self.kv_cache_spec.without_visual
            left_out = visual_ranges(request.mm_features) if applies else ()
            self.layouts[request.request_id] = CompactBlocks(left_out, self.block_size)

        def held(self, request_id: str, num_tokens: int) -> int:
            """How many of a request's first tokens the layers hold."""
            layout = self.layouts.get(request_id)
            return num_tokens if layout is None else layout.held(num_tokens)

        def get_num_blocks_to_allocate(
            self,
            request_id: str,
            num_tokens: int,
            new_computed_blocks: Any,
            total_computed_tokens: int,
            num_local_computed_tokens: int,
            *args: Any,
            **kwargs: Any,
        ) -> int:
            held = max(self.held(request_id, num_tokens), 1)  # vLLM expects a block
            computed = self.held(request_id, num_local_computed_tokens)
            return super().get_num_blocks_to_allocate(request_id, held, new_computed_blocks, computed, computed, held)

        def add_local_computed_blocks(
            self, request_id: str, new_computed_blocks: Any, num_local_computed_tokens: int, *args: Any
        ) -> None:
            self.cached_until[request_id] = num_local_computed_tokens
            computed = self.held(request_id, num_local_computed_tokens)
            super().add_local_computed_blocks(request_id, new_computed_blocks, computed, 0)

        def allocate_new_blocks(self, request_id: str, num_tokens: int, num_tokens_main_model: int) -> Any:
            held = max(self.held(request_id, num_tokens), 1)
            return super().allocate_new_blocks(request_id, held, held)

        def cache_blocks(self, request: Any, num_tokens: int, *args: Any, **kwargs: Any) -> None:
            layout, blocks = self.layouts[request.request_id], self.req_to_blocks[request.request_id]
            size, hashes = self.block_size, self._hashes(request)
            first, last = self.cached_until.get(request.request_id, 0), num_tokens // size * size
            for end in range(first + size, last + 1, size):
                for number in layout.written(end):
                    key = layout.key(hashes[end // size - 1], end, number)
                    self.fresh.add(key)
                    group_key = make_block_hash_with_group_id(BlockHash(key), self.kv_cache_group_id)
                    self.block_pool._insert_block_hash(group_key, blocks[number], num_tokens=end)
            self.cached_until[request.request_id] = max(first, last)

        def find(self, request: Any, most: int) -> tuple[list[Any], int]:
            """(blocks, tokens): the longest part of a request's first `most` tokens, a multiple of the block size, of
            which the cache has all that these layers hold."""
            layout, size, hashes = self.layouts[request.request_id], self.block_size, self._hashes(request)

            def cached(number: int, held: int) -> list[Any]:
                """The block, where it has the first `held` tokens."""
                end = layout.end(held)
                key = BlockHash(layout.key(hashes[end // size - 1], end, number))
                if held % size and key in self.fresh:  # a copy of it would be needed
                    return []
                return self.block_pool.get_cached_block(key, [self.kv_cache_group_id]) or []

            whole: list[Any] = []
            while (len(whole) + 1) * size <= layout.held(most) and (
                block := cached(len(whole), (len(whole) + 1) * size)
            ):
                whole += block
            for hit in range(most, 0, -size):
                number, rest = divmod(layout.held(hit), size)
                if number <= len(whole):
                    last = cached(number, layout.held(hit)) if rest else []
                    if last or not rest:
                        return whole[:number] + last, hit
            return [], 0

        def _hashes(self, request: Any) -> Any:
            return resolve_block_hashes(request.block_hashes, self.block_pool.hash_block_size, self.block_size)

        def pop_blocks_for_free(self, request_id: str) -> Any:
            self.layouts.pop(request_id, None)
            self.cached_until.pop(request_id, None)
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


def exit_managers(managers: Iterable[Any]) -> list[Any]:
    """Those of exit groups."""
    return [manager for manager in managers if isinstance(manager, _classes()[1])]


def tell_managers(managers: Iterable[Any], request: Any) -> None:
    """Let the managers of exit groups know a request before its blocks are found or allocated."""
    for manager in exit_managers(managers):
        manager.learn(request)
