"""Attention metadata for fewer rows than the step has, made by the backend's own builder.

A layer's KV cache is compact: a token's slot is that of its index among the tokens that the layer holds. This is exact
because rotary phases are applied before keys are cached. No backend's metadata fields are known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Group", "groups_of", "metadata_for"]

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Layers that share a block table and a metadata builder."""

    index: int
    """Of the KV cache group."""
    builder: Any
    block_size: int


def groups_of(runner: Any) -> dict[str, Group]:
    """Attention layer's name -> its group.

    Raises:
        RuntimeError: the backend needs smaller blocks than the KV cache has, and so a block table of its own.
    """
    found = {}
    for index, attention_groups in enumerate(runner.attn_groups):
        made: dict[Any, Group] = {}
        for part in attention_groups:
            if part.kernel_block_size is not None:
                raise RuntimeError(
                    f"{part.backend.get_name()} splits KV cache blocks, which lookaway does not support. Set "
                    f"--block-size {part.kernel_block_size}, or another attention backend."
                )
            kind = (part.backend, part.kv_cache_spec)  # layers of which one builder's metadata will do for all
            if kind not in made:
                builder = part.get_metadata_builder(0)
                made[kind] = Group(index, builder, runner.input_batch.block_table[index].block_size)
            found.update(dict.fromkeys(part.layer_names, made[kind]))
    return found


def metadata_for(runner: Any, group: Group, before: Counts, rows: Counts) -> tuple[Any, Tensor]:
    """(metadata, slot mapping) for layers of `group` in which each request has fewer rows, or holds fewer tokens.

    Args:
        before: int64 [R], tokens of earlier steps that the layers hold.
        rows: int64 [R], rows of this step. Requests with none do not appear in the metadata: not every kernel takes
            them.

    Returns:
        The builder's metadata, and the slot of each row, int64 [sum of rows].
    """
    from vllm.v1.attention.backend import CommonAttentionMetadata

    device = runner.device
    here = np.flatnonzero(rows)
    before, rows = before[here], rows[here]
    starts = np.concatenate([[0], rows.cumsum()])
    total = int(starts[-1])
    owner = here.repeat(rows)
    place = np.arange(total) + (before - starts[:-1]).repeat(rows)  # compact index of each row
    table = runner.input_batch.block_table[group.index].get_device_tensor(runner.input_batch.num_reqs)
    on_device = torch.from_numpy(np.stack([owner, place // group.block_size, place % group.block_size])).to(device)
    slots = table[on_device[0], on_device[1]].long() * group.block_size + on_device[2]
    if len(here) < len(table):
        table = table[torch.from_numpy(here).to(device)]
    lengths = torch.from_numpy((before + rows).astype(np.int32))
    starts_cpu = torch.from_numpy(starts.astype(np.int32))
    common = CommonAttentionMetadata(
        query_start_loc=starts_cpu.to(device),
        query_start_loc_cpu=starts_cpu,
        seq_lens=lengths.to(device),
        seq_lens_cpu_upper_bound=lengths,
        num_reqs=len(here),
        num_actual_tokens=total,
        max_query_len=int(rows.max()),
        max_seq_len=int(lengths.max()),
        block_table_tensor=table,
        slot_mapping=slots,
        causal=True,
    )
    return group.builder.build(0, common), slots
