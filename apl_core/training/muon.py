"""Muon, softened: momentum whose singular values come closer together, for the rows of a prefix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose directions are levelled, after Muon (Jordan et al. 2024).

    The rows of a prefix see nearly the same gradient, so that a step of Adam moves them much alike.
    Muon (kellerjordan.github.io/posts/muon) makes all singular values of a step one. That is as far
    in directions of which a small batch tells nothing but noise; here they become their square
    roots. A step of rate r moves the numbers of the rows (N, width) by r, root mean square, as it
    does at most with Adam.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, momentum: float = 0.9
    ) -> None:
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
        rows.sub_(levelled(ahead), alpha=rate * max(rows.shape) ** 0.5)


def levelled(matrix: Tensor) -> Tensor:
    """The matrix (N, M) with the square roots of its singular values, one in the square mean."""
    exact = matrix.detach().cpu().double()  # not every device has float64
    linalg: Any = torch.linalg
    left, values, right = cast(
        tuple[Tensor, Tensor, Tensor], linalg.svd(exact, full_matrices=False)
    )
    values = values * (values > values[0] * max(matrix.shape) * torch.finfo(matrix.dtype).eps)
    mean = values.sum() / (values > 0).sum().clamp(min=1)
    lengths = (values / mean.clamp(min=torch.finfo(exact.dtype).tiny)).sqrt()
    return ((left * lengths) @ right).to(matrix)
