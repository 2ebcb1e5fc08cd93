"""The checkpoint that A1111 has loaded, as the ports that the core's training loop asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from apl_core.alignment import chunk_places
from apl_core.errors import HostError
from apl_core.ports import Conditioning
from apl_core.prefix import FAMILIES, Rows, describe
from apl_core.schedule import Schedule

from ..hosts import Host
from ..insertion import Run, running
from ..webui import module


class HostEncoder:
    """A TextEncoderPort: the webui's own text engines, the prefix put in by the same hooks.

    `size` is the side of the pictures, which SDXL is told beside the text.
    """

    def __init__(self, host: Host, model: Any, size: int) -> None:
        self._model, self._size = model, size
        self._engines = {host.key(engine): engine for engine in host.engines(model)}
        self._tables = {key: host.table(engine) for key, engine in self._engines.items()}

    @property
    def widths(self) -> Mapping[str, int]:
        return {key: table.shape[1] for key, table in self._tables.items()}

    @property
    def modules(self) -> Sequence[nn.Module]:
        return list(self._engines.values())

    def token_embedding(self, key: str) -> Tensor:
        return self._tables[key]

    def pieces(self, text: str) -> Sequence[str]:
        from apl_trainer.checkpoints.tokenizer import openai_tokenizer  # all families' vocabulary

        ids = next(iter(self._engines.values())).tokenize([text])[0]
        return [
            piece.removesuffix("</w>") for piece in openai_tokenizer().convert_ids_to_tokens(ids)
        ]

    def aligned(self, prompt: str, neutral: str, rows: Rows) -> list[int]:
        """For each place of a prefixed prompt's chunk, the one of the neutral prompt's."""
        return chunk_places(self.pieces(prompt), self.pieces(neutral), rows)

    def encode(self, texts: Sequence[str], rows: Rows | None) -> Conditioning:
        run = None if rows is None else Run("in training", rows)
        prompts = module("prompt_parser").SdConditioning(
            list(texts), width=self._size, height=self._size
        )
        trainable = [engine.is_trainable for engine in self._engines.values()]
        try:
            for engine in self._engines.values():
                engine.is_trainable = True  # SDXL's conditioner runs all others without gradient
            with running(run), module("devices").autocast():
                conds = self._model.get_learned_conditioning(prompts)
        finally:
            for engine, before in zip(self._engines.values(), trainable, strict=True):
                engine.is_trainable = before
        if run is not None:
            run.verify()
        if isinstance(conds, dict):
            return Conditioning(conds["crossattn"], conds["vector"])
        return Conditioning(conds)


class HostDenoiser:
    """A DenoiserPort: the webui's own `apply_model`, which takes care of dtypes."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._schedule = Schedule(model.alphas_cumprod.detach().float().cpu())

    @property
    def schedule(self) -> Schedule:
        return self._schedule

    @property
    def modules(self) -> Sequence[nn.Module]:
        return [self._model.model]

    @property
    def device(self) -> torch.device:
        return torch.device(module("devices").device)

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        given: dict[str, Any] = (
            {"c_crossattn": [conditioning.cross]}
            if conditioning.pooled is None
            else {"crossattn": conditioning.cross, "vector": conditioning.pooled}
        )
        output = self._model.apply_model(x_t, t, given).float()
        return self._schedule.to_eps(output, x_t, t, self._model.parameterization)


def pictures(model: Any, latents: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] of latents, by the webui's own VAE."""
    given = latents.to(module("devices").dtype_vae)
    return ((model.decode_first_stage(given).float() + 1) / 2).clamp(0, 1)


def refuse_unfit(host: Host, model: Any) -> None:
    """HostError for a model that cannot be trained on as it is loaded."""
    if model is None:
        raise HostError("train a prefix", "no checkpoint is loaded", "load one first")
    if module("lowvram").is_enabled(model):
        raise HostError(
            "train a prefix",
            "the webui runs with --lowvram or --medvram, which move the model while it is used",
            "restart it without them",
        )
    key = getattr(model.model, "conditioning_key", "crossattn")
    if key != "crossattn" or getattr(model, "is_sdxl_inpaint", False):
        raise HostError(
            "train a prefix",
            "the loaded checkpoint is an inpainting, edit or depth model",
            "load an ordinary one",
        )
    widths = {host.key(engine): host.table(engine).shape[1] for engine in host.engines(model)}
    if frozenset(widths) not in FAMILIES:
        raise HostError(
            "train a prefix",
            f"the loaded checkpoint is of no family that a prefix can be for {describe(widths)}",
            "load a checkpoint of SD 1.x, SD 2.x or SDXL; SDXL's refiner is none",
        )
