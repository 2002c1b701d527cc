"""Parts of LaVIN: the routed adapter, attentions that pass their input through one, the projector, and the routing.

A *routed adapter* (mixture-of-modality adapter) is linear, with two block-diagonal experts weighed by a router:
`z + s * (w0 * first(u) + w1 * second(u))`, `u = down(z)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPAttention
from transformers.models.llama.modeling_llama import LlamaAttention

from ...core.errors import UnsupportedModel
from .config import LavinConfig

__all__ = ["LavinAttention", "LavinProjector", "LavinVisionAttention", "RoutedAdapter", "modality_routing"]


class GroupedLinear(nn.Module):
    """A block-diagonal linear map: the g-th share of the outputs reads the g-th share of the inputs only."""

    def __init__(self, in_features: int, out_features: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(out_features, in_features // groups))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        blocks = self.weight.unflatten(0, (self.groups, -1))  # [G, out / G, in / G]
        out = torch.einsum("...gi,goi->...go", x.unflatten(-1, (self.groups, -1)), blocks)
        return out.flatten(-2) + self.bias


class RoutedAdapter(nn.Module):
    """The adapter before every attention of LaVIN. Identity as long as its experts are zero, as at initialisation."""

    def __init__(self, width: int, config: LavinConfig) -> None:
        super().__init__()
        self.down = nn.Linear(width, config.adapter_dim)
        self.first = GroupedLinear(config.adapter_dim, width, config.adapter_groups)
        self.second = GroupedLinear(config.adapter_dim, width, config.adapter_groups)
        self.router = nn.Linear(width, 2)
        self.dropout = nn.Dropout(config.adapter_dropout)
        self.scale, self.temperature = config.adapter_scale, config.router_temperature

    def route(self, z: Tensor) -> Tensor:
        """The two experts' weights from normed states [..., width]: [..., 2], summing to 1."""
        return torch.softmax(self.router(z.to(self.router.weight.dtype)).float() / self.temperature, -1)

    def forward(self, z: Tensor, weights: Tensor) -> Tensor:
        """Args: z: [B, S, width]; weights: [B, 1 or S, 2]. Returns [B, S, width] in z's dtype."""
        u = self.dropout(self.down(z.to(self.down.weight.dtype)))
        weights = weights.to(u.dtype)
        update = weights[..., :1] * self.first(u) + weights[..., 1:] * self.second(u)
        return z + (self.scale * update).to(z.dtype)


class LavinAttention(LlamaAttention):
    """LLaMA's attention behind an adapter whose experts are weighed by the row's modality."""

    def __init__(self, config: LavinConfig, layer_idx: int) -> None:
        super().__init__(config.text_config, layer_idx)
        self.place = layer_idx
        """In the decoder; `layer_idx` is the place in a KV cache, which a copied layer (a twig's) changes."""
        self.adapter = RoutedAdapter(config.text_config.hidden_size, config)

    def forward(self, hidden_states: Tensor, *args: Any, routing: Tensor | None = None, **kwargs: Any) -> Any:
        """As LLaMA's, with `routing` [B, L, 2]: the experts' weights of all layers.

        Raises:
            UnsupportedModel: there is no routing, or it is one of another batch.
        """
        if routing is None or len(routing) != len(hidden_states):
            found = "none" if routing is None else f"one of {len(routing)} rows"
            raise UnsupportedModel(
                f"A decoder layer of LaVIN needs the routing of its {len(hidden_states)} rows and got {found}. Call "
                "the whole model; what runs a part of a batch must take the same rows of `routing`."
            )
        adapted = self.adapter(hidden_states, routing[:, self.place, None])
        return super().forward(adapted, *args, **kwargs)

    def alone(self, z: Tensor, weights: Tensor) -> Tensor:
        """Attention of a single token to itself: its values. z: [B, D]; weights: [B, 2]. Returns [B, D]."""
        values = self.v_proj(self.adapter(z[:, None], weights[:, None])[:, 0])
        values = values.unflatten(-1, (-1, self.head_dim)).repeat_interleave(self.num_key_value_groups, 1)
        return self.o_proj(values.flatten(1))


class LavinVisionAttention(CLIPAttention):
    """CLIP's attention behind an adapter that routes on its own input."""

    def __init__(self, config: LavinConfig) -> None:
        super().__init__(config.vision_config)
        self.adapter = RoutedAdapter(config.vision_config.hidden_size, config)
        self.vision_routing = config.vision_routing

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        by = hidden_states if self.vision_routing == "token" else hidden_states[:, 1:].mean(1, keepdim=True)
        return super().forward(self.adapter(hidden_states, self.adapter.route(by)), *args, **kwargs)


class LavinProjector(nn.Module):
    """Class tokens into the decoder's width: Linear, SiLU, Linear."""

    def __init__(self, config: LavinConfig) -> None:
        super().__init__()
        self.down = nn.Linear(config.vision_config.hidden_size, config.projector_dim)
        self.up = nn.Linear(config.projector_dim, config.text_config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[N, V, vision width] -> [N, V, width]."""
        return self.up(nn.functional.silu(self.down(x.to(self.down.weight.dtype))))


def modality_routing(embedding: Tensor, layers: Iterable[nn.Module], attentions: Iterable[LavinAttention]) -> Tensor:
    """The experts' weights of every layer for the two modalities.

    The published model puts a modality token before the sequence, hides it from all others, and routes on its states.
    It sees nothing but itself, so its states, and with them all routing, follow from the modality alone: two single
    tokens through the decoder say everything, whatever the batch. Nothing of the sequence needs to carry it.

    Args:
        embedding: [2, D]: of rows without an image, and with one.
        layers: the decoder layers, of which norms and FFN are read; their hooks are not called.
        attentions: theirs, as the model made them, whatever stands in their place now.

    Returns:
        float32 [2, L, 2]: modality, layer, expert.
    """
    hidden, weights = embedding, []
    for layer, attention in zip(layers, attentions, strict=True):
        part: Any = layer
        z = part.input_layernorm(hidden)
        weights.append(attention.adapter.route(z))
        hidden = hidden + attention.alone(z, weights[-1])
        hidden = hidden + part.mlp(part.post_attention_layernorm(hidden))
    return torch.stack(weights, 1)
