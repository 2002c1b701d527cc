"""Every error a user can meet: each names the value that is wrong and the cure."""

__all__ = [
    "AttachError",
    "DataError",
    "InvalidDecision",
    "LookawayError",
    "MissingDependency",
    "ModelMismatch",
    "PreparationError",
    "SettingsError",
    "StaleResults",
    "UnknownAnatomy",
    "UnsupportedModel",
]


class LookawayError(Exception):
    """Base of all errors that lookaway raises on purpose; the CLI prints its text and exits with status 1."""


class UnknownAnatomy(LookawayError):
    """The architecture is in no family that lookaway knows."""


class UnsupportedModel(LookawayError):
    """The architecture is known, but what was asked cannot be done right on it (text-only model, static cache, ...)."""


class AttachError(LookawayError):
    """A policy cannot be attached here and now (already attached, nothing has run yet, ...)."""


class InvalidDecision(LookawayError):
    """A policy answered something that the engine must not carry out (text dropped, wrong shape, ...)."""


class ModelMismatch(LookawayError):
    """A saved policy was made for another model than the one it is attached to."""


class SettingsError(LookawayError, ValueError):
    """A setting is out of range, or does not fit the model or table at hand."""


class DataError(LookawayError):
    """A data set, image or answer is missing, unreadable or inconsistent."""


class StaleResults(DataError):
    """Results on disk depend on another model, policy, data, option or version than those given now."""


class PreparationError(LookawayError):
    """A model or file could not be fetched, checked or written."""


class MissingDependency(LookawayError):
    """An optional package is needed; the text names the extra that brings it."""

    @classmethod
    def of(cls, package: str, extra: str) -> "MissingDependency":
        return cls(f"{package} is not installed. It comes with: pip install 'lookaway[{extra}]'")
