"""Two devices on a machine that has one: tensors that say where they are, and refuse to meet across devices."""

from contextlib import contextmanager
from functools import partial

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

FIRST, SECOND = torch.device("meta", 0), torch.device("meta", 1)
"""Of the one kind that needs no driver; nothing is made there, values stay on the CPU."""
MOVES = ("aten::_to_copy", "aten::copy_")
WATCHERS = []
"""Are told of each operation: (name of its schema, args, kwargs)."""
INDEXED = ("aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_unsafe_index")


class Placed(torch.Tensor):
    """A CPU tensor that is said to be on another device."""

    @staticmethod
    def __new__(cls, inner, device):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=device, requires_grad=False,
        )  # fmt: skip

    def __init__(self, inner, device):
        self.inner = inner

    def __repr__(self):
        return f"Placed({self.inner}, {self.device})"

    def tolist(self):
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return carried_out(function, args, kwargs or {})


def carried_out(function, args, kwargs):
    """Run on the CPU what all happens on one device."""
    name = function._schema.name + (f".{function._overloadname}" if function._overloadname != "default" else "")
    for watch in WATCHERS:
        watch(name, args, kwargs)
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    places = {value.device for value in tensors if value.dim() or isinstance(value, Placed)}
    if name.startswith(INDEXED):  # torch lets indices lie on the CPU
        places = {value.device for value in tensors if value.device.type != "cpu"} or places
    device = kwargs.get("device") or (tensors[0].device if tensors else torch.device("cpu"))
    if len(places) > 1 and not name.startswith(MOVES):
        raise AssertionError(f"{name} on tensors of {sorted(map(str, places))}")
    if places and not name.startswith(MOVES) and kwargs.get("device") is None:
        device = next(iter(places))
    if "device" in kwargs:
        kwargs = {**kwargs, "device": None if kwargs["device"] is None else torch.device("cpu")}
    unwrapped = tree_map(lambda value: value.inner if isinstance(value, Placed) else value, (args, kwargs))
    out = function(*unwrapped[0], **unwrapped[1])
    if function._schema.is_mutable and tensors and out is tree_flatten(unwrapped)[0][0]:
        return args[0]
    device = torch.device(device)
    return out if device.type == "cpu" else tree_map(partial(_placed, device), out)


def _placed(device, value):
    return Placed(value, device) if isinstance(value, torch.Tensor) else value


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return carried_out(function, args, kwargs or {})


class _FromLists(TorchFunctionMode):
    """`torch.tensor` makes its values below the dispatcher."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.tensor and kwargs.get("device") in (FIRST, SECOND):
            return Placed(torch.tensor(*args, **{**kwargs, "device": "cpu"}), kwargs["device"])
        return function(*args, **kwargs)


@contextmanager
def two_devices():
    """While it is open, tensors can be made on, and moved to, the fake devices."""
    with _FromLists(), _Operations():
        yield


def shard(model, later):
    """Move a model to FIRST, but the modules `later` to SECOND; each of these moves what it is given."""

    def move(module, device):
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    part._parameters[name] = torch.nn.Parameter(_inner(value).to(device), requires_grad=False)
            for name, value in part._buffers.items():
                if value is not None:
                    part._buffers[name] = _inner(value).to(device)

    def moving(forward):
        def moved(*args, **kwargs):
            args, kwargs = tree_map(lambda v: v.to(SECOND) if isinstance(v, torch.Tensor) else v, (args, kwargs))
            return forward(*args, **kwargs)

        return moved

    move(model, FIRST)
    for module in later:
        move(module, SECOND)
        module.forward = moving(module.forward)  # as accelerate does with a device_map
    return model


def _inner(value):
    return value.inner if isinstance(value, Placed) else value.detach()
