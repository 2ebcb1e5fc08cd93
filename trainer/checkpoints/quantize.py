"""Frozen weights in fewer bits, by torchao and bitsandbytes: those of a network's blocks alone.

What is not in a numbered block stays as it is: the token embeddings, whose space rows live in, and
what a network begins and ends with. Weights are brought back to the network's own precision for
each product, so gradients pass through them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from apl_core.errors import ConfigError

Quantize = Literal["int8", "fp8", "nf4"]
KINDS: tuple[Quantize, ...] = get_args(Quantize)

_BYTES = {"int8": 1.0, "fp8": 1.0, "nf4": 0.516}
"""Of one weight: 64 of nf4 share a scale of 8 bits."""

_LIBRARY = {"int8": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}


def check_quantize(kind: Quantize | None) -> None:
    """ConfigError if the library that quantizes so is missing: told before weights are read."""
    if kind is None:
        return
    try:
        importlib.import_module(_LIBRARY[kind])
    except ImportError as error:
        raise ConfigError(
            f"quantize to {kind}",
            f"{_LIBRARY[kind]} is not installed",
            "install it with `pip install 'apl-prefix[quantize]'`",
        ) from error


def quantize(module: nn.Module, kind: Quantize, device: str) -> nn.Module:
    """The same module with the weights of its blocks in `kind`, on `device`.

    Block after block goes there, so that no more than the quantized module has to fit.
    """
    check_quantize(kind)
    if kind == "nf4":
        for name, linear in list(_linears(module, kind)):
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, _nf4(linear).to(device))
    else:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

        chosen = {name for name, _ in _linears(module, kind)}
        config = Int8WeightOnlyConfig() if kind == "int8" else Float8WeightOnlyConfig()
        quantize_(module, config, lambda _, name: name in chosen, device=device)
    return module.requires_grad_(False).to(device)


def bytes_of(module: nn.Module, dtype: torch.dtype, kind: Quantize | None = None) -> int:
    """Bytes of a module's weights in `dtype`, those of its blocks in `kind`."""
    everything = sum(p.numel() for p in module.parameters()) * dtype.itemsize
    if kind is None:
        return everything
    fewer = sum(one.weight.numel() for _, one in _linears(module, kind))
    return everything - int(fewer * (dtype.itemsize - _BYTES[kind]))


def whole_block(module: nn.Module, dtype: torch.dtype, kind: Quantize | None) -> int:
    """Bytes of the biggest block's weights in full precision: torchao's products keep them until
    the way back has passed a block."""
    if kind is None or kind == "nf4":
        return 0
    blocks: dict[str, int] = {}
    for name, linear in _linears(module, kind):
        block = _block(name)
        blocks[block] = blocks.get(block, 0) + linear.weight.numel() * dtype.itemsize
    return max(blocks.values(), default=0)


def _linears(module: nn.Module, kind: Quantize) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers in a module's numbered blocks that can be quantized.

    T5 asks its `wo` for the dtype to compute in, and nf4 would say bytes.
    """
    for name, part in module.named_modules():
        sides_fit = type(part) is nn.Linear and part.weight.numel() % 64 == 0
        if sides_fit and _block(name) and not (kind == "nf4" and name.endswith(".wo")):
            yield name, cast(nn.Linear, part)


def _block(name: str) -> str:
    """The numbered block that a part is in: "layers.3" of "layers.3.mlp.up"; else nothing."""
    parts = name.split(".")
    place = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "" if place is None else ".".join(parts[: place + 1])


def _nf4(linear: nn.Linear) -> nn.Module:
    bnb: Any = importlib.import_module("bitsandbytes")
    weight = linear.weight
    with torch.device("meta"):
        made = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            compute_dtype=weight.dtype,
            quant_type="nf4",
        )
    made.weight = bnb.nn.Params4bit(weight.data, requires_grad=False, quant_type="nf4", module=made)
    made.bias = linear.bias
    return made
