"""In the scheduler: vLLM's prefix cache, as far as what a layer holds of a prompt follows from its tokens.

- Before a prompt's first visual token all policies leave the same, and so does no policy: shared by all.
- Behind it, a fixed exit leaves in the layers before it what no policy leaves, and in those behind it the text alone.
  Both are shared where the latter layers have KV cache groups of their own, whose blocks hold nothing else: they are
  known by the keys of `compact_blocks.py`, and a block of which a request shares a part is copied for it, as vLLM can.
- Policies that look at the prompt must see all of it: they read nothing, and leave to others what comes before the
  first picture.
"""

from __future__ import annotations

from math import inf
from typing import Any

from .kv_groups import exit_managers, first_text_layer, tell_managers
from .pictures import visual_ranges
from .settings import Settings
from .short_prompt import marked

__all__ = ["SharedPrefixes", "attach_to_scheduler"]


class SharedPrefixes:
    """Says of each request how much of it may be cached, and finds what is."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._first = first_text_layer(settings)

    def shareable(self, request: Any) -> float:
        """How many of a request's first tokens leave in all layers what they leave in any request.

        Args:
            request: vLLM's `Request`.
        """
        return min(self._limits(request)[0], request.num_tokens)

    def readable(self, request: Any) -> float:
        """How many of a request's first tokens may come from the cache."""
        return min(self._limits(request)[1], request.num_tokens)

    def _limits(self, request: Any) -> tuple[float, float]:
        """(tokens to write, tokens to read); found once a request, since both are asked for in every step."""
        if not hasattr(request, "lookaway"):
            ranges = visual_ranges(request.mm_features)
            name, shortened = self.settings.name_for(request.sampling_params), any(map(marked, request.mm_features))
            exit_at = self.settings.exit_of(name, shortened)
            everything = not ranges or exit_at in (self.settings.num_layers, self._first)
            write = inf if everything else min(start for start, _ in ranges)
            request.lookaway = (write, 0 if ranges and exit_at is None else write)
        limits: tuple[float, float] = request.lookaway
        return limits

    def find(self, manager: Any, request: Any, blocks: Any, hit: int) -> tuple[Any, int]:
        """(the cached blocks of all groups, how many tokens they hold).

        Args:
            manager: vLLM's `KVCacheManager`.
            blocks: what it found in the groups that hold the whole prompt. hit: so many tokens.
        """
        managers = manager.coordinator.single_type_managers
        tell_managers(managers, request)
        size = managers[0].block_size
        hit = int(min(hit, self.readable(request))) // size * size
        found: dict[int, list[Any]] = {}
        groups, before = exit_managers(managers), -1
        while hit != before:  # what one group lacks, the others are not to have either
            before = hit
            for group in groups:
                found[group.kv_cache_group_id], hit = group.find(request, hit)
        kept = (found.get(index, blocks_of[: hit // size]) for index, blocks_of in enumerate(blocks.blocks))
        return manager.create_kv_cache_blocks(tuple(map(list, kept))), hit


def attach_to_scheduler(scheduler: Any, settings: Settings) -> None:
    """Give the scheduler's managers what they need to know."""
    manager = scheduler.kv_cache_manager
    manager.lookaway = manager.coordinator.lookaway = SharedPrefixes(settings)
