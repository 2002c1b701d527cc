"""EAS: attention blocks that a task does not need do not run at all; adapters may take their place.

Source: arXiv 2403.15226. `docs/methods/eas.md` says what is different here and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from torch import Tensor

from ..core.attention_replacement import AttentionReplacement
from ..core.base_model import BaseModel
from ..core.decision import KEEP, Decision, LayerView, Policy
from ..core.errors import DataError, SettingsError
from ..core.registry import register
from ..modules.adapters import Adapter, SkipAdapters
from ..modules.merged import MergedAdapter, MergedAdapters

__all__ = ["AttentionSkip"]


@register("attention-skip")
class AttentionSkip(Policy):
    """The attention of some layers never runs and has no KV cache; adapters may take its place (EAS).

    The set is the same for all inputs. Positions that only a later attention would need do not run on behind the last
    attention that is kept.

    Args:
        layers: whose attention is skipped.
        adapters: one for each of them at least (`modules.adapters`), trained (`lookaway train --method eas`), or what
            merging left of them; None: the residual stream goes on.
        base: the model that the adapters were trained for.
        training: how set and adapters came about, kept with the policy.

    Raises:
        SettingsError: no layer, a layer twice, or one without adapter.
    """

    def __init__(
        self,
        layers: Iterable[int],
        adapters: SkipAdapters | MergedAdapters | None = None,
        base: BaseModel | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        given = [layers] if isinstance(layers, int) else list(layers)
        wrong = [layer for layer in given if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0]
        if wrong or not given or len(set(given)) != len(given):
            raise SettingsError(f"AttentionSkip takes decoder layers (0-based), each once, not {given}.")
        self.skipped = tuple(sorted(given))
        if isinstance(adapters, SkipAdapters):
            adapters = adapters.only(self.skipped)
        elif adapters is not None:
            for layer in self.skipped:
                adapters.replacement(layer)
        self.adapters, self.base, self.training = adapters, base, training

    # what the engine asks --------------------------------------------------------------------------------------------

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        return ()

    def decide(self, view: LayerView) -> Decision:
        return KEEP

    def skips(self, num_layers: int) -> tuple[int, ...]:
        if self.skipped[-1] >= num_layers:
            raise SettingsError(
                f"AttentionSkip skips layers {list(self.skipped)}, but this decoder has {num_layers} (0 to "
                f"{num_layers - 1})."
            )
        if len(self.skipped) == num_layers:
            raise SettingsError(
                f"AttentionSkip skips all {num_layers} layers: then no token knows of any other. Keep at least one."
            )
        return self.skipped

    def replacement(self, layer: int) -> AttentionReplacement | None:
        if self.adapters is None or layer not in self.skipped:
            return None
        return self.adapters.replacement(layer)

    def with_replacements(self, replacements: Mapping[int, AttentionReplacement]) -> AttentionSkip:
        if set(replacements) != set(self.skipped) or self.adapters is None:
            raise SettingsError(f"Adapters for layers {sorted(replacements)}, but {list(self.skipped)} are skipped.")
        parts = {str(layer): replacements[layer] for layer in self.skipped}
        if all(isinstance(part, MergedAdapter) for part in parts.values()):
            adapters: Any = MergedAdapters(parts)  # type: ignore[arg-type]
        elif all(isinstance(part, Adapter) for part in parts.values()):
            first = parts[str(self.skipped[0])]
            assert isinstance(first, Adapter)
            adapters = SkipAdapters(first.hidden_size, (), first.shape)
            adapters.update(parts)
        else:
            raise SettingsError("The adapters of one policy must be all merged or all unmerged.")
        return AttentionSkip(self.skipped, adapters.train(self.adapters.training), self.base, self.training)

    # merging ---------------------------------------------------------------------------------------------------------

    @property
    def merged(self) -> bool:
        """The FFNs of the model hold the adapters."""
        return isinstance(self.adapters, MergedAdapters)

    # on disk ---------------------------------------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        return {
            "layers": list(self.skipped),
            "adapters": None if self.adapters is None else self.adapters.to_config(),
            "training": None if self.training is None else dict(self.training),
        }

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.adapters is None else self.adapters.state_dict()

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        settings = dict(config)
        try:
            adapters = settings.pop("adapters")
            if adapters is not None:
                kind = MergedAdapters if "merged" in adapters else SkipAdapters
                adapters = kind.from_config(adapters, tensors)
            return cls(adapters=adapters, **settings)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, SettingsError):
                raise
            raise DataError(f"This is no attention-skip policy of this version ({error!r}). Train it again.") from error

    def card(self) -> str:
        what = (
            "no adapters take their place" if self.adapters is None
            else "merged adapters take their place: attach it to the merged model only" if self.merged
            else f"adapters take their place: {self.adapters.shape}"
        )  # fmt: skip
        return (
            f"Attention skipping (EAS, arXiv 2403.15226): the attention of layers {list(self.skipped)} does not run; "
            f"{what}."
        )

    def __repr__(self) -> str:
        kind = "no adapters" if self.adapters is None else "merged" if self.merged else "adapters"
        return f"AttentionSkip({list(self.skipped)}, {kind})"
