"""Steps in which no token leaves, decoding above all: vLLM's own decoder runs, with other attention metadata.

Layers between which no policy drops anything form a stretch: they hold the same tokens of every request. vLLM builds
metadata for each stretch on its own (`AttentionGroup`), from lengths and slots that leave out what its layers do not
hold. These numbers are written into buffers that stay where they are, in each step and when a CUDA graph is captured: a
replayed graph reads them there, and needs nothing else of the plugin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .plan import Plan
from .step import StepRequest

__all__ = ["SteadySteps", "Stretch", "boundaries"]


def boundaries(plans: Iterable[Plan | None], num_layers: int) -> list[int]:
    """The layers at which stretches begin: 0, and all before which some policy may drop a token."""
    found = {0}
    for plan in plans:
        if plan is not None:
            found |= plan.asks if plan.exit_at is None else {plan.exit_at}
            found |= set(boundaries([plan.then], num_layers))
    return sorted(found & set(range(num_layers)))


@dataclass(eq=False)
class Stretch:
    """Layers of one KV cache group that hold the same tokens of every request, and the numbers of the step for them."""

    group: int
    """Of the KV cache."""
    first: int
    """Their first layer."""
    lengths: Any
    """int32 [most requests]: tokens that the layers hold, this step's among them; 0 behind the last request."""
    slots: Any
    """int64 [most rows]: where each row's key and value go; -1 behind the last row."""
    longest: int | None = None
    """The largest of `lengths`; None: a CUDA graph is captured, and what comes is not known."""
    used: int = field(default=0, init=False)

    def write(self, lengths: NDArray[Any], slots: NDArray[Any], longest: int | None) -> None:
        """Put a step's numbers into the buffers."""
        self.longest = longest
        self.lengths.np[: len(lengths)], self.lengths.np[len(lengths) :] = lengths, 0
        end = max(len(slots), self.used)
        self.slots.np[: len(slots)], self.slots.np[len(slots) : end] = slots, -1
        self.used = len(slots)
        self.lengths.copy_to_gpu()
        self.slots.copy_to_gpu(end)

    def narrowed(self, common: Any) -> Any:
        """A step's `CommonAttentionMetadata` for these layers. They may be padded for a CUDA graph."""
        return replace(
            common,
            seq_lens=self.lengths.gpu[: common.num_reqs],
            seq_lens_cpu_upper_bound=self.lengths.cpu[: common.num_reqs],
            max_seq_len=common.max_seq_len if self.longest is None else self.longest,
            slot_mapping=self.slots.gpu[: len(common.slot_mapping)],
            _num_computed_tokens_cache=None,
        )


class SteadySteps:
    """The stretches of one of vLLM's runners, and whether they apply to the step at hand.

    Args:
        names: of the decoder's attention layers.
        plans: of the server's policies.
    """

    def __init__(self, names: Sequence[str], plans: Iterable[Plan]) -> None:
        self.layers = {name: layer for layer, name in enumerate(names)}
        self.begins = np.array(boundaries(plans, len(names)))
        self.stretches: dict[str, Stretch] = {}
        """Attention layer's name -> its stretch."""
        self.apply = False

    def split(self, runner: Any) -> None:
        """Give each stretch an attention group of its own, before vLLM makes their metadata builders."""
        from vllm.v1.utils import CpuGpuBuffer

        self.stretches = {}
        for index, groups in enumerate(runner.attn_groups):
            split = []
            for group in groups:
                for names in self._together(group.layer_names):
                    lengths = CpuGpuBuffer(runner.max_num_reqs, dtype=torch.int32, device=runner.device)
                    slots = CpuGpuBuffer(runner.max_num_tokens, dtype=torch.int64, device=runner.device)
                    slots.np[:] = -1
                    slots.copy_to_gpu()
                    stretch = Stretch(index, self.layers[names[0]], lengths, slots)
                    self.stretches |= dict.fromkeys(names, stretch)
                    shared = {item.name: getattr(group, item.name) for item in fields(group) if item.init}
                    mine = {"layer_names": names, "metadata_builders": [], "stretch": stretch, "steady": self}
                    split.append(_group_class()(**{**shared, **mine}))
            runner.attn_groups[index] = split

    def _together(self, names: Sequence[str]) -> list[list[str]]:
        """Layers of one attention group, stretch by stretch."""
        found: dict[int, list[str]] = {}
        for name in names:
            found.setdefault(int(np.searchsorted(self.begins, self.layers[name], "right")), []).append(name)
        return list(found.values())

    def prepare(self, runner: Any, requests: Sequence[StepRequest], slots: Mapping[str, Any] | None) -> None:
        """Write what each layer holds of a step in which nothing leaves, before vLLM builds its metadata.

        Args:
            slots: attention layer's name -> slot of each row, as the layers will find them; those of the stretches are
                put in.
        """
        rows = np.array([request.rows for request in requests])
        done = np.array([request.done for request in requests])
        owner = np.arange(len(requests)).repeat(rows)
        place = np.arange(rows.sum()) + (done - (rows.cumsum() - rows)).repeat(rows)  # in the request
        for stretch in dict.fromkeys(self.stretches.values()):
            gone = np.array([request.held.gone[stretch.first] for request in requests])
            table = runner.input_batch.block_table[stretch.group]
            block, offset = np.divmod(place - gone[owner], table.block_size)
            lengths = done + rows - gone
            stretch.write(
                lengths, table.get_numpy_array()[owner, block].astype(np.int64) * table.block_size + offset,
                int(lengths.max()),
            )  # fmt: skip
        self._put(slots)

    def prepare_capture(self, runner: Any, num_reqs: int, slots: Mapping[str, Any] | None) -> None:
        """The same for a step without requests, of which a CUDA graph may be captured."""
        lengths = runner.optimistic_seq_lens_cpu.numpy()[:num_reqs]
        for stretch in dict.fromkeys(self.stretches.values()):
            stretch.write(lengths, np.zeros(0, dtype=np.int64), None)
        self._put(slots)

    def _put(self, slots: Any) -> None:
        self.apply = True
        for name, stretch in self.stretches.items():
            if slots is not None:
                slots[name] = stretch.slots.gpu[: len(slots[name])]


@cache
def _group_class() -> Any:
    """Made on first use, since its base is vLLM's."""
    from vllm.v1.worker.utils import AttentionGroup

    @dataclass
    class StretchGroup(AttentionGroup):
        """An attention group whose layers are those of one stretch."""

        stretch: Any = None
        steady: Any = None

        def create_metadata_builders(self, *args: Any, **kwargs: Any) -> None:
            super().create_metadata_builders(*args, **kwargs)
            for builder in self.metadata_builders:
                # vLLM would take another stretch's metadata and put this one's block table in: its lengths are others.
                builder.supports_update_block_table = False

        def build_metadata(self, common: Any, *args: Any, **kwargs: Any) -> Any:
            return super().build_metadata(self._narrowed(common), *args, **kwargs)

        def build_metadata_for_cudagraph_capture(self, common: Any, *args: Any, **kwargs: Any) -> Any:
            return super().build_metadata_for_cudagraph_capture(self._narrowed(common), *args, **kwargs)

        def _narrowed(self, common: Any) -> Any:
            return self.stretch.narrowed(common) if self.steady.apply else common

    return StretchGroup
