"""A twig grown on a live model: copies of its decoder layers, run behind layer K, with a KV cache of their own.

The copies are called with what layer K itself is called with (mask, positions, rotary embeddings), so nothing of a
family has to be known here; where a layer cannot be copied so, the model is refused.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from ...anatomy.base import Anatomy
from ...core.attention_inputs import AttentionInputs
from ...core.cost import DecoderShape
from ...core.decision import Policy
from ...core.errors import DataError, SettingsError, UnsupportedModel
from ...core.twig import TwigSpec
from ..attached import check_detached
from ..observe.attention_spy import spy
from ..prefill.decoder_call import LayerCall

__all__ = ["LiveTwig", "entering", "grow", "twig_of"]


class LiveTwig(nn.Module):
    """The layers and the norm of a twig. Its parameters are its own; the model's are no part of it.

    Args:
        layers: T decoder layers; their attentions store at places 0 to T - 1 of a KV cache.
        norm: what stands between the last of them and the model's head.
        start: K.
    """

    def __init__(self, layers: list[nn.Module], norm: nn.Module, start: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.start = start
        self._here = _Here()
        attention = getattr(layers[-1], "self_attn", None)
        if not isinstance(attention, nn.Module):
            raise UnsupportedModel(
                f"{type(layers[-1]).__name__} has no self_attn, so no twig can be grown from this model's layers."
            )
        spy(attention, self._see)

    def forward(self, call: LayerCall, cache: Any = None) -> Tensor:
        """Run the twig's layers on the rows of `call`, a call of layer K: [B, S, D] before the norm.

        Args:
            call: with the rows entering layer K; its own cache is not touched.
            cache: the twig's own KV cache; None: nothing is kept.
        """
        args, kwargs = call.arguments()
        kwargs = {**kwargs, "past_key_values": cache, "use_cache": cache is not None}
        hidden = call.hidden
        for layer in self.layers:
            rest = args[1:]
            hidden = layer(hidden, *rest, **kwargs) if args else layer(**{**kwargs, "hidden_states": hidden})
            if not isinstance(hidden, Tensor):
                raise UnsupportedModel(f"A decoder layer of this model returns {type(hidden).__name__}, not its rows.")
        return hidden

    def fill(self, call: LayerCall, cache: Any) -> None:
        """Store keys and values of these rows in the twig's own KV cache; the last layer ends in its attention."""
        self._here.seen = None
        self._here.ends = True
        try:
            with suppress(_Enough):
                self(call, cache)
        finally:
            self._here.ends = False

    def ranking_inputs(self, call: LayerCall, real: Tensor, cache: Any = None) -> AttentionInputs:
        """Queries and keys of the twig's last layer; it runs up to there.

        Args:
            call: of layer K, with the rows that are left before anything leaves there.
            real: bool [B, S], slots that do not only pad.
            cache: the twig's own KV cache, where keys and values are to be kept.

        Raises:
            UnsupportedModel: the last layer's attention did not run over these slots.
        """
        self.fill(call, cache)
        if self._here.seen is None:
            raise UnsupportedModel("The attention of the twig's last layer did not run where it could be read.")
        (queries, keys, mask, scaling), self._here.seen = self._here.seen, None
        slots = real.shape[1]
        whole = mask[..., :slots] if isinstance(mask, Tensor) and mask.dim() == 4 else None
        return AttentionInputs(queries, keys, real.to(queries.device), scaling, _no_plain, whole)

    def ranking_flops(self, shape: DecoderShape, tokens: int) -> int:
        """Counted FLOPs of `ranking_inputs` for `tokens` positions of one row: T - 1 layers, queries, keys, values."""
        depth = len(self.layers)
        whole = sum(shape.layer_flops(tokens, layer=self.start + i) for i in range(depth - 1))
        last = shape.layer(self.start + depth - 1)
        return whole + 2 * tokens * (last.queries // 2 + last.keys)

    def _see(self, module: nn.Module, queries: Tensor, keys: Tensor, mask: Any, scaling: float) -> None:
        if self._here.ends:
            self._here.seen = (queries.detach(), keys.detach(), mask, scaling)
            raise _Enough


class _Here(threading.local):
    """Of one thread: what the last layer's attention showed, and whether the twig ends there."""

    seen: Any = None
    ends: bool = False


class _Enough(Exception):
    """What was wanted is there; what lies behind is not."""


def grow(anatomy: Anatomy, spec: TwigSpec) -> LiveTwig:
    """The twig that `spec` describes, on this model's device and in its dtype, in eval mode.

    Raises:
        SettingsError: K or T do not fit the decoder's depth.
        UnsupportedModel: layers of this decoder cannot be copied: they are not alike, keep a running state, or are
            allowed removal before the decoder only.
        DataError: weights are missing, have another shape or are not finite.
    """
    start, depth, total = spec.start, spec.depth, anatomy.num_layers
    anatomy.require_inside("A twig")
    first = max(anatomy.first_prunable_layer, 1)
    if not first <= start or start + depth > total:
        raise SettingsError(
            f"A twig of {depth} layers behind layer {start} does not fit this model: its decoder has {total} layers, "
            f"so K + T is at most {total}, and K at least {first} (--start, --depth)."
        )
    kinds = _kinds(anatomy)[start : start + depth]
    if len(set(kinds)) > 1:
        raise UnsupportedModel(
            f"Decoder layers {start} to {start + depth - 1} of this model are of different kinds ({', '.join(kinds)}), "
            "and a twig is called with the mask and positions of one layer. Choose another --start or fewer layers "
            "(--depth) so that they are of one kind."
        )
    layers = [_copied(anatomy.layers[start + i], i) for i in range(depth)]
    twig = LiveTwig(layers, copy.deepcopy(anatomy.norm), start)
    if spec.tensors:
        _load(twig, spec.tensors)
    return twig.eval().requires_grad_(False)


def twig_of(anatomy: Anatomy, policy: Policy, layers: frozenset[int]) -> LiveTwig | None:
    """The twig of `policy`, which is asked before `layers`; None where it has none, or does not rank there."""
    spec = policy.twig()
    return None if spec is None or spec.start not in layers else grow(anatomy, spec)


def _kinds(anatomy: Anatomy) -> list[str]:
    """What tells the masks of the decoder's layers apart, one entry a layer."""
    text: Any = anatomy.language_model.config
    named = getattr(text, "layer_types", None)
    rotated = ["unrotated" if i in anatomy.unrotated else "" for i in range(anatomy.num_layers)]
    kinds = list(named) if named else ["full_attention"] * anatomy.num_layers
    return [" ".join(filter(None, pair)) for pair in zip(kinds, rotated, strict=True)]


def _copied(layer: nn.Module, place: int) -> nn.Module:
    """A copy of a decoder layer whose attention stores at `place` of its KV cache."""
    copied = copy.deepcopy(layer)
    for part, own in zip(copied.modules(), layer.modules(), strict=True):
        if hasattr(own, "config"):
            part.config = own.config  # so that the attention implementation stays the model's
        if isinstance(getattr(part, "layer_idx", None), int):
            part.layer_idx = place  # type: ignore[assignment]
    return copied


def _load(twig: LiveTwig, tensors: Mapping[str, Tensor]) -> None:
    wanted = twig.state_dict()
    for name, value in wanted.items():
        if name not in tensors or tensors[name].shape != value.shape:
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            raise DataError(f"Twig: weight {name!r} is {found}, expected {tuple(value.shape)}. Train it again.")
    if more := sorted(set(tensors) - set(wanted)):
        raise DataError(f"Twig: the model's layers have no weight {more[0]!r}. Train it again for this model.")
    twig.load_state_dict(dict(tensors))


def _no_plain() -> tuple[Tensor, Tensor]:
    raise UnsupportedModel("The twig ranks with its rotary phase only.")


@contextmanager
def _caught(anatomy: Anatomy, layer: int) -> Iterator[list[LayerCall]]:
    found: list[LayerCall] = []

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(LayerCall(layer, args, kwargs, anatomy.attention, {}, anatomy.row_arguments))
        raise _Enough

    hook = anatomy.layers[layer].register_forward_pre_hook(catch, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


@torch.no_grad()
def entering(anatomy: Anatomy, layer: int, inputs: Mapping[str, Any]) -> LayerCall:
    """What decoder layer `layer` is called with in a prefill of `inputs`; the layers from it on do not run.

    Args:
        anatomy: of a model without a policy attached.
        inputs: keyword arguments of the model's forward; no cache is filled.
    """
    check_detached(anatomy)
    with _caught(anatomy, layer) as found:
        try:
            anatomy.model(**{**inputs, "use_cache": False})
        except _Enough:
            return found[0]
    raise UnsupportedModel(f"Decoder layer {layer} did not run.")
