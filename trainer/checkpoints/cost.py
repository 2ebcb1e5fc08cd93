"""What a step will take, counted on the meta device: no weight is loaded, nothing is computed.

Every tensor that a forward and backward run of the real network makes is counted while it lives,
and every multiplication. What allocators waste and kernels need besides is not in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
import transformers
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from apl_core.ports import Conditioning
from apl_core.prefix import WIDTHS

from ..models.language import Reader
from .pipelines import Family
from .quantize import Quantize, bytes_of, whole_block


@dataclass(frozen=True)
class Cost:
    """Floating point operations of one forward and of one backward run, and peak bytes beside
    weights while both run."""

    forward: float
    backward: float
    peak: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is on, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _storage(tensor) not in self._known | given:
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def unet_cost(
    unet: UNet2DConditionModel,
    batch: int,
    side: int,
    dtype: torch.dtype,
    checkpointing: bool,
    width: int,
    weight_gradients: bool = False,
    tokens: int = 77,
) -> Cost:
    """Cost of predicting noise for `batch` latents of `side` x `side` and going back to the text.

    `unet` is on the meta device; `width` is the text's. With `weight_gradients` the frozen weights
    collect gradients as well, as the authors' code lets them.
    """
    network = cast(nn.Module, unet)
    network.to(dtype=dtype).eval().requires_grad_(weight_gradients)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    else:
        unet.disable_gradient_checkpointing()
    config: Any = unet.config
    with torch.device("meta"):
        x_t = torch.empty(batch, config.in_channels, side, side, dtype=dtype)
        t = torch.zeros(batch, dtype=torch.long)
        cross = torch.empty(batch, tokens, width, dtype=dtype, requires_grad=True)
        added: Mapping[str, Tensor] | None = None
        if config.addition_embed_type == "text_time":
            pooled = config.projection_class_embeddings_input_dim - 6 * 256
            added = {
                "text_embeds": torch.empty(batch, pooled, dtype=dtype),
                "time_ids": torch.empty(batch, 6, dtype=dtype),
            }

    def run() -> Tensor:
        found: Any = unet(x_t, t, cross, added_cond_kwargs=added)
        return found.sample

    cost = _counted(run)
    for parameter in unet.parameters():
        parameter.grad = None
    return cost


@dataclass(frozen=True)
class EmptyPipeline:
    """The networks of a pipeline on the meta device, without weights.

    `reader` has the layers of the language model or T5 that are read; no CLIP is ever quantized.
    """

    family: Family
    network: nn.Module
    clips: Sequence[nn.Module]
    reader: Reader

    def text_bytes(self, dtype: torch.dtype, kind: Quantize | None) -> int:
        """Bytes of the text encoders' weights."""
        clips = sum(bytes_of(one, dtype) for one in self.clips)
        return clips + bytes_of(self.reader.model, dtype, kind)

    def bytes(self, dtype: torch.dtype, kind: Quantize | None) -> int:
        """Bytes of all weights but the VAE's."""
        return bytes_of(self.network, dtype, kind) + self.text_bytes(dtype, kind)

    def whole_block(self, dtype: torch.dtype, kind: Quantize | None) -> int:
        """Bytes of the biggest block that is quantized, as its products take it."""
        return max(whole_block(one, dtype, kind) for one in (self.network, self.reader.model))

    def step(self, batch: int, tokens: int, size: int, dtype: torch.dtype) -> Step:
        """What predicts noise for `batch` pictures of `size` pixels from states (B, tokens, W)."""
        family, network = self.family, self.network.eval().requires_grad_(False)
        nn.Module.to(network, dtype=dtype)  # diffusers' own warns of kinds that nothing is in
        pooled = sum(WIDTHS[key] for key in family.clips.values())
        with torch.device("meta"):
            x_t = torch.empty(batch, *family.latent_shape(size), dtype=dtype)
            noise = torch.zeros(batch)
            brief = torch.empty(batch, pooled, dtype=dtype) if pooled else None
        reads_lengths = family.name == "Lumina 2"  # off a mask, which has to have numbers
        mask = torch.ones(batch, tokens, dtype=torch.bool) if reads_lengths else None
        return lambda states: family.call(network, x_t, noise, Conditioning(states, brief, mask))


Step = Callable[[Tensor], Tensor]


def transformer_cost(
    empty: EmptyPipeline,
    batch: int,
    size: int,
    dtype: torch.dtype,
    checkpointing: bool,
    weight_gradients: bool = False,
) -> Cost:
    """Cost of reading `batch` texts, predicting noise for as many pictures of `size` pixels, and
    going back to the rows. CLIP beside T5 is not counted.

    With `weight_gradients` frozen weights collect gradients too, as the authors' code lets them.
    """
    run = _example(empty, batch, size, dtype, checkpointing)
    networks = empty.network, empty.reader.model
    for network in networks:
        network.requires_grad_(weight_gradients)
    cost = _counted(run)
    for network in networks:
        network.zero_grad(set_to_none=True)
    return cost


def transformer_bytes(empty: EmptyPipeline, size: int, dtype: torch.dtype) -> int:
    """Peak bytes of one example beside the weights if nothing is computed again on the way back."""
    run = _example(empty, 1, size, dtype, checkpointing=False)
    with fused_attention(), _texts_alone():
        return _peak(run)


def _example(
    empty: EmptyPipeline, batch: int, size: int, dtype: torch.dtype, checkpointing: bool
) -> Callable[[], Tensor]:
    given: Any = empty.network
    if checkpointing:
        given.enable_gradient_checkpointing()
    else:
        given.disable_gradient_checkpointing()
    empty.reader.model.to(dtype=dtype).eval().requires_grad_(False)
    tokens = empty.family.fill or TEXT
    step = empty.step(batch, tokens, size, dtype)
    with torch.device("meta"):
        text = torch.empty(batch, tokens, WIDTHS[empty.family.key], dtype=dtype, requires_grad=True)
    return lambda: step(empty.reader.states(text, None))


TEXT = 128
"""Tokens of a text that is filled up to no length, as costs are counted."""


def _counted(run: Callable[[], Tensor]) -> Cost:
    """Cost of a forward run and of the way back from what it gives.

    Bytes and operations are counted one after the other: counting operations keeps tensors alive,
    and a second way back finds gradients that are there already.
    """
    with fused_attention(), _texts_alone():
        peak = _peak(run)
        with FlopCounterMode(display=False) as flops:
            out = run()
            forward = flops.get_total_flops()
            out.float().square().mean().backward()  # pyright: ignore[reportUnknownMemberType]
            backward = flops.get_total_flops() - forward
    return Cost(float(forward), float(backward), peak)


def _peak(run: Callable[[], Tensor]) -> int:
    with LiveBytes() as live:
        run().float().square().mean().backward()  # pyright: ignore[reportUnknownMemberType]
    return live.peak


def _texts_alone() -> AbstractContextManager[None]:
    """One text in a sequence: transformers else looks for more of them, at numbers not there."""
    masks: Any = getattr(transformers, "masking_utils", None)
    name = "find_packed_sequence_indices"
    return _replaced(masks, name, lambda _: None) if hasattr(masks, name) else nullcontext()


def fused_attention() -> AbstractContextManager[None]:
    """Attention as a GPU's fused kernels do it, without the matrix of all weights."""

    def fused(query: Tensor, key: Tensor, value: Tensor, *_: Any, **more: Any) -> Tensor:
        if more.get("enable_gqa"):
            share = query.shape[1] // key.shape[1]
            key, value = (one.repeat_interleave(share, 1) for one in (key, value))
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        return kernel(query, key, value, None, True)[0]

    return _replaced(nn.functional, "scaled_dot_product_attention", fused)


@contextmanager
def _replaced(owner: Any, name: str, stand_in: Any) -> Iterator[None]:
    """Something else under a name of a module, for a while."""
    usual = getattr(owner, name)
    setattr(owner, name, stand_in)
    try:
        yield
    finally:
        setattr(owner, name, usual)


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int = 0) -> float:
    """Floating point operations a second of a big square matrix product here, best of a few."""
    side = side or (8192 if device.type == "cuda" else 768)
    one = torch.randn(side, side, device=device).to(dtype)
    timer = Timer("one @ one", globals={"one": one}, num_threads=torch.get_num_threads())
    return 2 * side**3 / min(timer.timeit(1).mean for _ in range(6))
