"""Adapters that replace skipped attentions (PIA of EAS, arXiv 2403.15226): linear, so that an FFN can hold them.

One adapter is a bottleneck of width h without activation. With z_t the normed states, p their mean over the prompt:

    u_t     = 1/2 (A p + a + C z_t + c)
    f(z)_t  = z_t + s * sum_j w_j (B_j u_t + b_j)

Published (`llava_shape`): two experts B_j of two groups each, w = softmax(E p / 10); f reads norm_a(x) and its result
is scaled by the gain of norm_f; p is taken over the whole prompt at each layer. LaVIN's (`lavin_shape`) differs in w:
its router reads the mean without the first position. Recommended (`AdapterShape()`): one expert, no router, f reads
norm_f(x), and p is taken over the text where a run of skipped layers begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.attention_replacement import pooled_prompt
from ..core.errors import DataError, SettingsError
from .merged import MergedAdapter

__all__ = ["Adapter", "AdapterShape", "SkipAdapters", "lavin_shape", "llava_shape", "preset_shape"]


@dataclass(frozen=True, kw_only=True)
class AdapterShape:
    """The form of all adapters of a model; the defaults are the recommended one."""

    width: int = 64
    """h, hidden units."""
    experts: int = 1
    """Up-projections B_j; more than one needs a router."""
    groups: int = 1
    """Blocks of an up-projection: each part of the output reads only its part of the hidden units."""
    router: bool = False
    """Weigh the experts by the prompt; off: one expert, so that the adapter merges once for all prompts."""
    router_without_first: bool = False
    """The router reads the mean without the prompt's first position (LaVIN-EAS)."""
    reads: Literal["ffn", "attention"] = "ffn"
    """Whose norm the states go through. ffn: the start is the layer without its attention; attention: as published."""
    pool: Literal["text", "all", "none"] = "text"
    """Over what p is taken. text: an exit of visual tokens changes nothing here."""
    once: bool = True
    """p is taken once for each run of skipped layers; off: at each layer, as published."""
    scale: float = 1.0
    """s."""
    temperature: float = 10.0
    """Of the router."""
    dropout: float = 0.1
    """On u, in training."""
    start: Literal["identity", "random"] = "identity"
    """B at the start: 0, or drawn like A and C (the published LLaVA training)."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.experts < 1 or self.groups < 1 or self.width % self.groups:
            raise SettingsError(
                f"An adapter needs a width that its groups divide, and an expert: not width {self.width}, "
                f"{self.groups} groups, {self.experts} experts."
            )
        if self.router != (self.experts > 1):
            raise SettingsError(
                f"{self.experts} expert(s) with router={self.router}: several experts need a router, one needs none."
            )
        if self.router and self.pool == "none":
            raise SettingsError("A router reads the pooled prompt: pool must be 'text' or 'all'.")
        if self.router_without_first and not self.router:
            raise SettingsError("router_without_first is about a router; this shape has none.")


def llava_shape(width: int, start: Literal["identity", "random"] = "random") -> AdapterShape:
    """LLaVA-EAS's adapter: width 256 (ScienceQA) or 128, up-projections drawn at random."""
    return AdapterShape(
        width=width, experts=2, groups=2, router=True, reads="attention", pool="all", once=False, start=start
    )


def lavin_shape(width: int = 32, start: Literal["identity", "random"] = "identity") -> AdapterShape:
    """LaVIN-EAS's adapter: its router reads the mean without the first position, the rest reads the mean of all."""
    return replace(llava_shape(width, start), router_without_first=True)


def preset_shape(preset: str, width: int) -> AdapterShape:
    """The form of the adapters of a preset of skip search or adapter training, of `width` hidden units."""
    if preset == "recommended":
        return AdapterShape(width=width)
    if preset == "published-lavin":
        return lavin_shape(width)
    return llava_shape(width, "identity" if preset == "published-meter" else "random")


class Adapter(nn.Module):
    """The adapter of one layer; a `core.attention_replacement.AttentionReplacement`.

    Args:
        hidden_size: D of the decoder.
        shape: its form.
    """

    merged: bool = False

    def __init__(self, hidden_size: int, shape: AdapterShape) -> None:
        super().__init__()
        if hidden_size < 1 or hidden_size % shape.groups:
            raise SettingsError(f"{shape.groups} groups do not divide a hidden size of {hidden_size}.")
        self.hidden_size, self.shape = hidden_size, shape
        self.reads, self.pool, self.once = shape.reads, shape.pool, shape.once
        self.without_first = shape.router_without_first
        h, d, groups = shape.width, hidden_size, shape.groups
        self.token = nn.Linear(d, h)  # C, c
        if shape.pool != "none":
            self.pooled = nn.Linear(d, h)  # A, a
        self.up = nn.Parameter(torch.zeros(shape.experts, groups, d // groups, h // groups))  # B_j
        self.up_bias = nn.Parameter(torch.zeros(shape.experts, d))  # b_j
        if shape.router:
            self.router = nn.Linear(d, shape.experts)  # E
        for linear in (self.token, getattr(self, "pooled", None)):
            if linear is not None:
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)
        if shape.start == "random":
            for expert in self.up.data.flatten(0, 1):
                nn.init.xavier_uniform_(expert)

    def context(self, pooled: Tensor) -> Tensor:
        """A p + a and, with a router, the experts' weights behind it: [B, h] or [B, h + experts]."""
        pooled = pooled.to(self.token.weight.dtype)
        p, routed = pooled.unbind(1) if self.without_first else (pooled, pooled)
        context = self.pooled(p)
        if self.shape.router:
            context = torch.cat([context, (self.router(routed) / self.shape.temperature).softmax(-1)], dim=-1)
        return context

    def changed(self, states: Tensor, context: Tensor | None) -> Tensor:
        """f of normed states [B, S, D]; computed in the adapter's own type, returned in the states'."""
        z = states.to(self.token.weight.dtype)
        return (z + self._added(z, context)).to(states.dtype)

    def forward(self, states: Tensor, other: Tensor, mask: Tensor | None = None) -> Tensor:
        """f(z) - z in an attention's own place: what a residual gets (post-norm models with two streams, as METER).

        Args:
            states: of this stream, [B, S, D].
            other: what the attention would have read, [B, T, D]; its mean is the context.
            mask: bool [B, T], positions that count; None: all.
        """
        z, pooled = states.to(self.token.weight.dtype), None
        if self.pool != "none":
            real = torch.ones_like(other[..., 0], dtype=torch.bool) if mask is None else mask
            pooled = self.context(pooled_prompt(other, real, self.without_first))
        return self._added(z, pooled).to(states.dtype)

    def _added(self, z: Tensor, context: Tensor | None) -> Tensor:
        u = self.token(z)
        if context is not None:
            u = u + context[:, None, : self.shape.width]
        u = nn.functional.dropout(0.5 * u, self.shape.dropout, self.training)
        out = torch.zeros_like(z)
        for j in range(self.shape.experts):
            term = self._up(u, j) + self.up_bias[j]
            if self.shape.router:
                assert context is not None
                term = term * context[:, None, self.shape.width + j, None]
            out = out + self.shape.scale * term
        return out

    def _up(self, u: Tensor, j: int) -> Tensor:
        weight = self.up[j]  # [groups, D / groups, h / groups]
        if len(weight) == 1:
            return u @ weight[0].T
        return torch.cat([part @ w.T for part, w in zip(u.chunk(len(weight), -1), weight, strict=True)], dim=-1)

    def biases(self, context: Tensor | None) -> Sequence[Tensor]:
        raise AssertionError("is not merged")

    def belongs_to(self, weights: Sequence[Tensor]) -> bool:
        raise AssertionError("is not merged")

    @torch.no_grad()
    def fold(self, weights: Sequence[Tensor], gain: Tensor | None) -> tuple[list[Tensor], MergedAdapter]:
        """Exact algebra: W f(z) = W G (I + 1/2 M C) z + W G (1/2 M (A p + a + c) + s b), M = s B; G = diag(gain).

        Computed in fp64; the new weights have the type of the old ones.

        Raises:
            SettingsError: the adapter has a router, so its map depends on the prompt by more than a bias.
        """
        if self.shape.router:
            raise SettingsError(
                "These adapters weigh their experts by the prompt, so no weights of an FFN can hold them for all "
                "prompts. Attach them as they are, or train adapters without a router (router: false)."
            )
        m = self.shape.scale * torch.block_diag(*self.up[0].double())  # [D, h]
        fixed = self.token.bias.double() + (self.pooled.bias.double() if self.pool != "none" else 0)
        shift = 0.5 * m @ fixed + self.shape.scale * self.up_bias[0].double()  # [D]
        new, bias, mixed = [], [], []
        for weight in weights:
            w = weight.detach().double().to(m.device)
            w = w if gain is None else w * gain.double().to(m.device)
            through = 0.5 * w @ m  # [width, h]
            kind = torch.promote_types(weight.dtype, torch.float32)
            new.append((w + through @ self.token.weight.double()).to(weight))
            bias.append((w @ shift).to(kind))
            mixed.append(through.to(kind))
        pool = self.pooled.weight.detach().to(kind) if self.pool != "none" else None
        probes = [weight.flatten()[: MergedAdapter.PROBE].float() for weight in new]
        return new, MergedAdapter(
            torch.stack(bias), torch.stack(mixed), pool, torch.stack(probes), self.pool, self.once
        )

    def flops(self, tokens: int) -> int:
        d, h, experts = self.hidden_size, self.shape.width, self.shape.experts
        token = 2 * d * h + experts * 2 * d * h // self.shape.groups
        once = 0 if self.pool == "none" else 2 * d * h + (2 * d * experts if self.shape.router else 0)
        return tokens * token + once

    def extra_repr(self) -> str:
        return f"{self.hidden_size} -> {self.shape.width}, reads={self.reads!r}, pool={self.pool!r}, once={self.once}"


class SkipAdapters(nn.ModuleDict):
    """Adapters of some layers, by layer number; in eval mode until `train()`.

    Args:
        hidden_size: D of the decoder.
        layers: which layers.
        shape: their form.
    """

    def __init__(self, hidden_size: int, layers: Iterable[int], shape: AdapterShape | None = None) -> None:
        super().__init__()
        self.hidden_size, self.shape = hidden_size, shape or AdapterShape()
        self.update({str(layer): Adapter(hidden_size, self.shape) for layer in sorted(set(layers))})
        self.eval()  # they are put beside a model that answers; what trains them says so

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(int(name) for name in self)

    def replacement(self, layer: int) -> Adapter:
        """The adapter of a layer.

        Raises:
            SettingsError: there is none.
        """
        if str(layer) not in self:
            raise SettingsError(f"There is no adapter for layer {layer}; there are adapters for {list(self.layers)}.")
        adapter = self[str(layer)]
        assert isinstance(adapter, Adapter)
        return adapter

    def only(self, layers: Iterable[int]) -> SkipAdapters:
        """The adapters of these layers alone; the weights are shared."""
        chosen = SkipAdapters(self.hidden_size, (), self.shape)
        chosen.update({str(layer): self.replacement(layer) for layer in sorted(set(layers))})
        return chosen.train(self.training)

    def to_config(self) -> dict[str, Any]:
        """What `from_config` needs beside the weights, as plain values."""
        return {"hidden_size": self.hidden_size, "layers": list(self.layers), "shape": asdict(self.shape)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SkipAdapters:
        """Adapters with weights, in eval mode.

        Raises:
            DataError: weights are missing, have another shape or are not finite; the text names the first.
        """
        try:
            with torch.device("meta"):
                adapters = cls(config["hidden_size"], config["layers"], AdapterShape(**config["shape"]))
        except (TypeError, KeyError) as error:
            raise DataError(f"These are no adapters of this version of lookaway ({error!r}). Train again.") from error
        load_checked(adapters, tensors, "Adapters")
        return adapters


def load_checked(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load weights into a module that was made on 'meta'; DataError names the first that does not fit."""
    wanted = module.state_dict()
    for name, value in wanted.items():
        if name not in tensors or tensors[name].shape != value.shape:
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            raise DataError(f"{what}: weight {name!r} is {found}, expected {tuple(value.shape)}. Train them again.")
        if not bool(tensors[name].isfinite().all()):
            raise DataError(f"{what}: weight {name!r} holds NaN or infinite values. Train them again.")
    module.load_state_dict({name: tensors[name].float() for name in wanted}, assign=True)
