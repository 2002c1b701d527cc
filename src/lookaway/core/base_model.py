"""The fingerprint of the model that a trained policy belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ModelMismatch

__all__ = ["BaseModel"]


@dataclass(frozen=True)
class BaseModel:
    """Fingerprint of the model that a trained policy belongs to."""

    architecture: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    id: str = ""
    """Hub id or folder name; for people, never compared."""
    revision: str = ""
    """Hub revision; for people, never compared."""

    def check(self, other: BaseModel) -> None:
        """Raise ModelMismatch, naming both values, unless `other` (the model at hand) has this fingerprint."""
        for name in ("architecture", "num_layers", "hidden_size", "vocab_size"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise ModelMismatch(
                    f"This policy was made for {self.id or self.architecture} ({name} = {ours!r}), but the model has "
                    f"{name} = {theirs!r}. Train one for this model: lookaway train --method dyvte --model ..."
                )
