"""Random weights for the thin networks of every host, drawn inside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def draw(network: Any, table: Any, drawn: torch.Generator) -> Any:
    """Random weights that keep states of about the size that they came in with.

    The table of token embeddings is one line of numbers, read anew from each next one: it takes no
    memory of the real vocabulary's size.
    """
    for module in network.modules():
        for name, value in list(module._parameters.items()):
            if value is None or module is table:
                continue
            if value.dim() == 2:
                made = torch.randn(value.shape, generator=drawn) / value.shape[1] ** 0.5
            else:
                centre = float(name == "weight" and not getattr(module, "add", False))
                made = centre + 0.1 * torch.randn(value.shape, generator=drawn)
            module._parameters[name] = nn.Parameter(made, requires_grad=False)
        for name, value in list(module._buffers.items()):
            if value is not None and value.is_meta:
                module._buffers[name] = torch.arange(value.shape[-1]).expand(value.shape)
    rows, width = table.weight.shape
    line = torch.randn(rows + width, generator=drawn) * 0.5
    table.weight = nn.Parameter(line.as_strided((rows, width), (1, 1)), requires_grad=False)
    return network.eval()
