"""Several processes that learn one prefix together: sums of gradients, shares of examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class Group:
    """The processes of a run; a single one unless torch.distributed has been initialized."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.size = dist.get_world_size() if together else 1

    def share(self, count: int) -> list[int]:
        """This process's part of `count` examples."""
        return list(range(self.rank, count, self.size))

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)  # pyright: ignore[reportUnknownMemberType]

    def gather(self, part: Tensor, count: int) -> Tensor:
        """The whole (count, ...) tensor of which every process holds its share of rows."""
        if self.size == 1:
            return part
        whole = part.new_zeros((count, *part.shape[1:]))
        whole[self.share(count)] = part
        dist.all_reduce(whole)  # pyright: ignore[reportUnknownMemberType]
        return whole

    def agree(self, value: float) -> float:
        """The first process's value, everywhere."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(box, 0)
        return float(box)
