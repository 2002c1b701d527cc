"""What is left of an adapter once the FFN holds it: a bias a prompt on the linears that the FFN begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.errors import DataError, SettingsError

__all__ = ["MergedAdapter", "MergedAdapters"]


class MergedAdapter(nn.Module):
    """The remainder of one merged adapter; a `core.attention_replacement.AttentionReplacement`.

    Args:
        bias: constant part, fp32 [linears, width].
        mixed: takes the context to the linears' outputs, fp32 [linears, width, h].
        pooled: takes the prompt's mean to the context, fp32 [h, D]; None where the adapter does not pool.
        probe: the first numbers of each merged weight, fp32 [linears, PROBE]: tells whether a model is the merged one.
        pool, once: as the adapter's.
    """

    PROBE: ClassVar[int] = 8
    merged: bool = True
    reads: Literal["ffn", "attention"] = "ffn"
    without_first: bool = False

    bias: Tensor
    mixed: Tensor
    probe: Tensor
    pooled: Tensor | None

    def __init__(
        self,
        bias: Tensor,
        mixed: Tensor,
        pooled: Tensor | None,
        probe: Tensor,
        pool: Literal["none", "text", "all"],
        once: bool,
    ) -> None:
        super().__init__()
        self.pool, self.once = pool, once
        for name, value in (("bias", bias), ("mixed", mixed), ("pooled", pooled), ("probe", probe)):
            self.register_buffer(name, value)

    def context(self, pooled: Tensor) -> Tensor:
        """A p, [B, h]."""
        assert self.pooled is not None
        return nn.functional.linear(pooled.to(self.pooled.dtype), self.pooled)

    def changed(self, states: Tensor, context: Tensor | None) -> Tensor:
        return states

    def biases(self, context: Tensor | None) -> Sequence[Tensor]:
        if context is None:
            return [bias[None] for bias in self.bias]
        return [nn.functional.linear(context, mixed, bias) for mixed, bias in zip(self.mixed, self.bias, strict=True)]

    def fold(self, weights: Sequence[Tensor], gain: Tensor | None) -> tuple[list[Tensor], MergedAdapter]:
        raise SettingsError("These adapters are merged already.")

    def belongs_to(self, weights: Sequence[Tensor]) -> bool:
        found = [weight.flatten()[: self.PROBE].float().to(self.probe.device) for weight in weights]
        shapes = [bias.shape[0] for bias in self.bias] == [len(weight) for weight in weights]
        return shapes and torch.allclose(torch.stack(found), self.probe.float(), rtol=2e-2, atol=1e-4)

    def flops(self, tokens: int) -> int:
        """Counted once a row: the biases do not depend on the tokens."""
        if self.pooled is None:
            return 0
        linears, width, h = self.mixed.shape
        return 2 * h * self.pooled.shape[1] + 2 * linears * width * h


class MergedAdapters(nn.ModuleDict):
    """The remainders of some layers, by layer number."""

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(int(name) for name in self)

    @property
    def hidden_size(self) -> int | None:
        """D of the decoder; None where nothing pools."""
        found = [part.pooled for part in self.values() if isinstance(part, MergedAdapter)]
        return next((pooled.shape[1] for pooled in found if pooled is not None), None)

    def replacement(self, layer: int) -> MergedAdapter:
        if str(layer) not in self:
            raise SettingsError(f"There is no merged adapter for layer {layer}; there are {list(self.layers)}.")
        adapter = self[str(layer)]
        assert isinstance(adapter, MergedAdapter)
        return adapter

    def to_config(self) -> dict[str, Any]:
        return {
            "merged": [[layer, self.replacement(layer).pool, self.replacement(layer).once] for layer in self.layers]
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> MergedAdapters:
        """Raises DataError where a weight is missing or not finite."""
        adapters = cls()
        for layer, pool, once in config["merged"]:
            parts: dict[str, Any] = {
                name: tensors.get(f"{layer}.{name}") for name in ("bias", "mixed", "pooled", "probe")
            }
            for name, value in parts.items():
                wanted = name != "pooled" or pool != "none"
                if (value is None) == wanted or (value is not None and not bool(value.isfinite().all())):
                    state = "missing" if value is None else "not as expected"
                    raise DataError(f"Merged adapters: weight '{layer}.{name}' is {state}. Merge them again.")
            adapters[str(layer)] = MergedAdapter(**parts, pool=pool, once=once)
        return adapters.eval()
