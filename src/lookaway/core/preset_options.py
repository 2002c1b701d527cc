"""Options whose defaults depend on a named preset: what is left at None gets the preset's value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from .errors import SettingsError

__all__ = ["PresetOptions"]


@dataclass(frozen=True, kw_only=True)
class PresetOptions:
    """Base of such options. A class narrows `preset` to its own names and gives their values in `presets`."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]]  # name -> values of the options that are None by default

    preset: str
    """Values of the options that are not given."""

    def filled(self) -> Self:
        """These options with the preset's values in the places left alone.

        Raises:
            SettingsError: there is no such preset.
        """
        if self.preset not in self.presets:
            raise SettingsError(f"No preset {self.preset!r}; there are {', '.join(self.presets)}.")
        values = self.presets[self.preset]
        return replace(self, **{name: value for name, value in values.items() if getattr(self, name) is None})
