"""The processes of a distributed run (torchrun): one draws for all, what they find is averaged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

__all__ = ["Ranks"]

T = TypeVar("T")


class Ranks:
    """This process among those of its group; without `torch.distributed` there is one."""

    def __init__(self) -> None:
        self.grouped = distributed.is_available() and distributed.is_initialized()
        self.rank: int = distributed.get_rank() if self.grouped else 0
        self.size: int = distributed.get_world_size() if self.grouped else 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def shared(self, value: T) -> T:
        """Rank 0's plain value, for all."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def averaged(self, values: Sequence[float]) -> list[float]:
        """The mean over the ranks of each value; the same bits on every rank."""
        if self.size == 1:
            return list(values)
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, list(values))
        return [sum(column) / self.size for column in zip(*found, strict=True)]

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Gradients become their mean over the ranks; a parameter without one on any rank keeps none."""
        if self.size == 1:
            return
        for parameter in parameters:
            has = torch.tensor(float(parameter.grad is not None), device=parameter.device)
            distributed.all_reduce(has)
            if float(has) == 0:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)
            parameter.grad /= self.size
