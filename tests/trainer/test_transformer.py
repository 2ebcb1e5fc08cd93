"""Diffusion transformers behind the denoiser port, against diffusers' own flow matching."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Lumina2Transformer2DModel,
    PixArtTransformer2DModel,
)
from torch import Tensor

from apl_core.ports import Conditioning
from apl_core.prefix import Rows
from apl_core.schedule import Prediction, Schedule
from apl_trainer.models.transformer import Call, FlowDenoiser, lumina2, pixart
from apl_trainer.sampling import Request, Sampler

SCHEDULE = Schedule.rectified_flow()
WIDTH = 24


def network(call: Call) -> Any:
    torch.manual_seed(0)
    if call is lumina2:
        made: Any = Lumina2Transformer2DModel(
            sample_size=4,
            patch_size=1,
            in_channels=3,
            hidden_size=32,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=2,
            multiple_of=16,
            axes_dim_rope=(4, 6, 6),
            axes_lens=(64, 4, 4),
            cap_feat_dim=WIDTH,
        )
    else:
        made = PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=3,
            out_channels=3,
            num_layers=2,
            cross_attention_dim=32,
            sample_size=4,
            patch_size=1,
            caption_channels=WIDTH,
            use_additional_conditions=False,
        )
    return made.eval().requires_grad_(False)


def texts(lengths: list[int]) -> Conditioning:
    random = torch.Generator().manual_seed(2)
    cross = torch.randn(len(lengths), max(lengths), WIDTH, generator=random)
    return Conditioning(cross, mask=torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])


@pytest.mark.parametrize("call", [lumina2, pixart])
def test_padding_is_not_seen(call: Call) -> None:
    denoiser = FlowDenoiser(network(call), SCHEDULE, call)
    random = torch.Generator().manual_seed(3)
    x_t, t = torch.randn(2, 3, 4, 4, generator=random), torch.tensor([999, 300])
    both = texts([5, 3])
    found = denoiser.predict_noise(x_t, t, both)
    alone = Conditioning(both.cross[1:, :3], mask=torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(found[1:], denoiser.predict_noise(x_t[1:], t[1:], alone))
    noisy = both.cross.clone()
    noisy[1, 3:] = 100
    torch.testing.assert_close(
        denoiser.predict_noise(x_t, t, Conditioning(noisy, mask=both.mask)), found
    )


@pytest.mark.parametrize("kind", ["flow", "x0"])
@pytest.mark.parametrize("call", [lumina2, pixart])
def test_sampling_is_eulers_way_along_the_flow(call: Call, kind: Prediction) -> None:
    """Without fresh noise DDIM is Euler's method on the velocity."""
    denoiser = FlowDenoiser(network(call), SCHEDULE, call, kind)
    given = texts([5])

    class Encoder:
        def encode(self, prompts: list[str], rows: Rows | None) -> Conditioning:
            return given

    class Latents:
        def decode(self, latents: Tensor) -> Tensor:
            return latents

    sampler: Any = Sampler(Encoder(), denoiser, Latents(), (3, 4, 4), 1.0, 5)  # pyright: ignore
    found = sampler.draw([Request("", 7)], None)
    euler: Any = FlowMatchEulerDiscreteScheduler()
    noises = [
        float(SCHEDULE.coefficients(torch.tensor([t]), torch.ones(1))[1])
        for t in (999, 799, 599, 399, 199)
    ]
    euler.set_timesteps(sigmas=noises)
    start = torch.randn((1, 3, 4, 4), generator=torch.Generator().manual_seed(7))
    x = SCHEDULE.scaled(start, torch.tensor([999]))
    for noise, step in zip(noises, euler.timesteps, strict=True):
        with torch.no_grad():
            output = call(denoiser.network, x, torch.tensor([noise]), given)
        velocity = output if kind == "flow" else (x - output) / noise
        x = euler.step(velocity, step, x).prev_sample
    torch.testing.assert_close(found, x, atol=1e-2, rtol=0)  # ours ends at the first step's noise


def test_conditionings_keep_their_masks() -> None:
    one, other = texts([5, 3]), texts([4, 5])
    joined = Conditioning.join([one, other])
    assert joined.mask is not None and one.mask is not None and other.mask is not None
    assert torch.equal(joined.mask, torch.cat([one.mask, other.mask]))
    picked = joined.pick(torch.tensor([3, 1]))
    assert picked.mask is not None
    assert picked.mask.sum(1).tolist() == [5, 3] and torch.equal(picked.cross[1], one.cross[1])
