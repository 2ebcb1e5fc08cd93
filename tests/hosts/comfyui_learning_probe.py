"""Checks of learning on ComfyUI's T5 and language-model families, run by the host's Python.

``venv/bin/python comfyui_learning_probe.py HOST MODELS WORK`` writes WORK/said.json, for the
checks named in WORK/only.txt alone where that is there. They run inside inference mode, as ComfyUI
runs its nodes, on thin networks with random weights.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfyui_setup
import torch
from comfyui_expected import built as _built
from comfyui_expected import prefix
from comfyui_setup import raises
from comfyui_started import WORK

if True:  # behind the start, which makes the host's modules importable
    import comfy.model_management
    import comfy.model_sampling
    import comfy.sample
    import comfyui_families
    from apl_comfy.clips import apply_prefix, encode
    from apl_comfy.training.denoiser import ComfyDenoiser, sampled_levels
    from apl_comfy.training.encoder import ComfyEncoder
    from apl_comfy.training.pictures import LatentSampler, scheduler_of
    from apl_comfy.training.run import Job, Trained, Watcher, new_folder, train
    from apl_comfy.training.trainable import trainable
    from comfyui_families import Thin, here
    from comfyui_learning import (
        encodes_as_the_host,
        gradient_against_differences,
        state,
        targets,
        tiny,
    )
    from comfyui_networks import model_of, vae_of

from apl_core.errors import HostError
from apl_core.formats import read_prefix
from apl_core.objective import per_example_loss
from apl_core.schedule import Schedule
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.frozen import frozen

TEXTS = ("a photo of Ada Lovelace", "a (red:1.3) house", "word " * 90, "")
SLOW = ("Flux.2 dev",)
"""Its encoder is 31 layers deep and 5,120 wide, and is read as that of Klein is."""

WHOLE = ("Z-Image", "Qwen-Image", "Flux.1")
"""A language model, one whose template is cut and whose latents are a video's, and CLIP with T5."""


def built(name: str) -> Any:
    """The thin CLIP of a family, of ordinary tensors: of others training makes copies, not thin."""
    with torch.inference_mode(False):
        return _built(name)


def some(*names: str) -> Iterator[Thin]:
    """Those of these families that the host has; all but the slow ones without names."""
    for family in here():
        if family.name in names or not (names or family.name in SLOW):
            yield family


def latent(name: str) -> tuple[int, ...]:
    """The shape of a latent of 64 x 64 pixels."""
    sampler = LatentSampler(model_of(name), built(name), vae_of(name), (64, 64), 1, 1.0)
    return sampler.latents.shape(64, 64)[1:]


def check_texts_are_encoded_as_apply_prefix_does() -> None:
    for family in here():
        clip, px = built(family.name), prefix(family)
        encodes_as_the_host(clip, clip, TEXTS, None)
        encodes_as_the_host(clip, apply_prefix(clip, px), TEXTS, px.rows())


def check_gradient_against_finite_differences() -> None:
    for family in some():
        model, clip, px = model_of(family.name), built(family.name), prefix(family, 4, 2)
        gradient_against_differences(model, clip, px.rows(), TEXTS[:1], latent(family.name))


def check_noise_is_predicted_as_the_host_samples() -> None:
    """What the sampler of the host says of its own latents, at each of its own steps."""
    for family in some():
        model, clip = model_of(family.name), built(family.name)
        encoder = ComfyEncoder(clip)
        levels = sampled_levels(model, scheduler_of(model), 4)
        denoiser = ComfyDenoiser(model, 2, levels)
        shape = (1, *latent(family.name))
        seen: list[tuple[Any, Any]] = []
        comfy.sample.sample(
            model,
            torch.randn(shape, generator=torch.Generator().manual_seed(2)),
            4,
            1.0,
            "euler",
            scheduler_of(model),
            encode(clip, encoder.family.written(TEXTS[0])),
            encode(clip, ""),
            torch.zeros(shape),
            callback=lambda _, found, x, __, seen=seen: seen.append((found.clone(), x.clone())),
            disable_pbar=True,
            seed=0,
        )
        texts = encoder.encode(TEXTS[:1], None)
        for at, sigma in enumerate(levels.tolist()[1:], 1):  # at the first nothing is left of x_0
            found, x = seen[at]
            signal, step = 1 - sigma, len(levels) - 1 - at
            x_t = x / (signal**2 + sigma**2) ** 0.5
            predicted = denoiser.predict_noise(x_t, torch.tensor([step]), texts)
            wanted = (x - signal * found) / sigma
            torch.testing.assert_close(predicted, wanted, atol=1e-4, rtol=1e-3)


def check_flows_are_learned_at_the_levels_of_other_hosts() -> None:
    """Those of `apl train` for a flow with the model's own shift."""
    for family in some():
        model = model_of(family.name).clone()
        shifted = comfy.model_sampling.ModelSamplingDiscreteFlow
        kind = type("Shifted", (shifted, comfy.model_sampling.CONST), {})
        for shift in (1.0, 3.0):
            sampling = kind()
            sampling.set_parameters(shift=shift, multiplier=1.0)
            model.add_object_patch("model_sampling", sampling)
            found = ComfyDenoiser(model, 1).schedule
            wanted = Schedule.rectified_flow(shift=shift)
            config = TrainConfig()
            for snr in (config.max_snr, config.max_snr_free):
                share = [one.first_below(snr) / one.steps for one in (found, wanted)]
                assert abs(share[0] - share[1]) < 0.005, (shift, share)
            apart = found.alphas_cumprod[:900] - wanted.alphas_cumprod[:900]
            assert float(apart.abs().max()) < 0.01


def check_texts_of_any_length_are_drawn_together() -> None:
    texts = ["a cat", "a photo of a red house in front of the sea", "a dog", "a cat"]
    for family in some(*WHOLE):
        model, clip, shape = model_of(family.name), built(family.name), latent(family.name)
        encoder, denoiser = ComfyEncoder(clip), ComfyDenoiser(model, 3)
        x = torch.randn((4, *shape), generator=torch.Generator().manual_seed(3))
        t = torch.tensor([100, 500, 700, 900])
        whole = denoiser.predict_noise(x, t, encoder.encode(texts, None))
        for at, text in enumerate(texts):
            one = denoiser.predict_noise(
                x[at : at + 1], t[at : at + 1], encoder.encode([text], None)
            )
            torch.testing.assert_close(whole[at : at + 1], one, atol=1e-4, rtol=1e-3)


def job(**more: Any) -> Job:
    """A job of a few steps, at the guidance that is usual for the family."""
    return replace(tiny(**more), cfg=0.0, preview_every=0)


def learned(name: str, run: str, given: Job, model: bool = True) -> Trained:
    """What a run of this name learns."""
    parts = (model_of(name), built(name), vae_of(name)) if model else (None, built(name), None)
    folder = new_folder(WORK, f"{name} {run}")
    return train(given, *parts, folder, Watcher(lambda *_: None, 1))


def check_a_run_leaves_the_host_as_it_was_and_its_file_is_applied() -> None:
    for family in some(*WHOLE):
        model, clip, vae = model_of(family.name), built(family.name), vae_of(family.name)
        networks = model.model, clip.cond_stage_model, vae.first_stage_model
        sampler = LatentSampler(model, clip, vae, (64, 64), 2, 1.0)
        before, picture = state(*networks), sampler.paint("a cat", 3)
        done = learned(family.name, "one", job())
        assert done.pictures.shape == (6, 64, 64, 3) and len(done.losses) == 3
        assert not torch.equal(done.pictures[0], done.pictures[3])
        assert state(*networks) == before
        assert torch.equal(sampler.paint("a cat", 3), picture)
        stored = read_prefix(WORK / f"{family.name} one" / "prefix.safetensors")
        assert stored.card.family == family.name and stored.digest == done.prefix.digest
        patched = apply_prefix(clip, stored)
        assert not torch.equal(encode(patched, "Ada")[0][0], encode(clip, "Ada")[0][0])


class Again(RunFolder):
    """The folder of a run that goes on."""

    def create(self, config: TrainConfig) -> None:
        """It is there."""


def interrupted(name: str, run: str, given: Job, at: int, model: bool = True) -> RunFolder:
    """The folder of a run that the user stopped behind picture or step `at`."""
    parts = (model_of(name), built(name), vae_of(name)) if model else (None, built(name), None)
    folder = new_folder(WORK, f"{name} {run}")
    networks = [one.model for one in parts[:1] if one] + [built(name).cond_stage_model]
    before = state(*networks)

    def stop(done: int, *_: Any) -> None:
        if done == at:
            comfy.model_management.interrupt_current_processing()

    with raises(comfy.model_management.InterruptProcessingException):
        train(given, *parts, folder, Watcher(stop, 1))
    assert state(*networks) == before
    return folder


def check_an_interrupt_saves_and_the_run_goes_on_to_the_bit() -> None:
    for family in some(*WHOLE):
        given = job(steps=4, save_every=1, validate_every=0)
        whole = learned(family.name, "whole", given)
        folder = interrupted(family.name, "stopped", given, 12 + 2)
        assert read_prefix(folder.prefix).card.steps == 2
        parts = model_of(family.name), built(family.name), vae_of(family.name)
        resumed = train(given, *parts, Again(folder.path), Watcher(lambda *_: None, 1))
        assert resumed.prefix.digest == whole.prefix.digest


def check_texts_alone_need_no_model() -> None:
    for family in some("Z-Image", "Qwen-Image", "SD 3.5", "Flux.1", "Lumina 2"):
        given = job(steps=0, text_steps=2)
        done = learned(family.name, "texts", given, model=False)
        assert done.pictures.shape == (0, 64, 64, 3) and not done.losses
        assert done.verdict.startswith("No picture had a part"), done.verdict
        assert done.prefix.card.family == family.name and not done.prefix.card.figures
        apply_prefix(built(family.name), done.prefix)
        start = replace(given, config=replace(given.config, text_steps=1))
        assert learned(family.name, "fewer", start, model=False).prefix.digest != done.prefix.digest
        folder = interrupted(family.name, "cut", job(steps=0, text_steps=9), 2, model=False)
        assert read_prefix(folder.prefix).n == 4


def check_every_text_state_has_one_to_be_drawn_to() -> None:
    prompt, neutral = "a photo of Ada Lovelace at sea", "a photo of a person at sea"
    for family in some():
        clip, px = built(family.name), prefix(family)
        clip.load_model()  # another check's prefix may still be on the network
        encoder = ComfyEncoder(clip)
        if family.name == "HiDream I1":
            with raises(HostError, "connect a MODEL and a VAE"):
                encoder.aligned(prompt, neutral, px.rows())
            continue
        places = encoder.aligned(prompt, neutral, px.rows())
        states = encoder.encode([prompt], px.rows()).cross[0]
        plain = encoder.encode([neutral], None).cross[0]
        assert len(places) == len(states) and 0 <= min(places) <= max(places) < len(plain)
        same = encoder.aligned(neutral, neutral, px.rows())
        inside = [one for one in same if same.count(one) == 1]
        assert inside == sorted(inside) and len(inside) > 4, (family.name, same)


def check_eight_bit_weights_are_learned_through() -> None:
    name = next((one.name for one in some("Chroma")), "")
    if not name:
        return
    with torch.inference_mode(False):
        clip = comfyui_families.clip_of(next(iter(some(name))))
    transformer = clip.cond_stage_model.t5xxl.transformer
    for module in transformer.modules():
        for key, value in list(module._parameters.items()):
            if value is not None and value.dim() == 2:
                packed = value.to(torch.float8_e4m3fn)
                module._parameters[key] = torch.nn.Parameter(packed, requires_grad=False)
    model = model_of(name, torch.float8_e4m3fn)
    encoder, denoiser = ComfyEncoder(clip), ComfyDenoiser(model, 2)
    table = transformer.get_input_embeddings().weight
    found = encoder.token_embedding("t5xxl")
    assert found.dtype == torch.float16 and torch.equal(found[:50].float(), table[:50].float())
    before = state(model.model)
    rows = prefix(next(iter(some(name)))).rows()
    with trainable(model, clip), frozen([*encoder.modules, *denoiser.modules]), torch.enable_grad():
        given = targets(encoder, denoiser, TEXTS[:2], latent(name))
        live = replace(rows, vectors={"t5xxl": rows.vectors["t5xxl"].clone().requires_grad_()})
        per_example_loss(encoder, denoiser, given, live).sum().backward()
    slope = live.vectors["t5xxl"].grad
    assert slope is not None and bool(slope.isfinite().all()) and float(slope.norm()) > 0
    assert state(model.model) == before


def check_an_encoder_that_is_left_out_is_told() -> None:
    for family in some("SD 3.5"):
        clip = built(family.name).clone()
        with without(clip.cond_stage_model, "t5xxl"), raises(HostError, "no text encoder t5xxl"):
            ComfyEncoder(clip)


@contextmanager
def without(network: Any, key: str) -> Iterator[None]:
    """The text encoders of a file that lacks one."""
    kept = getattr(network, key)
    setattr(network, key, None)
    try:
        yield
    finally:
        setattr(network, key, kept)


if __name__ == "__main__":
    with torch.inference_mode():
        comfyui_setup.report(comfyui_setup.chosen(sys.modules[__name__], WORK), WORK / "said.json")
