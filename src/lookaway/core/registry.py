"""One small typed registry; its errors name the near misses."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from .decision import Policy
from .errors import LookawayError

__all__ = ["Registry", "register", "registered_policies"]

T = TypeVar("T")
P = TypeVar("P", bound=type[Policy])


class Registry(Generic[T]):
    """Names to things of one type, in alphabetical order."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._former: dict[str, str] = {}

    def add(self, name: str, entry: T) -> None:
        if name in self._entries and self._entries[name] is not entry:
            raise LookawayError(f"A {self.kind} named {name!r} is registered already.")
        self._entries[name] = entry

    def renamed(self, former: str, name: str) -> None:
        """What was saved under the name `former` is read as `name`; only new names are listed."""
        self._former[former] = name

    def __getitem__(self, name: str) -> T:
        name = self._former.get(name, name)
        try:
            return self._entries[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._entries, n=3, cutoff=0.5)
            hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
            known = ", ".join(sorted(self._entries)) or "none"
            raise LookawayError(f"No {self.kind} named {name!r}.{hint} Known: {known}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries


registered_policies: Registry[type[Policy]] = Registry("policy")


def register(name: str) -> Callable[[P], P]:
    """Class decorator: give a policy its public name (config files, CLI, `la.policies()`)."""

    def add(cls: P) -> P:
        cls.name = name
        registered_policies.add(name, cls)
        return cls

    return add
