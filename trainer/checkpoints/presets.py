"""How a run is fitted to a graphics card, and what a dry run says about it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from apl_core.errors import ConfigError
from apl_core.metadata import printable
from apl_core.schedule import Prediction
from apl_core.training.config import TrainConfig
from apl_core.training.verdict import ENOUGH

from .cost import Cost, matmul_rate, transformer_bytes, transformer_cost, unet_cost
from .detect import CheckpointInfo, detect
from .load import empty, refuse_quantize
from .loaded import Info
from .pipeline_load import empty_pipeline
from .pipelines import PipelineInfo
from .quantize import Quantize, bytes_of
from .safetensors_index import sound
from .text_encoders import new_text_model

_SHARE = 0.4
"""Part of a GPU's matrix product rate that a step is taken to reach, for the time of a dry run."""


@dataclass(frozen=True)
class MemoryPreset:
    """How a model is run: `half` weights, checkpointing, most examples at once, biggest picture."""

    half: bool = True
    checkpointing: bool = True
    micro: int = 1
    size: int = 1024


CPU = MemoryPreset(half=False, checkpointing=False, micro=2)
PRESETS: Mapping[int, MemoryPreset] = {
    4: MemoryPreset(size=512),
    6: MemoryPreset(micro=2, size=768),
    8: MemoryPreset(micro=4, size=768),
    12: MemoryPreset(checkpointing=False, micro=4),
    24: MemoryPreset(checkpointing=False, micro=0),
}
PRESETS_XL: Mapping[int, MemoryPreset] = {
    8: MemoryPreset(size=512),
    12: MemoryPreset(micro=1),
    16: MemoryPreset(checkpointing=False, micro=1),
    24: MemoryPreset(checkpointing=False, micro=2),
    48: MemoryPreset(checkpointing=False, micro=6),
}
_SIDE, _ROOM, _SAFE = 512, 1.5e9, 0.8
"""Side of the pictures that a transformer learns from; bytes for one beside its weights; part of
the room that counted bytes may fill, since allocators waste some."""


def own_device(asked: str | None) -> torch.device:
    """The device asked for, else this process's GPU, else the CPU; ConfigError if it is none."""
    usual = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked or usual)
    except RuntimeError as error:
        raise ConfigError(
            f"set device {asked}", str(error).split("\n")[0], "give cuda or cpu"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        fix = "install a torch with CUDA, or give --device cpu"
        raise ConfigError(f"set device {asked}", "torch finds no GPU here", fix)
    if device.type != "cpu":
        _try(device)
    return device


def _try(device: torch.device) -> None:
    """ConfigError if nothing can be computed on a device that torch knows by name."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, NotImplementedError, AssertionError, ImportError) as error:
        found = f"torch cannot compute there ({printable(str(error).split(chr(10))[0], 80)})"
        raise ConfigError(f"set device {device}", found, "give cuda or cpu") from error


def preset_for(
    found: Info,
    vram: int | None,
    device: torch.device,
    quantize: Quantize | None = None,
    size: int | None = None,
) -> MemoryPreset:
    """The preset of `--vram`, else of the GPU's own memory; ConfigError if the model is too big.

    `size` of the pictures in pixels, the preset's own by default.
    """
    if vram is None and device.type != "cuda":
        return CPU
    gigabytes = vram or int(torch.cuda.get_device_properties(device).total_memory / 1e9 + 0.5)
    if isinstance(found, PipelineInfo):
        return _preset_beside(found, gigabytes, quantize, size or _SIDE)
    table = PRESETS_XL if found.family == "SDXL" else PRESETS
    fitting = [size for size in table if size <= gigabytes]
    if not fitting:
        raise ConfigError(
            f"train on {gigabytes} GB",
            f"{found.family} needs a card of {min(table)} GB or more",
            "use an SD 1.x checkpoint, or a bigger card",
        )
    return table[max(fitting)]


def _preset_beside(
    found: PipelineInfo, gigabytes: int, quantize: Quantize | None, size: int
) -> MemoryPreset:
    """What fits beside a transformer and its text encoders in half precision, or in fewer bits.

    No checkpointing where at least one example fits without it: the way back then takes half as
    many operations.
    """
    empty, half = empty_pipeline(found), torch.bfloat16
    weights, words = empty.bytes(half, quantize), empty.text_bytes(half, quantize)
    room = max(0.0, gigabytes * 1e9 - weights - empty.whole_block(half, quantize))
    if examples := int(_SAFE * room // transformer_bytes(empty, size, half)):
        return MemoryPreset(checkpointing=False, micro=examples, size=_SIDE)
    if examples := int(room // _ROOM):
        return MemoryPreset(micro=examples, size=_SIDE)
    raise ConfigError(
        f"train on {gigabytes} GB",
        f"the weights of {found.family} need {weights / 1e9:.0f} GB and an example about "
        f"{_ROOM / 1e9:.0f}: {words / 1e9:.0f} GB are the text encoder's",
        "use a bigger card"
        + (", or weights in fewer bits: --quantize int8, or nf4" if quantize is None else "")
        + "; or learn on texts alone, which loads the text encoders only: --texts-alone",
    )


def drawing_dtypes(found: Info, half: bool) -> tuple[torch.dtype, torch.dtype]:
    """Of the denoiser and of the text encoders, to draw pictures."""
    if not half:
        return torch.float32, torch.float32
    if isinstance(found, PipelineInfo):  # fp16 is not wide enough for T5 and Qwen
        return torch.bfloat16, torch.bfloat16
    return torch.float16, torch.float32


def dtype_for(preset: MemoryPreset, device: torch.device) -> torch.dtype:
    """Of the frozen weights: bf16 where the GPU can, else fp16; fp32 on a CPU."""
    if not preset.half or device.type == "cpu":
        return torch.float32
    can = device.type != "cuda" or torch.cuda.is_bf16_supported()
    return torch.bfloat16 if can else torch.float16


def fitted(
    config: TrainConfig, preset: MemoryPreset, dtype: torch.dtype, given: Mapping[str, object]
) -> TrainConfig:
    """The settings with the preset's micro-batch and precision where the user named none."""
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "no")
    wanted = {"micro_batch": preset.micro, "mixed_precision": precision}
    chosen = {key: value for key, value in wanted.items() if key not in given}
    return replace(config, **chosen) if config.recipe != "paper" else config


def picture_size(found: Info, preset: MemoryPreset, asked: int | None) -> int:
    """Side of the pictures in pixels; ConfigError if it is not a multiple of 64."""
    size = asked or min(found.size, preset.size)
    if size % 64 or not 64 <= size <= 2048:
        raise ConfigError(f"set size {size}", "it is not possible", "give a multiple of 64")
    return size


@dataclass(frozen=True)
class TrainingSetup:
    """What a checkpoint is and how it is run on a device, found out once; `size` in pixels."""

    info: Info
    device: torch.device
    preset: MemoryPreset
    size: int
    quantize: Quantize | None = None

    @staticmethod
    def of(
        path: Path,
        prediction: Prediction | None = None,
        device: str | None = None,
        vram: int | None = None,
        size: int | None = None,
        texts_alone: bool = False,
        quantize: Quantize | None = None,
    ) -> TrainingSetup:
        """Look at a checkpoint's names and shapes, and at the device; AplError.

        With `texts_alone` only the text encoders have to fit.
        """
        place = own_device(device)
        info = detect(path, prediction)
        half = MemoryPreset() if place.type == "cuda" else CPU
        refuse_quantize(info, quantize)
        picture_size(info, half, size)  # told before anything of that size is counted
        preset = half if texts_alone else preset_for(info, vram, place, quantize, size)
        return TrainingSetup(info, place, preset, picture_size(info, preset, size), quantize)

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen U-Net's weights."""
        return dtype_for(self.preset, self.device)

    @property
    def text_dtype(self) -> torch.dtype:
        """Of the text encoders: fp32, but for big ones on a card."""
        big = isinstance(self.info, PipelineInfo) or self.info.family == "SDXL"
        return self.dtype if big else torch.float32

    def fitted(self, config: TrainConfig, given: Mapping[str, object]) -> TrainConfig:
        """The settings with the preset's micro-batch and precision where the user named none."""
        return fitted(config, self.preset, self.dtype, given)


@dataclass(frozen=True)
class Forecast:
    """What a run will need: bytes of frozen weights and beside them, operations, and seconds."""

    weights: int
    working: int
    flops: float
    rate: float

    @property
    def seconds(self) -> float:
        """Time for the whole run."""
        return self.flops / self.rate

    def text(self, config: TrainConfig, device: str) -> str:
        """Lines for a user."""
        pieces = [
            f"expected peak: {(self.weights + self.working) / 2**30:.2f} GiB "
            f"(weights {self.weights / 2**30:.2f}, one micro-batch {self.working / 2**30:.2f})",
            f"expected time: {_words(self.seconds)} for {config.steps} steps of {config.batch} "
            f"({self.flops / 1e12:.0f} TFLOP at {self.rate / 1e9:.0f} GFLOP/s on {device})",
        ]
        if config.max_steps > config.steps > 0:
            longest = _words(self.seconds * config.max_steps / config.steps)
            pieces.append(
                f"if more than {ENOUGH:.0%} of names is left then: up to {config.max_steps:,} "
                f"steps, {longest}"
            )
        return "\n".join(pieces)


def forecast(setup: TrainingSetup, config: TrainConfig) -> Forecast:
    """Counted on the meta device; the time is that of this machine's measured matrix products.

    CLIP's and the VAE's own work is small beside the denoiser's and not counted.
    """
    found, device, dtype = setup.info, setup.device, setup.dtype
    micro = min(config.micro_batch or config.batch, config.batch)
    with sound(found.path):
        if isinstance(found, PipelineInfo):
            weights, cost = _of_pipeline(found, setup, micro)
        else:
            weights, cost = _of_unet(found, setup, micro)
    learned, targets = config.samples, config.num_targets
    flops = (learned * (cost.forward + cost.backward) + targets * cost.forward) / micro
    share = _SHARE if device.type == "cuda" else 1.0
    return Forecast(weights, cost.peak, flops, share * matmul_rate(device, dtype))


def _of_unet(found: CheckpointInfo, setup: TrainingSetup, micro: int) -> tuple[int, Cost]:
    """Bytes of the weights, and the cost of a micro-batch."""
    unet = empty(UNet2DConditionModel, found.unet)
    texts = [new_text_model(text.config, text.projected) for text in found.texts]
    weights = bytes_of(unet, setup.dtype) + sum(bytes_of(m, setup.text_dtype) for m in texts)
    side = setup.size // 2 ** (len(found.vae.config["block_out_channels"]) - 1)
    width = sum(found.widths.values())
    checkpointing = setup.preset.checkpointing
    return weights, unet_cost(unet, micro, side, setup.dtype, checkpointing, width)


def _of_pipeline(found: PipelineInfo, setup: TrainingSetup, micro: int) -> tuple[int, Cost]:
    dtype, kind, checkpointing = setup.dtype, setup.quantize, setup.preset.checkpointing
    empty = empty_pipeline(found, checkpointing)
    cost = transformer_cost(empty, micro, setup.size, dtype, checkpointing)
    peak = cost.peak + empty.whole_block(dtype, kind)
    return empty.bytes(dtype, kind), replace(cost, peak=peak)


def _words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
