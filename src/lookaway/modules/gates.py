"""Exit gates: small heads that read the text tokens' state at a layer and say 'seen enough' (DyVTE, 2411.19628)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.errors import DataError, SettingsError
from ..core.features import text_features

__all__ = ["ExitGates", "text_features"]

Norm = Literal["none", "layer", "standard"]


class ExitGates(nn.Module):
    """One gate a candidate layer: `features -> width -> GELU -> exit or stay`.

    All gates lie in stacked tensors. `shared=True` keeps one pair of matrices for all layers and only a bias of the
    hidden units a layer, which is a learned layer embedding.

    Args:
        hidden_size: D of the decoder; a gate reads 2D numbers (`core.features.text_features`).
        layers: candidate exits k, ascending; the gate of k reads the state entering layer k.
        width: hidden units.
        shared: one set of matrices for all layers.
        norm: 'standard' subtracts a mean and divides by a deviation a feature and layer, both fitted on the training
            features (`fit_norm`): the residual stream grows with depth and has a few huge entries. 'layer' normalises
            each vector by itself. 'none' is as published.
        two_way: two outputs without any bias, as published; the logit of exit is their difference.

    Raises:
        SettingsError: no layer, layers that do not ascend, or sizes below 1.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        hidden_size: int,
        layers: Sequence[int],
        width: int = 256,
        shared: bool = False,
        norm: Norm = "standard",
        two_way: bool = False,
    ) -> None:
        super().__init__()
        layers = tuple(layers)
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
            raise SettingsError(f"Gates need candidate layers in ascending order, each once, not {list(layers)}.")
        if hidden_size < 1 or width < 1:
            raise SettingsError(f"Gates need positive sizes, not hidden_size={hidden_size} and width={width}.")
        if norm not in ("none", "layer", "standard"):
            raise SettingsError(f"norm must be 'none', 'layer' or 'standard', not {norm!r}.")
        self.hidden_size, self.layers, self.width = hidden_size, layers, width
        self.shared, self.norm, self.two_way = shared, norm, two_way
        gates, count, outputs = (1 if shared else len(layers)), len(layers), (2 if two_way else 1)
        self.w1 = nn.Parameter(_xavier(gates, 2 * hidden_size, width))  # [G, 2D, width], G = 1 or C
        self.w2 = nn.Parameter(_xavier(gates, width, outputs))  # [G, width, 1 or 2]
        if not two_way:
            self.b1 = nn.Parameter(torch.zeros(count, width))
            self.b2 = nn.Parameter(torch.zeros(count, 1))
        if norm == "standard":
            self.register_buffer("mean", torch.zeros(count, 2 * hidden_size))
            self.register_buffer("scale", torch.ones(count, 2 * hidden_size))

    @classmethod
    def published(cls, hidden_size: int, layers: Sequence[int]) -> ExitGates:
        """The published shape: 2D -> 2048 -> 2 a layer, no bias, no norm (16.8M weights a layer of a 7B model)."""
        return cls(hidden_size, layers, width=2048, shared=False, norm="none", two_way=True)

    def forward(self, features: Tensor, layer: int) -> Tensor:
        """Logits of exit before `layer`, [...], from features [..., 2D]."""
        place = self.place(layer)
        first, second = (self.w1[0], self.w2[0]) if self.shared else (self.w1[place], self.w2[place])
        hidden = self._normed(features.float(), place) @ first
        if self.two_way:
            out = torch.nn.functional.gelu(hidden) @ second
            return out[..., 1] - out[..., 0]
        return (torch.nn.functional.gelu(hidden + self.b1[place]) @ second + self.b2[place])[..., 0]

    def all_layers(self, features: Tensor) -> Tensor:
        """Logits of all candidate layers, [N, C], from features [N, C, 2D]."""
        hidden = self._through(self.w1, self._normed(features.float(), slice(None)))  # [N, C, width]
        if self.two_way:
            out = self._through(self.w2, torch.nn.functional.gelu(hidden))
            return out[..., 1] - out[..., 0]
        return (self._through(self.w2, torch.nn.functional.gelu(hidden + self.b1)) + self.b2)[..., 0]

    def place(self, layer: int) -> int:
        """Index of a candidate layer.

        Raises:
            SettingsError: no gate reads that layer.
        """
        try:
            return self.layers.index(layer)
        except ValueError:
            raise SettingsError(f"No gate reads layer {layer}; there are gates for {list(self.layers)}.") from None

    @torch.no_grad()
    def fit_norm(self, features: Tensor) -> None:
        """Take the normalisation from training features [N, C, 2D]; does nothing unless norm is 'standard'."""
        if self.norm == "standard":
            features = features.float()
            self.mean.copy_(features.mean(0))
            deviation = features.std(0, correction=0)
            self.scale.copy_(deviation.clamp(min=1e-2 * float(deviation.median()) + 1e-6))

    def _normed(self, x: Tensor, at: int | slice) -> Tensor:
        if self.norm == "standard":
            return (x - self.mean[at]) / self.scale[at]
        if self.norm == "layer":
            return torch.nn.functional.layer_norm(x.unflatten(-1, (2, -1)), (self.hidden_size,)).flatten(-2)
        return x

    def _through(self, weight: Tensor, x: Tensor) -> Tensor:
        return x @ weight[0] if self.shared else torch.einsum("nci,cio->nco", x, weight)

    # on disk ---------------------------------------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        """What `from_config` needs beside the weights, as plain values."""
        names = ("hidden_size", "width", "shared", "norm", "two_way")
        return {"layers": list(self.layers), **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ExitGates:
        """Gates with weights.

        Raises:
            DataError: weights are missing, have another shape or are not finite; the text names the first.
        """
        try:
            with torch.device("meta"):
                gates = cls(**config)
        except TypeError as error:
            raise DataError(f"These are no gates of this version of lookaway ({error}). Train them again.") from error
        for name, wanted in gates.state_dict().items():
            if name not in tensors or tensors[name].shape != wanted.shape:
                found = tuple(tensors[name].shape) if name in tensors else "missing"
                raise DataError(f"Gates: weight {name!r} is {found}, expected {tuple(wanted.shape)}. Train them again.")
            if not bool(tensors[name].isfinite().all()):
                raise DataError(f"Gates: weight {name!r} holds NaN or infinite values. Train them again.")
        gates.load_state_dict({name: tensors[name].float() for name in gates.state_dict()}, assign=True)
        return gates.eval()

    def extra_repr(self) -> str:
        size = sum(weight.numel() for weight in self.parameters())
        return (
            f"{len(self.layers)} layers, width {self.width}, shared={self.shared}, norm={self.norm!r}, {size:,} weights"
        )


def _xavier(gates: int, inputs: int, outputs: int) -> Tensor:
    bound = math.sqrt(6 / (inputs + outputs))
    return torch.empty(gates, inputs, outputs).uniform_(-bound, bound)
