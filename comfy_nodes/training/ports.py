# pyright: reportMissingImports=false
"""ComfyUI's loaded MODEL, CLIP and VAE as the ports that the core's training loop sees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_management as management
import comfy.model_sampling
import torch
from torch import Tensor, nn

from apl_core.alignment import chunk_places
from apl_core.errors import HostError
from apl_core.ports import Conditioning
from apl_core.prefix import Rows
from apl_core.schedule import Schedule

from ..clips import tables, with_rows
from ..families import tokenizers


class ComfyEncoder:
    """The text encoders of a CLIP, weights in the text and clip skip included.

    Without gradient at most `at_once` texts run together, so that memory and an interrupt's wait
    are bounded; with gradient the training loop decides.
    """

    def __init__(self, clip: Any, at_once: int) -> None:
        self.clip, self.at_once = clip, at_once
        self._tables = tables(clip)
        self._widths = {key: one.embedding_size for key, one in tokenizers(clip.tokenizer)}
        if others := [key for key in self._widths if not key.startswith("clip_")]:
            raise HostError(
                "train on this CLIP",
                f"it has an encoder ({', '.join(others)}) that this node cannot learn on yet",
                "train on a checkpoint of SD 1.x, SD 2.x or SDXL",
            )
        if not self._widths or self._tables.keys() != self._widths.keys():
            raise HostError(
                "train on this CLIP",
                "its token embeddings are not plain floats (a quantized checkpoint)",
                "train on the full checkpoint; the prefix then works with the quantized one too",
            )

    @property
    def widths(self) -> Mapping[str, int]:
        """Token-embedding width per encoder."""
        return self._widths

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The text encoders."""
        return [self.clip.cond_stage_model]

    def token_embedding(self, key: str) -> Tensor:
        """The token-embedding table (vocabulary, width) of one encoder."""
        return tables(self.clip)[key]  # looked up anew: leaving inference mode replaces it

    def pieces(self, text: str) -> Sequence[str]:
        """The tokens of a text by the first encoder's tokenizer, as strings."""
        _, tokenizer = next(tokenizers(self.clip.tokenizer))
        found: list[str] = tokenizer.tokenizer.tokenize(text)
        return [piece.removesuffix("</w>") for piece in found]

    def aligned(self, prompt: str, neutral: str, rows: Rows) -> list[int]:
        """For each place of a prefixed prompt's chunk, the one of the neutral prompt's."""
        return chunk_places(self.pieces(prompt), self.pieces(neutral), rows)

    def encode(self, texts: Sequence[str], rows: Rows | None) -> Conditioning:
        """Encode texts as the host does; a shorter text of a batch is repeated to the length."""
        tokenizer = self.clip.tokenizer if rows is None else with_rows(self.clip.tokenizer, rows)
        tokens = [tokenizer.tokenize_with_weights(text) for text in texts]
        lengths = [max(len(chunks) for chunks in one.values()) for one in tokens]
        parts: list[Conditioning | None] = [None] * len(texts)
        for length in sorted(set(lengths)):
            places = [at for at, one in enumerate(lengths) if one == length]
            for some in _parts(places, self.at_once):
                encoded = self._run([tokens[at] for at in some], length)
                for row, at in enumerate(some):
                    parts[at] = encoded.pick(torch.tensor([row], device=encoded.cross.device))
        whole = math.lcm(*lengths)
        return Conditioning.join(
            [
                Conditioning(part.cross.repeat(1, whole // length, 1), part.pooled)
                for part, length in zip(parts, lengths, strict=True)
                if part is not None
            ]
        )

    def _run(self, texts: Sequence[Mapping[str, list[Any]]], length: int) -> Conditioning:
        """Texts of equal length through the encoders, as one long text of many chunks.

        The host gives the pooled output of the first chunk alone, so a hook listens for the others.
        """
        management.throw_exception_if_processing_interrupted()
        joined = {key: [chunk for text in texts for chunk in text[key]] for key in texts[0]}
        network, device = self.clip.cond_stage_model, self.clip.patcher.load_device
        network.reset_clip_options()
        if self.clip.layer_idx is not None:
            network.set_clip_options({"layer": self.clip.layer_idx})
        network.set_clip_options({"execution_device": device})
        heard: list[Tensor] = []
        pools = getattr(network, "clip_g", None)
        hook = pools and pools.register_forward_hook(lambda _, __, out: heard.append(out[1]))
        try:
            states = network.encode_token_weights(joined)[0]
        finally:
            if hook:
                hook.remove()
            network.reset_clip_options()
        cross = states.to(device).reshape(len(texts), -1, states.shape[-1])
        pooled = heard[0][: len(texts) * length : length].to(device) if heard else None
        return Conditioning(cross, pooled)


class ComfyDenoiser:
    """The diffusion network of a MODEL, its patches and model sampling nodes included.

    Without gradient at most `at_once` latents run together.
    """

    def __init__(self, model: Any, at_once: int) -> None:
        self.model, self.at_once = model, at_once
        self.sampling = model.get_model_object("model_sampling")
        discrete = isinstance(self.sampling, comfy.model_sampling.EPS)
        if not discrete or not hasattr(self.sampling, "sigmas"):
            raise HostError(
                "train on this MODEL",
                f"it is a {type(model.model).__name__}, whose noise is not that of SD 1, 2 or SDXL",
                "use a Stable Diffusion 1.x, 2.x or SDXL checkpoint",
            )
        sigmas = self.sampling.sigmas.detach().clone().float().cpu()
        self._schedule = Schedule(1 / (1 + sigmas.square()))

    @property
    def schedule(self) -> Schedule:
        """The noise levels of the model's sampling object."""
        return self._schedule

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The diffusion network."""
        return [self.model.model]

    @property
    def device(self) -> torch.device:
        """Where x_t is expected."""
        return self.model.load_device

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Noise prediction (B, C, H, W): (x - denoised) / sigma, whatever the network predicts.

        The host's x is x_0 + sigma noise, which is x_t divided by the signal that it keeps.
        """
        parts = [
            self._predict(x_t[some], t[some], conditioning.pick(some))
            for some in _parts(torch.arange(len(x_t), device=x_t.device), self.at_once)
        ]
        return torch.cat(parts)

    def _predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        management.throw_exception_if_processing_interrupted()
        signal, noise = self._schedule.coefficients(t, x_t)
        x, sigma = x_t / signal, (noise / signal).flatten()
        facts = self.model.model.extra_conds(
            cross_attn=conditioning.cross,
            pooled_output=conditioning.pooled,
            noise=x,
            width=x.shape[3] * 8,
            height=x.shape[2] * 8,
            device=self.device,
        )
        given: dict[str, Any] = {}
        for name, fact in facts.items():
            value = fact.process_cond(batch_size=len(x), device=self.device, area=None).cond
            given[name] = value.to(self.device) if isinstance(value, Tensor) else value
        options = dict(self.model.model_options.get("transformer_options", {}))
        options.update(cond_or_uncond=[0], sigmas=sigma)
        denoised = self.model.model.apply_model(x, sigma, transformer_options=options, **given)
        return (x - denoised) / sigma.reshape(-1, 1, 1, 1)


def _parts(places: Any, at_once: int) -> list[Any]:
    """The places in parts of at most `at_once`; in one part while gradients are recorded."""
    size = len(places) if torch.is_grad_enabled() else at_once
    return [places[start : start + size] for start in range(0, len(places), size)]


class ComfyLatents:
    """The way between pictures and the latents that the model works in, through a VAE."""

    def __init__(self, vae: Any, model: Any) -> None:
        self.vae, self.model = vae, model

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (B, C, h, w) of pictures (B, 3, H, W) in [0, 1]."""
        found = self.vae.encode(pictures.movedim(1, -1))
        return self.model.model.process_latent_in(found.clone().float())

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of latents."""
        found = self.vae.decode(self.model.model.process_latent_out(latents))
        return found.clone().float().movedim(-1, 1).clamp(0, 1)
