"""What `generate` is called with: by name, by position, in a generation config, or as the model's own default."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

__all__ = ["DRAFTING", "GenerateOptions"]

DRAFTING = (
    "assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp", "speculation_type",
)  # fmt: skip
"""Options by which transformers itself drafts (assisted generation)."""


class GenerateOptions:
    """One call of `generate`.

    Args:
        model: whose method it is; its `generation_config` has the defaults.
        usual: the method, whose signature names what was given by position.
        args: by position; kwargs: by name.
    """

    def __init__(self, model: Any, usual: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        parameters = inspect.signature(usual).parameters.items()
        names = [name for name, of in parameters if of.kind is of.POSITIONAL_OR_KEYWORD]
        self.given: dict[str, Any] = dict(zip(names or ["inputs", "generation_config"], args, strict=False))
        self.given |= kwargs
        self._configs = (self.given.get("generation_config"), model.generation_config)

    def value(self, name: str) -> Any:
        """The option in force: what was given, a None too; else of the config that was given; else the model's own."""
        if name in self.given:
            return self.given[name]
        found = (vars(config).get(name) for config in self._configs if config is not None)
        return next((value for value in found if value is not None), None)

    @property
    def earlier_tokens(self) -> int:
        """So many tokens the KV cache that was given holds already."""
        cache = self.given.get("past_key_values")
        return 0 if cache is None else int(cache.get_seq_length())

    @property
    def drafting(self) -> str | None:
        """The option by which transformers itself drafts in this call, where it does."""
        return next((name for name in DRAFTING if self.value(name) not in (None, False)), None)
