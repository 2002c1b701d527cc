"""What a task asks of `generate`, and numbers that come from a command line as text."""

from __future__ import annotations

from typing import Any

from ...core.errors import SettingsError

__all__ = ["generation", "whole"]

KNOWN = {"max_new_tokens", "temperature", "top_p", "top_k", "num_beams", "do_sample", "repetition_penalty"}
"""Generation settings of a task that are passed on; 'until' and what serves other models is not."""


def whole(name: str, value: Any) -> int:
    """A setting from a command line that is a whole number."""
    try:
        return int(str(value))  # 2.7 and true are none
    except ValueError:
        raise SettingsError(f"{name} must be a whole number, not {value!r}.") from None


def generation(settings: dict[str, Any]) -> dict[str, Any]:
    """A task's settings as `generate` takes them: greedy unless a temperature above 0 is asked for, and also where the
    task says not to sample (MM-Vet names a temperature all the same)."""
    found = {name: value for name, value in settings.items() if name in KNOWN and value is not None}
    found.setdefault("max_new_tokens", 256)
    found["do_sample"] = float(found.get("temperature", 0) or 0) > 0 and found.get("do_sample", True)
    if not found["do_sample"]:
        for name in ("temperature", "top_p", "top_k"):
            found.pop(name, None)
    return found
