"""What a step on a real U-Net costs against the authors', with random weights of the real size.

Nothing is downloaded: SD 1.5's U-Net (860 million weights) and CLIP-L are built and filled with
random numbers. Times on a CPU are processor seconds of one thread, which a busy machine does not
stretch; on a GPU they are wall time. Operations are counted, not estimated.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from apl_core.atomic import write_text
from apl_core.encoding import ReferenceEncoder
from apl_core.example_kinds import KINDS, Kind
from apl_core.objective import Example
from apl_core.ports import DenoiserPort, TextEncoderPort
from apl_core.prefix import Rows
from apl_core.schedule import Schedule
from apl_core.training.batches import BatchSampler, generator
from apl_core.training.config import PAPER, TrainConfig
from apl_core.training.frozen import frozen
from apl_core.training.initial import initial_rows
from apl_core.training.parallel import Group
from apl_core.training.step import gradient
from apl_trainer.checkpoints.cost import Cost, matmul_rate, unet_cost
from apl_trainer.checkpoints.quantize import bytes_of
from apl_trainer.models.clip_text import ClipTower
from apl_trainer.models.unet import UnetDenoiser

SD15: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""The published architectures, as arguments for UNet2DConditionModel."""

CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 49408,
}
TEXT_BYTES = {"sd15": 123_060_480 * 4, "sdxl": (123_060_480 + 694_659_840) * 2}
"""Of their text encoders, in fp32 and in half precision."""
_POOL = 1 << 20
Say = Callable[[str], None]


class Words:
    """A tokenizer for timing only: as many tokens as words."""

    bos_token_id, eos_token_id, pad_token_id = 49406, 49407, 0
    all_special_ids: Sequence[int] = ()
    unk_token = None

    def __call__(self, text: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[300 + len(word) for word in text.split()])

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Names that tell ids apart."""
        return [str(one) for one in ids]


class _Noise:
    """Random latents with prompts of a usual length."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape

    def draw(self, kind: Kind, count: int, random: torch.Generator) -> list[Example]:
        """Some examples of a kind."""
        text = "a close-up portrait photo of somebody in a street"
        latents = torch.randn((count, *self.shape), generator=random)
        other = "a person" if kind == "identity" else text
        return [Example(kind, latent, text, other) for latent in latents]


def random_network(build: Callable[[], nn.Module], dtype: torch.dtype, device: torch.device) -> Any:
    """A network without its slow initialization: fan-in scaled noise, norms that do nothing."""
    with torch.device("meta"):
        network = build()
    return filled(network.to(dtype).to_empty(device=device))


@torch.no_grad()
def filled(network: nn.Module) -> nn.Module:
    """A frozen network with fan-in scaled noise in its weights, and norms that do nothing."""
    network.eval().requires_grad_(False)
    one = next(network.parameters())
    noise = torch.randn(_POOL, generator=torch.Generator().manual_seed(0)).to(one.device, one.dtype)
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2:
            parameter.fill_(float(name.endswith("weight")))
            continue
        scale = parameter[0].numel() ** -0.5 if "embedding" not in name else 0.015
        flat = parameter.view(-1)
        for start in range(0, len(flat), _POOL):
            piece = flat[start : start + _POOL]
            piece.copy_(noise[: len(piece)]).mul_(scale)
    for name, buffer in network.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return network


@dataclass(frozen=True)
class Networks:
    """What steps are timed on; `shape` (C, h, w) is that of a latent."""

    encoder: TextEncoderPort
    denoiser: DenoiserPort
    shape: tuple[int, int, int]


def stable_diffusion(unet_config: dict[str, Any], side: int, device: torch.device) -> Networks:
    """SD 1.5's U-Net, or another, and CLIP-L: random numbers."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    unet = random_network(lambda: UNet2DConditionModel(**unet_config), dtype, device)
    config: dict[str, Any] = {**CLIP_L, "bos_token_id": 49406, "eos_token_id": 49407}
    text = random_network(lambda: CLIPTextModel(CLIPTextConfig(**config)), torch.float32, device)
    encoder = ReferenceEncoder([ClipTower("clip_l", text, Words(), 49407)])
    denoiser = UnetDenoiser(unet, Schedule.scaled_linear(), "eps")
    return Networks(encoder, denoiser, (4, side, side))


class Step:
    """One recipe on one model: seconds per sample of its steps."""

    def __init__(self, networks: Networks, config: TrainConfig) -> None:
        encoder, denoiser = networks.encoder, networks.denoiser
        self.encoder, self.denoiser, self.config = encoder, denoiser, config
        self.group = Group()
        self.batches = BatchSampler(
            config, encoder, denoiser, _Noise(networks.shape), self.group, lambda *_: None
        )
        rows = initial_rows(config, encoder, generator(0, "bench"))
        leaves = {k: v.to(denoiser.device).requires_grad_() for k, v in rows.vectors.items()}
        self.rows = Rows(leaves, config.num_suffix_vectors)
        self.number = 0
        self.target_seconds = 0.0
        self._gradients: list[Tensor | None] = []

    def run(self) -> float:
        """Seconds per sample of the next step, its teacher included unless it is kept.

        `target_seconds` is what the first step's teacher took, per sample.
        """
        modules = [*self.encoder.modules, *self.denoiser.modules]
        parameters = [p for module in modules for p in module.parameters()]
        device = self.denoiser.device
        with frozen(modules, self.config.recipe == "paper"):
            for parameter, kept in zip(parameters, self._gradients, strict=False):
                parameter.grad = kept  # as in the authors' code, where they pile up
            began = _now(device)
            batch = self.batches.batch(self.number)
            targets_done = _now(device)
            gradient(self.config, self.encoder, self.denoiser, batch, self.rows, self.group, 1.0)
            ended = _now(device)
            if self.config.recipe == "paper":
                self._gradients = [parameter.grad for parameter in parameters]
        self.target_seconds = self.target_seconds or (targets_done - began) / len(batch)
        self.number += 1
        return (ended - began) / len(batch)


def _now(device: torch.device) -> float:
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def taught_share(config: TrainConfig) -> float:
    """Teacher forwards per sample of a whole run with kept predictions.

    Those of names and of swapped words are included: nearly every example has one.
    """
    forwards = 2 if any(config.contrasts.values()) else 1
    return forwards * config.num_targets / config.samples


def _sized(config: TrainConfig, batch: int) -> TrainConfig:
    """The recipe at a batch size, with one step's predictions kept."""
    counts = {f"batch_{kind}": batch // 3 for kind in KINDS}
    counts["batch_people"] = batch - 2 * (batch // 3)
    counts["batch_identity"] = max(counts["batch_identity"], 1)
    counts["batch_people"] -= sum(counts.values()) - batch
    sized = replace(config, **cast(Any, counts))
    return replace(sized, target_cache=batch, target_cache_uses=0, repulsion=0.0, micro_batch=0)


def step_times(
    networks: Networks, batches: Sequence[int], rounds: int, say: Say
) -> dict[str, float]:
    """Seconds per sample of the authors' step and of ours at each batch.

    The variants take turns; medians. Ours pays for its kept teacher predictions by the share that
    a whole run has of them.
    """
    variants = {"authors": PAPER} | {
        f"ours.{size}": _sized(TrainConfig(), size) for size in batches
    }
    steps = {name: Step(networks, config) for name, config in variants.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for name, step in steps.items():
        step.run()  # warm, and ours keep their predictions from here on
        say(f"{name} is warm")
    for number in range(rounds):
        for name, step in steps.items():
            times[name].append(step.run())
        say(f"round {number + 1} of {rounds}")
    found = {name: statistics.median(values) for name, values in times.items()}
    share = taught_share(TrainConfig())
    return {
        name: seconds + (0 if name == "authors" else share * steps[name].target_seconds)
        for name, seconds in found.items()
    }


def step_figures(times: Mapping[str, float]) -> dict[str, float]:
    """Seconds per sample of the authors' step and of ours at its best batch, and their ratio."""
    best = min((k for k in times if k.startswith("ours.")), key=lambda k: times[k])
    found = {f"seconds.step_per_sample.{name}": value for name, value in times.items()}
    found["seconds.step_per_sample.ours"] = times[best]
    found["best_batch"] = float(best.removeprefix("ours."))
    found["step_cost_ratio"] = times[best] / times["authors"]
    return found


def of_steps(frozen: Cost, with_weights: Cost) -> dict[str, float]:
    """Operations per sample of the authors' step and of ours.

    Theirs are three forward runs, and a way back with gradients of all weights.
    """
    ours = frozen.forward * (1 + taught_share(TrainConfig())) + frozen.backward
    return {"authors": 3 * with_weights.forward + with_weights.backward, "ours": ours}


def operations(unet_config: dict[str, Any], side: int) -> dict[str, float]:
    """Counted operations per sample in the U-Net: the authors' step and ours, at a latent side."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**unet_config)
    width = int(unet_config["cross_attention_dim"])
    ours = unet_cost(unet, 1, side, torch.float32, False, width)
    theirs = unet_cost(unet, 1, side, torch.float32, False, width, weight_gradients=True)
    counted = of_steps(ours, theirs)
    found = {f"flops.step_per_sample.{name}": value for name, value in counted.items()}
    return found | {"flops_ratio": counted["ours"] / counted["authors"]}


def expected_peaks() -> dict[str, float]:
    """GiB that a step in bf16 at batch 1 is counted to need with gradient checkpointing."""
    found: dict[str, float] = {}
    for name, config, side in (("sd15", SD15, 64), ("sdxl", SDXL, 128)):
        with torch.device("meta"):
            unet = UNet2DConditionModel(**config)
        width = int(config["cross_attention_dim"])
        cost = unet_cost(unet, 1, side, torch.bfloat16, True, width)
        whole = bytes_of(unet, torch.bfloat16) + TEXT_BYTES[name] + cost.peak
        found[f"gib.expected_peak.{name}_{side * 8}"] = whole / 2**30
    return found


def run(
    out: Path,
    side: int,
    batches: Sequence[int],
    rounds: int,
    device: torch.device,
    say: Say,
    unet_config: dict[str, Any] | None = None,
) -> dict[str, float]:
    """All of it; writes figures.json into `out`. Figures of a GPU are there only if one is."""
    if device.type == "cpu":
        torch.set_num_threads(1)
    unet_config = unet_config or SD15
    out.mkdir(parents=True, exist_ok=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    networks = stable_diffusion(unet_config, side, device)
    say("networks are built")
    found = step_figures(step_times(networks, batches, rounds, say))
    found["latent_side"] = float(side)
    if device.type == "cuda":
        found["gib.peak_of_all_variants"] = torch.cuda.max_memory_allocated(device) / 2**30
    write_figures(out, found)
    say(f"our step costs {found['step_cost_ratio']:.3f} of the authors'; counting operations")
    found |= operations(unet_config, side)
    rate = matmul_rate(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    found["matmul_flops_per_second"] = rate
    seconds = found["seconds.step_per_sample.ours"]
    found["share_of_matmul_rate"] = found["flops.step_per_sample.ours"] / seconds / rate
    write_figures(out, found)
    found |= expected_peaks()
    write_figures(out, found)
    return found


def write_figures(out: Path, found: Mapping[str, float]) -> None:
    """Write figures.json into a folder."""
    write_text(out / "figures.json", json.dumps(found, indent=1, sort_keys=True) + "\n")
