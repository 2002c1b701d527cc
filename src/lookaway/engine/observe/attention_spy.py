"""Reads queries and keys of single attention modules, whatever the attention implementation.

The module's `config` is replaced by one that differs in one thing: the name of the attention function, which is ours.
That function shows queries and keys to whoever asked and then calls the usual one, so flash and SDPA stay on, masks are
made as ever, and all other modules are left alone. Nothing that transformers registered is wrapped, and nothing is
changed during a call, so that several threads may run the module at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...core.errors import UnsupportedModel

__all__ = ["See", "beside", "spy"]

NAME = "lookaway"

See = Callable[[nn.Module, Tensor, Tensor, Any, float], None]
"""Is shown (module, queries [B, H, Q, d], keys [B, G, S, d], mask, scaling) at each call, before the attention itself.
Keys are those of cache and new tokens together."""


def spy(attention: nn.Module, see: See) -> Callable[[], None]:
    """Show every call of this attention module to `see` until the returned function is called.

    Raises:
        UnsupportedModel: the module does not choose its attention function by its config.
    """
    if getattr(getattr(attention, "config", None), "_attn_implementation", None) is None:
        raise UnsupportedModel(
            f"{type(attention).__name__} does not take its attention function from its config, so its queries and keys "
            "cannot be read. Use a ranking that needs no attention, e.g. 'uniform' or 'diversity'."
        )
    _register()
    if not isinstance(attention.config, _SpyConfig):
        attention.config = _SpyConfig(attention.config)  # type: ignore[assignment]
    config: Any = attention.config
    config._seers.append(see)
    return partial(_stop, attention, config, see)


def beside(attention: nn.Module, name: str) -> Any:
    """A function that lives beside the code of this module, e.g. `eager_attention_forward`, or beside that of the class
    that it is derived from; None if there is none."""
    homes = (sys.modules.get(kind.__module__) for kind in type(attention).__mro__)
    return next((found for home in homes if (found := getattr(home, name, None)) is not None), None)


def _stop(attention: nn.Module, config: _SpyConfig, see: See) -> None:
    if see in config._seers:
        config._seers.remove(see)
    if not config._seers and attention.config is config:
        attention.config = config._usual


class _SpyConfig:
    """A config in all but the name of the attention function."""

    _attn_implementation = NAME

    def __init__(self, config: Any) -> None:
        self._usual = config
        self._seers: list[See] = []

    def __getattr__(self, name: str) -> Any:
        if name in ("_usual", "_seers"):  # while it is being copied
            raise AttributeError(name)
        return getattr(self._usual, name)


class _AsUsual:
    """An attention module in all but its config, which is the usual one: flash attention reads it."""

    def __init__(self, module: nn.Module, config: Any) -> None:
        self._module, self.config = module, config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _register() -> None:
    """Give our name to transformers' table; done once."""
    from transformers import AttentionInterface

    if NAME not in AttentionInterface():
        AttentionInterface.register(NAME, _attend)


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
    """Show, then the usual attention under the module's own config."""
    from transformers import AttentionInterface

    config: Any = module.config
    scaling = kwargs.get("scaling")
    own = config
    if isinstance(config, _SpyConfig):  # else another thread has stopped spying since this one chose its function
        for see in tuple(config._seers):
            see(module, query, key, mask, query.shape[-1] ** -0.5 if scaling is None else scaling)
        own = config._usual
    name = own._attn_implementation
    usual = beside(module, "eager_attention_forward") if name == "eager" else AttentionInterface()[name]
    return usual(_AsUsual(module, own), query, key, value, mask, **kwargs)
