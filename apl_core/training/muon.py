"""Muon: momentum whose singular values are all made one, for the few rows of a prefix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    The rows of a prefix see nearly the same gradient, so that a step of Adam moves them much alike.
    Here none of the directions in which the rows (N, width) move is louder than another. A step of
    rate r moves the numbers of the rows by r, root mean square, as it does at most with Adam.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move all rows that have a gradient."""
        for group in self.param_groups:
            for rows in group["params"]:
                if rows.grad is not None:
                    self._move(rows, rows.grad, group["lr"], group["momentum"])

    def _move(self, rows: Tensor, gradient: Tensor, rate: float, momentum: float) -> None:
        state = cast(dict[str, Tensor], self.state[rows])
        if not state:
            state["momentum"] = torch.zeros_like(rows)
        ahead = state["momentum"].mul_(momentum).add_(gradient) * momentum + gradient
        rows.sub_(orthogonal(ahead), alpha=rate * max(rows.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix (N, M) whose singular values are one; those that are zero stay zero."""
    exact = matrix.detach().cpu().double()  # not every device has float64
    linalg: Any = torch.linalg
    left, values, right = cast(
        tuple[Tensor, Tensor, Tensor], linalg.svd(exact, full_matrices=False)
    )
    least = float(values[0]) * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    return ((left * (values > least)) @ right).to(matrix)
