"""What is on a model only while some forward needs it: decoding pays for no hook that has nothing to do there.

A prefill needs everything. Tokens that come behind it need the hooks of layers whose masks are narrowed, and nothing
else. So each forward says what it needs when it begins. What is on although nobody needs it is harmless, since a hook
looks up its own thread's forward; so things go off only where a forward that needs less begins while no other needs
more, and a loop of prefills switches nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol, cast

from torch import nn
from torch.utils.hooks import RemovableHandle

__all__ = ["EVERYTHING", "LayerHooks", "ModuleHook", "Switch"]

EVERYTHING = None
"""What a prefill needs."""


class Switch(Protocol):
    """Something on a model that can be off for a while, and is on at first."""

    def off(self) -> None:
        """Take it off; it is on."""

    def on(self) -> None:
        """Put it on again; it is off."""


class ModuleHook:
    """A hook of a module, which comes on again at the place that it had among the module's hooks.

    Hooks of others that were registered in between come behind it. One that stands in front of an older hook was
    registered with `prepend=True`, and stays in front. Where the module has no older hook nobody can tell how its first
    new one was registered, so that one comes behind.

    Args:
        handle: what registering the hook gave.
        before: it is a forward pre-hook, else a forward hook.
    """

    def __init__(self, module: nn.Module, handle: RemovableHandle, before: bool) -> None:
        self._module, self._handle, self._before = module, handle, before
        self._taken: Callable[..., Any] | None = None
        self._in_front: frozenset[int] = frozenset()
        self._behind: frozenset[int] = frozenset()

    @property
    def _hooks(self) -> OrderedDict[int, Callable[..., Any]]:
        hooks = self._module._forward_pre_hooks if self._before else self._module._forward_hooks
        return cast("OrderedDict[int, Callable[..., Any]]", hooks)

    def off(self) -> None:
        hooks, own = self._hooks, self._handle.id
        if own in hooks:  # else somebody has cleared the module's hooks
            order = list(hooks)
            place = order.index(own)
            self._in_front, self._behind = frozenset(order[:place]), frozenset(order[place + 1 :])
            self._taken = hooks.pop(own)

    def on(self) -> None:
        if self._taken is not None:
            hooks = self._hooks
            order = list(hooks)
            behind = [other for place, other in enumerate(order) if not self._stays_in_front(other, order[place + 1 :])]
            hooks[self._handle.id], self._taken = self._taken, None
            for other in behind:  # moved, so that no other thread ever finds one missing
                hooks.move_to_end(other)

    def _stays_in_front(self, other: int, later: list[int]) -> bool:
        """Whether `other` runs before this hook; `later` are those behind it. Ids grow with each registration."""
        return other in self._in_front or (other not in self._behind and min(later, default=other) < other)


class LayerHooks:
    """The switches of one attached policy, and which of them the forwards that run now need.

    Safe in threads: a forward begins and ends in one thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._layers: dict[int, Switch] = {}
        self._prefill: list[Switch] = []
        self._running: dict[int, frozenset[int] | None] = {}
        """What the forward of each thread needs: hooks of layers, or EVERYTHING."""
        self._now: frozenset[int] | None = EVERYTHING
        """What is on."""
        self._fixed = False

    def add(self, switch: Switch, layer: int | None = None) -> None:
        """Note a switch, which is on: of a layer's hook that narrows masks, or (None) of what prefills alone need."""
        if layer is None:
            self._prefill.append(switch)
        else:
            self._layers[layer] = switch

    def begin(self, needed: frozenset[int] | None) -> None:
        """A forward of this thread begins."""
        with self._lock:
            self._running[threading.get_ident()] = needed
            self._settle()

    def also(self, layers: frozenset[int]) -> None:
        """The forward of this thread needs the hooks of these layers, too."""
        me = threading.get_ident()
        with self._lock:
            needed = self._running.get(me, layers)
            self._running[me] = needed if needed is EVERYTHING else needed | layers
            self._settle()

    def end(self) -> None:
        """The forward of this thread has ended."""
        with self._lock:
            self._running.pop(threading.get_ident(), None)

    def all_on(self) -> None:
        """Put everything on until the next forward begins: no generation is under way."""
        with self._lock:
            self._switch(EVERYTHING)

    def stay_on(self) -> None:
        """Put everything on for good: something will run that no forward announces."""
        with self._lock:
            self._switch(EVERYTHING)
            self._fixed = True

    def leave(self) -> None:
        """The policy comes off: nothing is switched any more."""
        with self._lock:
            self._fixed = True

    def _settle(self) -> None:
        needs = tuple(self._running.values())
        if EVERYTHING in needs:
            self._switch(EVERYTHING)
        elif len(needs) == 1:
            self._switch(needs[0])
        else:
            self._switch(frozenset().union(*[need for need in needs if need is not None]))

    def _switch(self, wanted: frozenset[int] | None) -> None:
        """Put on and take off what makes `wanted` of what is on now."""
        if wanted == self._now or self._fixed:
            return
        every = frozenset(self._layers)
        before = every if self._now is EVERYTHING else self._now & every
        after = every if wanted is EVERYTHING else wanted & every
        for layer in after - before:
            self._layers[layer].on()
        for layer in before - after:
            self._layers[layer].off()
        if (self._now is EVERYTHING) != (wanted is EVERYTHING):
            for switch in self._prefill:
                (switch.on if wanted is EVERYTHING else switch.off)()
        self._now = wanted
