"""Adapters of skipped attentions merged into the FFNs of a model, and taken out again to the bit.

Exact algebra (`modules.adapters.Adapter.fold`): the linears that an FFN begins with take the adapter's map; what the
adapter knows of the prompt stays as a bias a row, in the policy that `merge` returns. The skipped attention's last
linear becomes zeros, so that the merged model, saved as an ordinary folder, is without any policy the same model but
for those biases, only slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...anatomy.base import Anatomy
from ...anatomy.blocks import AttentionBlock, attention_block, norm_gain
from ...anatomy.find import anatomy_of
from ...core.attention_replacement import AttentionReplacement
from ...core.decision import Policy
from ...core.errors import AttachError, SettingsError, UnsupportedModel
from ..attached import check_detached
from .skipping import Skipping

__all__ = ["merge", "unmerge"]

_merged: WeakKeyDictionary[nn.Module, tuple[Policy, list[Callable[[], None]]]] = WeakKeyDictionary()
"""Merged decoders -> (the policy as it was, what gives their weights back)."""


@torch.no_grad()
def merge(model: Any, policy: Policy) -> Any:
    """Merge a policy's adapters into the model's FFNs, in place. All weights are made before the first is put in.

    Returns:
        The policy to attach to the merged model. Save both, each with its own `save_pretrained`.

    Raises:
        AttachError: a policy is attached, or the model is merged already.
        ModelMismatch: the adapters were made for another model.
        SettingsError: the policy has no adapters, or they cannot be merged (a router).
        UnsupportedModel: an FFN or norm of the model is of no form that can hold them, or the model reads its layers'
            weights elsewhere too.
    """
    anatomy = anatomy_of(model)
    anatomy.require_inside("Merging adapters")
    check_detached(anatomy)
    decoder = anatomy.language_model
    if decoder in _merged:
        raise AttachError("Adapters are merged into this model already. Call la.unmerge(model) first.")
    anatomy.check_policy(policy)
    if anatomy.reads_layers:
        raise UnsupportedModel(
            f"A {anatomy.family} model computes {anatomy.reads_layers} from its decoder layers, so merging adapters "
            "into them would change it in every layer. Attach the adapters unmerged: la.attach(model, policy)."
        )
    layers = policy.skips(anatomy.num_layers)
    replacements = {layer: found for layer in layers if (found := policy.replacement(layer)) is not None}
    if not replacements:
        raise SettingsError(f"{policy!r} has no adapters: there is nothing to merge.")
    Skipping(anatomy, policy)  # refuses what does not fit this model

    # 1. All that is new, with the model untouched.
    left: dict[int, AttentionReplacement] = {}
    new: list[tuple[nn.Parameter, Tensor]] = []
    for layer, replacement in replacements.items():
        block = attention_block(anatomy.layers[layer], layer)
        left[layer] = _fold(block, replacement, new)
    merged = policy.with_replacements(left)

    # 2. Put it in.
    undo = []
    for parameter, value in new:
        undo.append(_put(parameter, value))
    _merged[decoder] = (policy, undo)
    if policy.base is not None and policy.base.weights:
        merged = merged.with_base(anatomy.identity)  # the merged weights are another model's
    return merged


def unmerge(model: Any) -> Any:
    """Give a merged model its own weights back, to the bit.

    Returns:
        The policy as it was before it was merged.

    Raises:
        AttachError: a policy is attached, or this model was not merged in this process.
    """
    anatomy: Anatomy = anatomy_of(model)
    check_detached(anatomy)
    found = _merged.pop(anatomy.language_model, None)
    if found is None:
        raise AttachError(
            "This model was not merged in this process, so its own weights are not here. Load the folder that it was "
            "made from."
        )
    policy, undo = found
    for put_back in undo:
        put_back()
    return policy


def _fold(
    block: AttentionBlock, replacement: AttentionReplacement, new: list[tuple[nn.Parameter, Tensor]]
) -> AttentionReplacement:
    """What is left of a replacement; the block's new weights are added to `new`."""
    where = f"The FFN of layer {block.layer}"
    if not block.ffn_in:
        raise UnsupportedModel(f"{where} begins with no linear that lookaway knows. Attach the adapters unmerged.")
    for linear in block.ffn_in:
        weight = getattr(linear, "weight", None)
        if type(linear) is not nn.Linear or not linear.weight.is_floating_point() or linear.weight.is_meta:
            raise UnsupportedModel(
                f"{where} begins with {type(linear).__name__} ({getattr(weight, 'dtype', 'no weight')}), which cannot "
                "hold an adapter. Merge LoRA first, and quantise afterwards; or attach the adapters unmerged."
            )
    gain = None
    if replacement.reads == "attention":
        gain = norm_gain(block.ffn_norm)
        norm_gain(block.input_norm)
        if type(block.input_norm) is not type(block.ffn_norm) or _epsilon(block.input_norm) != _epsilon(block.ffn_norm):
            raise UnsupportedModel(
                f"The two norms of layer {block.layer} differ, so the FFN's cannot take the place of the attention's. "
                "Attach the adapters unmerged."
            )
    linears: list[Any] = list(block.ffn_in)
    weights, left = replacement.fold([linear.weight for linear in linears], gain)
    for linear, weight in zip(linears, weights, strict=True):
        if not bool(weight.isfinite().all()):
            raise UnsupportedModel(f"{where}: the merged weights overflow {weight.dtype}. Load the model in fp32.")
        new.append((linear.weight, weight))
    if replacement.reads == "attention":
        mine, theirs = block.ffn_norm.weight, block.input_norm.weight
        assert isinstance(mine, nn.Parameter)
        assert isinstance(theirs, Tensor)
        new.append((mine, theirs.detach().clone()))
    for name in ("weight", "bias"):
        parameter = getattr(block.out, name, None)
        if isinstance(parameter, nn.Parameter):
            new.append((parameter, torch.zeros_like(parameter)))
    return left


def _put(parameter: nn.Parameter, value: Tensor) -> Callable[[], None]:
    own = parameter.data
    parameter.data = value.to(own.device)

    def put_back() -> None:
        parameter.data = own

    return put_back


def _epsilon(norm: nn.Module) -> Any:
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
