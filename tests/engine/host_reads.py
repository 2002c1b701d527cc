"""Counts where the host waits for a device: CPU tensors pose as a GPU's (`fake_devices`), and each read is named.

A read is whatever makes CUDA finish its queue: a number or a list taken off the device, a copy to the CPU, and
operations whose result has a size that only the data tell.
"""

import traceback
from contextlib import contextmanager

import fake_devices
import torch
from fake_devices import Placed

BY_DATA = ("aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::equal")
INDEXING = ("aten::index.Tensor", "aten::index_put", "aten::_unsafe_index")


def is_read(name, args, kwargs):
    """Whether an operation waits for the device; `name` is its schema's."""
    if name.startswith("aten::_local_scalar_dense") or name.startswith(BY_DATA):
        return isinstance(args[0], Placed)
    if name.startswith("aten::_to_copy"):
        to = kwargs.get("device")
        return isinstance(args[0], Placed) and to is not None and torch.device(to).type == "cpu"
    if name.startswith("aten::copy_"):
        return isinstance(args[1], Placed) and not isinstance(args[0], Placed)
    if name.startswith("aten::repeat_interleave.Tensor"):
        return isinstance(args[0], Placed) and kwargs.get("output_size") is None
    if name.startswith(INDEXING):  # by a mask
        return any(isinstance(one, Placed) and one.dtype == torch.bool for one in args[1] if one is not None)
    return False


def caller():
    """`package/file.py:line` of the innermost frame of lookaway or transformers; '' for anything else."""
    for frame in reversed(traceback.extract_stack()):
        for package in ("lookaway", "transformers"):
            mark = f"/{package}/"
            if mark in frame.filename and "/tests/" not in frame.filename:
                return f"{package}/{frame.filename.rsplit(mark, 1)[1]}:{frame.lineno}"
    return ""


@contextmanager
def counted_reads():
    """Yields a list that gets one entry a read: where it came from (`caller`). Open `two_devices` around it."""
    reads = []

    def watch(name, args, kwargs):
        if is_read(name, args, kwargs):
            reads.append(caller())

    def listed(self):
        reads.append(caller())
        return self.inner.tolist()

    usual, Placed.tolist = Placed.tolist, listed
    fake_devices.WATCHERS.append(watch)
    try:
        yield reads
    finally:
        fake_devices.WATCHERS.remove(watch)
        Placed.tolist = usual
