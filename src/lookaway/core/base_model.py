"""The fingerprint of the model that a trained policy belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ModelMismatch

__all__ = ["BaseModel"]

SHAPE = ("architecture", "num_layers", "hidden_size", "vocab_size")


@dataclass(frozen=True)
class BaseModel:
    """Fingerprint of the model that a trained policy belongs to."""

    architecture: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    id: str = ""
    """Hub id or folder name; for people, never compared by itself."""
    revision: str = ""
    """Hub revision; compared where both are known, the ids are the same, and no digest of the weights tells more."""
    weights: str = ""
    """Digest of the language model's weights, every value counted as bfloat16 (`core.weights.identity_digest`), so that
    one checkpoint in float32 and in bfloat16 is one model. Empty: not known (files of lookaway 0.1)."""

    def differences(self, other: BaseModel) -> list[str]:
        """What makes `other` (the model at hand) another model than this one, each line with both values."""
        found = [name for name in SHAPE if getattr(self, name) != getattr(other, name)]
        if self.weights and other.weights:
            found += ["weights"] if self.weights != other.weights else []
        elif self.id and self.id == other.id and self.revision and other.revision:
            found += ["revision"] if self.revision != other.revision else []
        return [
            f"{name} = {_short(getattr(self, name))}, but the model has {name} = {_short(getattr(other, name))}"
            for name in found
        ]

    def check(self, other: BaseModel, allow_other_model: bool = False) -> list[str]:
        """Refuse another model than the one with this fingerprint.

        Args:
            other: the model at hand.
            allow_other_model: another architecture, vocabulary, weights or revision will do; the depth and the width of
                the decoder must fit all the same.

        Returns:
            What differs and was allowed; empty for the same model.

        Raises:
            ModelMismatch: it is another model; the text names both values.
        """
        found = self.differences(other)
        hard = [line for line in found if line.startswith(("num_layers", "hidden_size"))]
        if hard or (found and not allow_other_model):
            name, theirs = self.id or self.architecture, other.id or other.architecture
            only = hard or found
            cure = "Find or train one for this model: lookaway fit --model ..., lookaway train --model ..."
            if not hard and not any(line.startswith(SHAPE) for line in found):
                cure += (
                    ". A copy of the same model in float16 or quantised, or with an adapter, is another model too; if "
                    "you know that it fits: la.attach(model, policy, allow_other_model=True), or --allow-other-model"
                )
            made = f"This policy was made for {name}, and the model at hand is {theirs}"
            if name == theirs:  # two folders may have one name
                made = f"This policy was made for another model that is called {name!r}, too"
            raise ModelMismatch(f"{made}: {'; '.join(only)}. {cure}.")
        return found


def _short(value: object) -> str:
    digest = isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")
    return repr(str(value)[:12]) if digest else repr(value)
