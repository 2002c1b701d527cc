"""AutoPrune (arXiv 2509.23931): how fast a prompt loses its visual tokens follows from how the text looks at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...core.decision import Decision, LayerView
from ...core.errors import LookawayError, SettingsError
from ...core.registry import register
from ..ranked import Keep, check_some, count_of, originals
from ..ranking.attention import CHUNK, question_rows
from ..ranking.base import attention_inputs_of, keep_best
from ..settings_policy import SettingsPolicy
from .clusters import keep_and_merge

__all__ = ["AutoPrune", "keep_counts", "mutual_information"]

LAYERS, HEADS = 32, 32
"""Of LLaVA-1.5-7B, for which the paper's numbers are: places are counted in its layers, information in its heads."""
EPSILON = 1e-6
"""Of the public code, inside the logarithm: with it the published `steepness` and `gamma` keep their meaning."""


@register("autoprune")
@dataclass(frozen=True)
class AutoPrune(SettingsPolicy):
    """Each prompt gets its own keep curve under one budget: steep where its text looks at few tokens (AutoPrune).

    Before layer `layer` the mutual information I of text and image in the attention of the layer before is measured.
    Layer i then keeps a share of s / (1 + exp(k (i - midpoint - k))), at most 1, with k = max(steepness - gamma I, 0);
    s is such that all layers together process `budget` of the row's visual tokens. The question's attention ranks.
    """

    budget: Keep = 64 / 576
    """Visual tokens that a layer processes on average: a share of the row's own (float), or a count (int)."""
    layer: int = 2
    """The first layer that may process fewer."""
    steepness: float = 0.4
    """k0: steepness of a prompt without mutual information."""
    gamma: float = 0.2
    """What each bit of mutual information takes from it."""
    midpoint: float = 14.9
    """x0, in layers of 32: where a flat curve has half of its height."""
    recycle: float = 0.3
    """Share of the tokens that leave, the best of them, that is merged instead of lost; 0: none."""
    groups: float = 0.1
    """Merged tokens for each token that goes into one."""

    def __post_init__(self) -> None:
        check_some(self.budget, "AutoPrune")
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer < 1:
            raise SettingsError(
                f"AutoPrune reads the attention of the layer before `layer`, which is from 1 on, not {self.layer!r}."
            )
        if self.steepness < 0 or self.gamma < 0:
            raise SettingsError(
                f"AutoPrune's steepness and gamma are from 0 on, not {self.steepness} and {self.gamma}."
            )
        if not 0 <= self.recycle <= 1 or not 0 < self.groups <= 1:
            raise SettingsError(
                f"AutoPrune's recycle is a share from 0 to 1 and its groups one above 0, not {self.recycle} and "
                f"{self.groups}."
            )

    def layers(self, num_layers: int, first_prunable: int) -> tuple[int, ...]:
        if not max(first_prunable, 1) <= self.layer < num_layers:
            raise SettingsError(
                f"AutoPrune begins at layer {self.layer}, but this model allows {max(first_prunable, 1)} to "
                f"{num_layers - 1}. Choose a layer in that range."
            )
        return tuple(range(self.layer, num_layers))

    def needs_attention(self, num_layers: int) -> frozenset[int]:
        return frozenset(range(self.layer, num_layers))

    @torch.no_grad()
    def decide(self, view: LayerView) -> Decision:
        device, left = view.layout.visual.device, view.layout.visual_counts
        look = _look(view)
        notes: dict[str, Tensor] = {}
        if view.layer == self.layer:
            notes = {"information": mutual_information(look, view.layout.visual), "entering": left}
            noted: Mapping[str, Tensor] = notes
        else:
            noted = view.notes.get(self.layer, {})
            if "information" not in noted:
                raise LookawayError(
                    f"AutoPrune needs what it measured before layer {self.layer}, and this run did not hand it on. Use "
                    "la.attach."
                )
        steepness = (self.steepness - self.gamma * noted["information"].to(device)).clamp(min=0)
        entering = noted["entering"].to(device)
        budgets = torch.tensor([count_of(self.budget, total) for total in originals(view)], device=device)
        if notes and bool(((budgets * view.num_layers <= entering * self.layer) & (entering > 0)).any()):
            raise SettingsError(
                f"The {self.layer} layers before AutoPrune begins use up its budget of {self.budget:.4g} (of "
                f"{view.num_layers} layers). Give a larger one, or let fewer tokens enter: "
                "la.chain(la.CDPruner(keep=0.5), la.AutoPrune(...))."
            )
        counts = keep_counts(steepness, entering, budgets, view.num_layers, self.layer, self.midpoint)
        wanted = torch.minimum(counts[:, view.layer - self.layer], left)
        mean = (look.total / look.texts[:, None].clamp(min=1)).to(view.hidden.dtype)
        if self.recycle:
            return replace(keep_and_merge(view, mean, wanted, self.recycle, self.groups), notes=notes)
        return Decision(keep=keep_best(view, mean, wanted), notes=notes)


@dataclass(frozen=True)
class _Look:
    """How a prompt's question looks at its slots."""

    total: Tensor  # [B, S]
    """Weights, summed over the question's tokens, mean over heads."""
    heads: Tensor  # [B, H, S]
    """The same for each head."""
    texts: Tensor  # int64 [B]
    parts: Callable[[], Any]
    """Yields the weights again, [B, H, q, S] of some rows, 0 where a row only fills up."""


def _look(view: LayerView) -> _Look:
    inputs = attention_inputs_of(view)
    slots, valid = question_rows(view.layout)

    def parts() -> Any:
        for start in range(0, slots.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            yield inputs.weights(slots[:, part]) * valid[:, None, part, None]

    heads = torch.stack([part.sum(2) for part in parts()]).sum(0)
    return _Look(heads.mean(1), heads, valid.sum(1), parts)


def mutual_information(look: _Look, visual: Tensor) -> Tensor:
    """Bits of mutual information of the question's tokens x and the visual tokens y, in 32 heads together. [B]

    p(x) = 1 / number of x, p(y | x) is the attention weight as it is (text takes its part: the sum is below 1), and
    I = sum p(x, y) log2(p(x, y) / (p(x) p(y) + epsilon)). Of a model with another number of heads: 32 times their mean.
    """
    texts = look.texts[:, None, None, None].clamp(min=1)
    on_y = look.heads[:, :, None] / texts  # p(y), [B, H, 1, S]
    total = look.total.new_zeros(len(visual))
    for weights in look.parts():
        both = weights / texts * visual[:, None, None]
        ratio = (both / (on_y / texts + EPSILON)).clamp(min=EPSILON)
        total += (both * ratio.log2()).sum((2, 3)).mean(1)
    return HEADS * total


def keep_counts(
    steepness: Tensor, entering: Tensor, budgets: Tensor, num_layers: int, first: int, midpoint: float
) -> Tensor:
    """Visual tokens that the layers from `first` on process, int64 [B, L - first]; never more with depth.

    Args:
        steepness: k, [B]. entering: int64 [B], tokens that all layers before `first` process.
        budgets: [B], tokens that a layer processes on average; what the layers before `first` take counts.
        midpoint: in layers of 32.

    The last layers may be left with one token where the budget asks for less: a row with an image keeps one.
    """
    device = steepness.device
    place = (torch.arange(first, num_layers, device=device, dtype=torch.float64) - 1) * LAYERS / num_layers
    k = steepness.double()[:, None]
    shape = torch.sigmoid(-k * (place - midpoint - k))  # [B, L - first]
    allowed = (budgets.double() * num_layers - entering.double() * first).clamp(min=0)
    low, high = torch.zeros_like(k), 1 / shape.amin(1, keepdim=True).clamp(min=1e-12)
    for _ in range(60):  # the height: what all layers keep together grows with it
        middle = (low + high) / 2
        spent = ((middle * shape).clamp(max=1) * entering[:, None]).floor().sum(1)
        low, high = (
            torch.where(spent[:, None] <= allowed[:, None], middle, low),
            torch.where(spent[:, None] <= allowed[:, None], high, middle),
        )
    counts = ((low * shape).clamp(max=1) * entering[:, None]).floor().long()
    return torch.maximum(counts, entering.clamp(max=1)[:, None])
