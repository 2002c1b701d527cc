"""Digests of weights by content: which model is this, to the bit, or up to its dtype.

Every byte counts. Each tensor is hashed once (SHA-256, several at a time) and remembered with its module while that
lives; it is hashed again where its storage, its version counter or a sample of its values changed. A 7B model in bf16
(14 GB) costs some 10 to 20 seconds on two CPU cores the first time, and a few milliseconds from then on. On a GPU the
copy to the host comes on top.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .errors import UnsupportedModel

__all__ = ["identity_digest", "identity_of_tensors", "tensors_digest", "weights_digest"]

LENGTH = 32
"""Hexadecimal digits of a digest."""
PROBES = 33
"""Values of a tensor that are looked at to see whether it is still the one that was hashed."""

_known: WeakKeyDictionary[nn.Module, dict[tuple[str, bool], tuple[Any, str]]] = WeakKeyDictionary()
"""Module -> (name of a tensor, exact) -> (its stamp, its digest)."""


def weights_digest(module: nn.Module) -> str:
    """Changes with any byte of any parameter or saved buffer, with its dtype, shape or name.

    Raises:
        UnsupportedModel: weights are not in memory (offloaded to disk), so there is nothing to hash.
    """
    return _digest(module, exact=True)


def identity_digest(*modules: nn.Module) -> str:
    """The same for one checkpoint loaded as float32, as bfloat16 or as it is stored: every value counts as bfloat16.

    float16 copies of a checkpoint that is not float16 differ (tiny values are lost), and so do quantised ones: their
    answers do too. So do weights with an adapter (peft), merged or not: a model is what it computes.

    Returns:
        '' where weights are not in memory (offloaded to disk): nothing is known then.
    """
    try:
        parts = [_digest(module, exact=False) for module in modules]
    except UnsupportedModel:
        return ""
    return _joined(parts)


def identity_of_tensors(*parts: Mapping[str, Tensor]) -> str:
    """`identity_digest` of modules whose `state_dict`s hold these tensors, e.g. read from a checkpoint's files."""
    return _joined([_named((name, _hash(value, False)) for name, value in _plain(part)) for part in parts])


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Changes with any byte, dtype, shape or name of these tensors."""
    return _named((name, _hash(value, True)) for name, value in _plain(tensors))


def _joined(digests: Iterable[str]) -> str:
    return sha256("".join(digests).encode()).hexdigest()[:LENGTH]


def _named(digests: Iterable[tuple[str, str]]) -> str:
    """Of (name, digest) pairs in any order."""
    return sha256(repr(sorted(digests)).encode()).hexdigest()[:LENGTH]


def _digest(module: nn.Module, exact: bool) -> str:
    tensors = dict(_plain(module.state_dict(keep_vars=True)))
    away = next((name for name, value in tensors.items() if value.is_meta), None)
    if away is not None:
        raise UnsupportedModel(
            f"The weight {away!r} is not in memory (offloaded), so lookaway cannot tell what results depend on. Load "
            "the whole model, or give no cache folder."
        )
    known = _known.setdefault(module, {})
    stamps = _stamps(tensors)
    stale = [name for name in tensors if known.get((name, exact), (None, ""))[0] != stamps[name]]
    with torch.no_grad(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for name, digest in zip(stale, pool.map(lambda name: _hash(tensors[name], exact), stale), strict=True):
            known[name, exact] = (stamps[name], digest)
    return _named((name, known[name, exact][1]) for name in tensors)


def _plain(tensors: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Ordinary tensors; of quantised ones (tensor subclasses) the tensors inside."""
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            continue
        if type(value) not in (Tensor, nn.Parameter, nn.Buffer) and hasattr(value, "__tensor_flatten__"):
            inner, _ = value.__tensor_flatten__()
            yield from _plain({f"{name}.{part}": getattr(value, part) for part in inner})
        else:
            yield name, value.detach()


@torch.no_grad()
def _stamps(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What shows that a tensor changed, in one transfer a device: `.data` may be written without a new version."""
    probes: dict[torch.device, list[Tensor]] = {}
    for value in tensors.values():
        flat = value.reshape(-1)
        step = max(1, flat.numel() // (PROBES - 1))
        probes.setdefault(value.device, []).append(flat[::step][:PROBES].to(torch.float32))
    on_host = {device: torch.cat(parts).cpu().numpy() for device, parts in probes.items()}
    starts, stamps = dict.fromkeys(on_host, 0), {}
    for name, value in tensors.items():
        count = min(PROBES, len(value.reshape(-1)[:: max(1, value.numel() // (PROBES - 1))]))
        start = starts[value.device]
        starts[value.device] = start + count
        version = 0 if value.is_inference() else value._version
        seen = on_host[value.device][start : start + count].tobytes()
        stamps[name] = (value.data_ptr(), version, value.dtype, value.shape, value.device, seen)
    return stamps


def _hash(value: Tensor, exact: bool) -> str:
    """Of one tensor: its dtype, shape and bytes."""
    value = value.detach()
    if not exact and value.is_floating_point():
        value = value.to(torch.bfloat16)
    digest = sha256(f"{value.dtype}{tuple(value.shape)}".encode())
    raw: Any = value.reshape(-1).contiguous().view(torch.uint8).cpu().numpy()
    digest.update(raw)
    return digest.hexdigest()
