"""Diffusion transformers that learned by flow matching, as the core's denoiser port."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from apl_core.errors import PromptError
from apl_core.ports import Conditioning
from apl_core.schedule import Prediction, Schedule

Call = Callable[[Any, Tensor, Tensor, Conditioning], Tensor]
"""Network, x_t (B, C, H, W), noise s (B,) in (0, 1], texts -> its output (B, C, H, W)."""


class FlowDenoiser:
    """Noise predictions of a transformer on the path of a rectified flow.

    It predicts the velocity, or the clean latent, which a small network learns much faster (arXiv
    2511.13720). `call` runs it as its family's pipeline in diffusers does.
    """

    def __init__(
        self, network: nn.Module, schedule: Schedule, call: Call, kind: Prediction = "flow"
    ) -> None:
        self.network, self.schedule, self._call = network, schedule, call
        self.kind: Prediction = kind

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The transformer."""
        return [self.network]

    @property
    def device(self) -> torch.device:
        """Where x_t is expected."""
        return next(self.network.parameters()).device

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Noise prediction (B, C, H, W) in float32."""
        _, sigma = self.schedule.coefficients(t, x_t)
        found = self.output(x_t, sigma.flatten(), conditioning)
        return self.schedule.to_eps(found, x_t, t, self.kind)

    def output(self, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
        """What the network says (B, C, H, W), in float32, of x_t with a share `noise` (B,)."""
        dtype = next(p.dtype for p in self.network.parameters() if p.is_floating_point())
        pooled = None if texts.pooled is None else texts.pooled.to(dtype)
        given = Conditioning(texts.cross.to(dtype), pooled, texts.mask)
        return self._call(self.network, x_t.to(dtype), noise.float(), given).float()


def lumina2(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """Lumina 2's transformer, whose time runs from noise to picture."""
    return network(x_t, 1 - noise, texts.cross, _mask(texts)).sample


def lumina2_velocity(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """Lumina 2's transformer as it was released: the sign of its velocity runs as its time."""
    return -lumina2(network, x_t, noise, texts)


def pixart(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """PixArt's transformer with a time from 0 to 1000."""
    out = network(
        x_t,
        encoder_hidden_states=texts.cross,
        timestep=1000 * noise,
        encoder_attention_mask=_mask(texts),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    )
    return out.sample


def z_image(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """Z-Image's transformer: lists of pictures and texts; time and sign as Lumina 2's."""
    captions = list(texts.cross)
    if texts.mask is not None:
        captions = [one[here] for one, here in zip(texts.cross, texts.mask, strict=True)]
    found = network([one[:, None] for one in x_t], 1 - noise, captions, return_dict=False)[0]
    return -torch.stack([one[:, 0] for one in found])


def qwen_image(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """Qwen-Image's transformer: a latent's places in packs of 2 x 2."""
    height, width = x_t.shape[-2:]
    out = network(
        hidden_states=_packed(x_t),
        timestep=noise,
        encoder_hidden_states=texts.cross,
        encoder_hidden_states_mask=None if texts.mask is None else texts.mask.long(),
        img_shapes=[[(1, height // 2, width // 2)]] * len(x_t),
    )
    return _unpacked(out.sample, height, width)


def krea2(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """Krea 2's transformer: every layer's states of a text apart, places as Qwen-Image's."""
    height, width = x_t.shape[-2:]
    count = texts.cross.shape[1]
    out = network(
        hidden_states=_packed(x_t),
        encoder_hidden_states=texts.cross.unflatten(-1, (network.config.num_text_layers, -1)),
        timestep=noise,
        position_ids=torch.cat([x_t.new_zeros(count, 3), _grid(x_t, height // 2, width // 2)]),
        encoder_attention_mask=_mask(texts),
    )
    return _unpacked(out.sample, height, width)


def flux(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """Flux.1's transformer: T5's states and CLIP's pooled one; guidance as its pipeline has it."""
    height, width = x_t.shape[-2:]
    guided = network.config.guidance_embeds
    out = network(
        hidden_states=_packed(x_t),
        encoder_hidden_states=_whole(texts, "Flux.1"),
        pooled_projections=texts.pooled,
        timestep=noise,
        img_ids=_grid(x_t, height // 2, width // 2),
        txt_ids=x_t.new_zeros(texts.cross.shape[1], 3),
        guidance=torch.full_like(noise, FLUX_GUIDANCE) if guided else None,
    )
    return _unpacked(out.sample, height, width)


def chroma(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """Chroma's transformer: T5's states alone, the mask over text and picture."""
    height, width = x_t.shape[-2:]
    mask, packed = _mask(texts), _packed(x_t)
    everywhere = mask.new_ones(packed.shape[:2])
    out = network(
        hidden_states=packed,
        encoder_hidden_states=texts.cross,
        timestep=noise,
        img_ids=_grid(x_t, height // 2, width // 2),
        txt_ids=x_t.new_zeros(texts.cross.shape[1], 3),
        attention_mask=torch.cat([mask, everywhere], 1),
    )
    return _unpacked(out.sample, height, width)


def flux2(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """Flux.2's transformer: latents of 128 channels, a token for each place."""
    height, width = x_t.shape[-2:]
    count = texts.cross.shape[1]
    words = torch.arange(count, device=x_t.device)
    text_places = torch.nn.functional.pad(words[:, None], (3, 0))
    picture_places = torch.nn.functional.pad(_grid(words, height, width), (0, 1))
    out = network(
        hidden_states=x_t.flatten(2).transpose(1, 2),
        encoder_hidden_states=_whole(texts, "Flux.2"),
        timestep=noise,
        img_ids=picture_places.expand(len(x_t), -1, -1),
        txt_ids=text_places.expand(len(x_t), -1, -1),
        guidance=torch.full_like(noise, FLUX2_GUIDANCE) if _guided(network) else None,
    )
    return out.sample.transpose(1, 2).unflatten(-1, (height, width))


def flux2_dev(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """Flux.2 dev's transformer: texts end at the same place, behind zeros, as in ComfyUI."""
    states = texts.cross
    if states.shape[1] <= FLUX2_TOKENS:
        counts = _mask(texts).sum(1, keepdim=True)
        places = torch.arange(FLUX2_TOKENS, device=states.device) - (FLUX2_TOKENS - counts)
        text = states.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, states.shape[2]))
        texts = Conditioning(torch.where(places[..., None] < 0, 0, text))
    return flux2(network, x_t, noise, texts)


def sd3(network: Any, x_t: Tensor, noise: Tensor, texts: Conditioning) -> Tensor:
    """SD 3's transformer with a time from 0 to 1000."""
    out = network(
        hidden_states=x_t,
        encoder_hidden_states=_whole(texts, "SD 3.5"),
        pooled_projections=texts.pooled,
        timestep=1000 * noise,
    )
    return out.sample


FLUX2_TOKENS = 512
"""Tokens that Flux.2 dev's transformer sees, of which a short text is the end."""

FLUX_GUIDANCE, FLUX2_GUIDANCE = 3.5, 4.0
"""What a guidance-distilled Flux is told, as its pipelines' defaults have it."""


def _guided(network: Any) -> bool:
    return bool(getattr(network.config, "guidance_embeds", False))


def _packed(x_t: Tensor) -> Tensor:
    """(B, h / 2 * w / 2, 4 C) of a latent (B, C, h, w)."""
    return pixel_unshuffle(x_t, 2).flatten(2).transpose(1, 2)


def _unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """A latent (B, C, height, width) of its packs."""
    return pixel_shuffle(tokens.transpose(1, 2).unflatten(-1, (height // 2, width // 2)), 2)


def _grid(like: Tensor, height: int, width: int) -> Tensor:
    """Places (height * width, 3) of a picture's tokens: 0, row, column."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=like.device),
        torch.arange(width, device=like.device),
        indexing="ij",
    )
    places = torch.stack([torch.zeros_like(rows), rows, columns], -1)
    return places.flatten(0, 1).to(like.dtype)


def _whole(texts: Conditioning, family: str) -> Tensor:
    """States of texts of one length; PromptError where some are longer than the others."""
    if texts.mask is not None and not bool(texts.mask.all()):
        raise PromptError(
            f"predict noise with {family}",
            "its transformer knows no padding, and one text is longer than it fills texts up to",
            "shorten the longest prompt",
        )
    return texts.cross


def _mask(texts: Conditioning) -> Tensor:
    if texts.mask is not None:
        return texts.mask
    return torch.ones(texts.cross.shape[:2], dtype=torch.bool, device=texts.cross.device)
