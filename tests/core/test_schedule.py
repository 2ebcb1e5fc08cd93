"""Noise schedules against the formulas, against themselves, and against diffusers."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from apl_core.schedule import Prediction, Schedule

SCHEDULE = Schedule.scaled_linear()
KINDS: list[Prediction] = ["eps", "v", "x0"]


def sample(seed: int, t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x0, noise and x_t in float64 written out by hand, and t."""
    random = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, 2, 3, 4, 4, generator=random, dtype=torch.float64)
    kept = float(SCHEDULE.alphas_cumprod[t])
    return x0, noise, kept**0.5 * x0 + (1 - kept) ** 0.5 * noise, torch.tensor([t, t])


def output_of(kind: Prediction, x0: Tensor, noise: Tensor, t: int) -> Tensor:
    """What a perfect network of a kind says."""
    kept = float(SCHEDULE.alphas_cumprod[t])
    velocity = kept**0.5 * noise - (1 - kept) ** 0.5 * x0
    return {"eps": noise, "v": velocity, "x0": x0}[kind]


steps = st.integers(0, 999)
seeds = st.integers(0, 10_000)


@given(seed=seeds, t=steps)
def test_noised_latents_follow_the_formula(seed: int, t: int) -> None:
    x0, noise, x_t, steps_t = sample(seed, t)
    torch.testing.assert_close(SCHEDULE.q_sample(x0, noise, steps_t), x_t, rtol=0, atol=3e-6)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, t=steps)
def test_a_perfect_network_gives_back_noise_and_latent(kind: Prediction, seed: int, t: int) -> None:
    x0, noise, x_t, steps_t = sample(seed, t)
    output = output_of(kind, x0, noise, t)
    kept = float(SCHEDULE.alphas_cumprod[t])
    loose = 3e-5  # coefficients are float32, and the inverse of a small one enlarges the rest
    found = SCHEDULE.to_eps(output, x_t, steps_t, kind)
    torch.testing.assert_close(found, noise, rtol=0, atol=loose / (1 - kept) ** 0.5)
    found = SCHEDULE.to_x0(output, x_t, steps_t, kind)
    torch.testing.assert_close(found, x0, rtol=0, atol=loose / kept**0.5)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, t=steps)
def test_noise_and_latent_of_any_output_make_up_x_t(kind: Prediction, seed: int, t: int) -> None:
    output, _, x_t, steps_t = sample(seed, t)  # an output of no perfect network
    eps = SCHEDULE.to_eps(output, x_t, steps_t, kind)
    x0 = SCHEDULE.to_x0(output, x_t, steps_t, kind)
    torch.testing.assert_close(SCHEDULE.q_sample(x0, eps, steps_t), x_t, rtol=0, atol=1e-4)


def test_each_example_has_its_own_step() -> None:
    x0, noise = torch.randn(2, 3, 4, 8, 8).unbind()
    t = torch.tensor([0, 500, 999])
    whole = SCHEDULE.q_sample(x0, noise, t)
    for i in range(3):
        alone = SCHEDULE.q_sample(x0[i : i + 1], noise[i : i + 1], t[i : i + 1])
        assert torch.equal(whole[i : i + 1], alone)


def test_it_is_the_schedule_of_diffusers() -> None:
    theirs = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False
    )
    torch.testing.assert_close(
        SCHEDULE.alphas_cumprod, theirs.alphas_cumprod, rtol=2e-5, atol=0
    )  # theirs multiplies 1000 times in float32
    ours = Schedule(theirs.alphas_cumprod)
    x0, noise = torch.randn(2, 5, 4, 8, 8).unbind()
    t = torch.tensor([0, 1, 400, 998, 999])
    torch.testing.assert_close(
        ours.q_sample(x0, noise, t), theirs.add_noise(x0, noise, t), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_conversions_are_those_of_diffusers(prediction: str) -> None:
    theirs = DDIMScheduler(prediction_type=prediction, clip_sample=False, beta_end=0.012)
    theirs.set_timesteps(1000)
    ours = Schedule(theirs.alphas_cumprod)
    kinds: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
    x_t, output = torch.randn(2, 1, 4, 8, 8).unbind()
    for step in (1, 300, 999):
        done = theirs.step(output, step, x_t)
        x0 = ours.to_x0(output, x_t, torch.tensor([step]), kinds[prediction])
        assert not isinstance(done, tuple) and done.pred_original_sample is not None
        torch.testing.assert_close(x0, done.pred_original_sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("values", [[[0.5]], [0.5, 0.0], [1.1], [-0.1], [float("nan")]])
def test_a_wrong_schedule_is_an_error(values: list[float]) -> None:
    with pytest.raises(ValueError, match="alphas_cumprod"):
        Schedule(torch.tensor(values))


@given(snr=st.floats(1e-5, 2000), zero=st.booleans())
def test_the_first_step_below_a_signal_to_noise_ratio(snr: float, zero: bool) -> None:
    schedule = SCHEDULE.to_zero_snr() if zero else SCHEDULE
    ratios = [float(a) / (1 - float(a)) for a in schedule.alphas_cumprod]
    wanted = next((t for t, ratio in enumerate(ratios) if ratio <= snr), schedule.steps - 1)
    assert schedule.first_below(snr) == wanted


def test_every_step_is_below_a_large_ratio_and_the_last_one_stands_for_none() -> None:
    assert SCHEDULE.first_below(1e9) == 0
    assert SCHEDULE.first_below(1e-9) == SCHEDULE.steps - 1
    assert SCHEDULE.to_zero_snr().first_below(1e-7) == SCHEDULE.steps - 1


FLOW = Schedule.rectified_flow()


@given(seed=seeds, t=steps)
def test_a_flow_is_a_straight_line_from_latent_to_noise(seed: int, t: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, 2, 3, 4, 4, generator=random, dtype=torch.float64)
    at, share = torch.tensor([t, t]), 0.999 * (t + 1) / 1000
    x_t = (1 - share) * x0 + share * noise
    torch.testing.assert_close(FLOW.q_sample(x0, noise, at), x_t, rtol=0, atol=3e-6)
    found = FLOW.to_eps(noise - x0, x_t, at, "flow")
    torch.testing.assert_close(found, noise, rtol=0, atol=1e-5)
    found = FLOW.to_x0(noise - x0, x_t, at, "flow")
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-5)
    found = FLOW.to_x0(noise, x_t, at, "eps")
    torch.testing.assert_close(found, x0, rtol=0, atol=3e-5 / (1 - share))


@given(t=steps)
def test_scaling_gives_a_flow_the_variance_that_it_has(t: int) -> None:
    x, at = torch.ones(1, 1, 1, 1), torch.tensor([t])
    assert torch.equal(SCHEDULE.scaled(x, at), x)
    share = 0.999 * (t + 1) / 1000
    wanted = ((1 - share) ** 2 + share**2) ** 0.5
    assert float(FLOW.scaled(x, at)) == pytest.approx(wanted, abs=1e-5)


def test_steps_of_a_flow_are_found_by_their_signal_too() -> None:
    t = FLOW.first_below(0.25)  # signal half of the noise: noise is two thirds
    assert 0.999 * (t + 1) / 1000 == pytest.approx(2 / 3, abs=1e-3)
