"""lookaway's policies inside vLLM: visual tokens leave vLLM's own decoder, layer by layer, without a change to vLLM.

`register` is the entry point of the group `vllm.general_plugins`: vLLM calls it in each of its processes. It places the
few hooks of `hooks.py`, and these do nothing unless the server was started with a policy:

    vllm serve MODEL --additional-config '{"lookaway": {"policy": "out/fit/policy"}}'

`docs/vllm.md` says which models and settings are exact and which are refused. Nothing here imports vLLM before
`register` was called.
"""

from __future__ import annotations

__all__ = ["register"]


def register() -> None:
    """Place the hooks; a second call changes nothing. vLLM may call it several times in one process."""
    from .hooks import place_hooks

    place_hooks()
