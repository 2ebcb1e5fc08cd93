"""Networks that must not learn: gradients off, evaluation mode, everything put back afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence

from torch import nn


@contextlib.contextmanager
def frozen(
    modules: Sequence[nn.Module], weight_gradients: bool = False
) -> Generator[None, None, None]:
    """Hold networks in evaluation mode without weight gradients, and restore them.

    `weight_gradients` lets them collect gradients that nobody uses, as the authors' code does.
    """
    parameters = [(p, p.requires_grad, p.grad) for m in modules for p in m.parameters()]
    training = [(part, part.training) for m in modules for part in m.modules()]
    try:
        for module in modules:
            module.eval()
        for parameter, _, _ in parameters:
            parameter.grad = None
            parameter.requires_grad_(weight_gradients and parameter.is_floating_point())
        yield
    finally:
        for parameter, before, grad in parameters:
            parameter.requires_grad_(before)
            parameter.grad = grad
        for part, before in training:
            part.training = before
