"""Policies that are their settings: a frozen dataclass, saved as plain values, with nothing trained in it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

from ..core.decision import Policy
from ..core.errors import DataError, SettingsError

__all__ = ["SettingsPolicy", "check_positions"]

POSITIONS = ("original", "renumber")


@dataclass(frozen=True)
class SettingsPolicy(Policy):
    """Base of policies whose dataclass fields are all there is to save."""

    def to_config(self) -> dict[str, Any]:
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Any = None) -> Self:
        try:
            return cls(**config)
        except TypeError as error:
            known = ", ".join(field.name for field in fields(cls))
            raise DataError(f"These are no settings of {cls.name!r} ({error}). Known: {known}.") from error

    def card(self) -> str:
        settings = "\n".join(f"- {name}: `{value}`" for name, value in self.to_config().items())
        return f"{(type(self).__doc__ or '').strip().splitlines()[0]}\n\n{settings}\n\nNothing in it is trained."


def check_positions(positions: Any) -> None:
    """Raise SettingsError unless it is one of the ways to number the tokens that stay."""
    if positions not in POSITIONS:
        raise SettingsError(f"positions is one of {', '.join(map(repr, POSITIONS))}, not {positions!r}.")


def _plain(value: Any) -> Any:
    """As JSON takes it."""
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value
