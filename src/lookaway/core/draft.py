"""A draft as a value: what guesses answer tokens ahead, which the whole model then checks in one pass."""

from __future__ import annotations

from dataclasses import dataclass

from .decision import Policy
from .errors import SettingsError
from .twig import TwigSpec

__all__ = ["Draft"]


@dataclass(frozen=True, eq=False)
class Draft:
    """Self-speculative decoding: the model's own first layers guess the next answer tokens, the others check them.

    `la.Draft(8)` guesses with the first 8 decoder layers and the model's own norm and head, without training; models
    tuned to answer early suit it. `la.Draft(la.load("out/twig"))` guesses with a trained twig behind its K layers
    (TwigVLM, arXiv 2503.14075). Greedy answers are those without a draft; sampled ones have the same distribution
    (speculative sampling, arXiv 2211.17192). `docs/methods/twig.md`.

    Raises:
        SettingsError: settings that are out of range, or a policy without a twig.
    """

    by: int | Policy
    """K, the number of layers that guess (early exit); or a policy with a twig."""
    tokens: int = 6
    """At most so many tokens are guessed before the model checks them."""
    confidence: float = 0.6
    """Guessing stops behind a token at whose place the most probable one had a smaller probability; 0: never."""

    def __post_init__(self) -> None:
        if isinstance(self.by, Policy):
            if self.by.twig() is None:
                raise SettingsError(
                    f"{self.by!r} has no twig that could guess tokens. Give a number of layers, la.Draft(8), or a twig "
                    "(lookaway train --method twig makes one)."
                )
        elif isinstance(self.by, bool) or not isinstance(self.by, int) or self.by < 1:
            raise SettingsError(
                f"What guesses is a number of decoder layers from 1 on, or a policy with a twig, not {self.by!r}."
            )
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise SettingsError(f"A draft has at least one token: tokens={self.tokens!r} will not do.")
        number = isinstance(self.confidence, int | float) and not isinstance(self.confidence, bool)
        if not number or not 0 <= self.confidence <= 1:
            raise SettingsError(f"A draft's confidence is a probability from 0 to 1, not {self.confidence!r}.")

    @property
    def twig(self) -> TwigSpec | None:
        """The twig that guesses; None: the model's own norm and head do (early exit)."""
        return self.by.twig() if isinstance(self.by, Policy) else None

    @property
    def start(self) -> int:
        """K: so many layers of the model run before the guess, once a token, for guessing and checking."""
        if isinstance(self.by, Policy):
            twig = self.by.twig()
            assert twig is not None
            return twig.start
        return self.by
