"""Checkpoints in the real layouts are recognized and loaded exactly, or refused in a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from slim_checkpoints import FAMILIES, pipeline, write_file

from apl_core.errors import AplError, ConfigError
from apl_trainer.checkpoints.detect import detect
from apl_trainer.checkpoints.load import CheckpointModel, Options, load_checkpoint

PROMPTS = ["a photo of anna brill", "a red circle", ""]
pipe_of = cache(pipeline)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Each family as a folder and as a file."""
    root = tmp_path_factory.mktemp("checkpoints")
    paths: dict[str, Path] = {}
    for family in FAMILIES:
        paths[f"{family} folder"] = root / family
        pipe_of(family).save_pretrained(root / family)
        paths[f"{family} file"] = write_file(
            family, pipe_of(family), root / f"{family}.safetensors"
        )
    yield paths
    shutil.rmtree(root)  # half a gigabyte


def loaded(paths: dict[str, Path], which: str, **options: Any) -> CheckpointModel:
    family = which.split()[0]
    given = Options(tokenizer=paths[f"{family} folder"] / "tokenizer", **options)
    return load_checkpoint(paths[which], given)


KINDS = [f"{family} {layout}" for family in FAMILIES for layout in ("folder", "file")]


@pytest.mark.parametrize("which", KINDS)
def test_networks_are_diffusers_own(written: dict[str, Path], which: str) -> None:
    family = which.split()[0]
    pipe, model = pipe_of(family), loaded(written, which)
    theirs, ours = pipe.unet.state_dict(), model.denoiser.unet.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    pictures = torch.rand(2, 3, 32, 32)
    wanted = torch.cat([pipe.vae.encode(p[None] * 2 - 1).latent_dist.mean for p in pictures])
    latents = model.latents.encode(pictures)
    assert torch.equal(latents, wanted * pipe.vae.config.scaling_factor)
    assert latents.shape[1:] == model.latent_shape(32)
    shown = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5
    torch.testing.assert_close(model.latents.decode(latents), shown.clamp(0, 1))


@pytest.mark.parametrize("which", KINDS)
def test_texts_without_prefix_are_the_pipelines(written: dict[str, Path], which: str) -> None:
    """SD 2.x files hold one layer more than their pipeline uses; here the file has as many."""
    family, layout = which.split()
    pipe, model = pipe_of(family), loaded(written, which)
    ours = model.encoder.encode(PROMPTS, None)
    for i, prompt in enumerate(PROMPTS):
        if family == "sdxl":
            cross, _, pooled, _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
            assert ours.pooled is not None
            torch.testing.assert_close(ours.pooled[i : i + 1], pooled)
        else:
            skip = 1 if (family, layout) == ("sd2", "file") else None
            cross, _ = pipe.encode_prompt(prompt, "cpu", 1, False, clip_skip=skip)
            assert ours.pooled is None
        torch.testing.assert_close(ours.cross[i : i + 1], cross)


@pytest.mark.parametrize("which", KINDS)
def test_noise_predictions_are_the_networks(written: dict[str, Path], which: str) -> None:
    pipe, model = pipe_of(which.split()[0]), loaded(written, which)
    conditioning = model.encoder.encode(PROMPTS[:2], None)
    x_t, t = torch.randn(2, 4, 8, 8), torch.tensor([5, 700])
    added = None
    if conditioning.pooled is not None:
        ids = pipe._get_add_time_ids((32, 32), (0, 0), (32, 32), torch.float32, 1280)
        added = {"text_embeds": conditioning.pooled, "time_ids": ids.expand(2, 6)}
    wanted = pipe.unet(x_t, t, conditioning.cross, added_cond_kwargs=added).sample
    torch.testing.assert_close(model.denoiser.predict_noise(x_t, t, conditioning), wanted)


@pytest.mark.parametrize("skip", [1, 2, 3])
def test_clip_skip_is_the_hosts(written: dict[str, Path], skip: int) -> None:
    ours = loaded(written, "sd1 file", clip_skip=skip).encoder.encode(PROMPTS, None).cross
    for i, prompt in enumerate(PROMPTS):
        theirs, _ = pipe_of("sd1").encode_prompt(prompt, "cpu", 1, False, clip_skip=skip - 1)
        torch.testing.assert_close(ours[i : i + 1], theirs)


def test_a_clip_skip_beyond_the_layers_is_refused(written: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="not possible for clip_l"):
        loaded(written, "sd1 file", clip_skip=4)
    with pytest.raises(ConfigError, match="not possible"):
        loaded(written, "sdxl folder", clip_skip=0)


def test_a_prefix_in_front_is_diffusers_textual_inversion(
    written: dict[str, Path], tmp_path: Path
) -> None:
    """The same vectors through diffusers' own loader give the same first chunk, for SD and SDXL."""
    for family in ("sd1", "sdxl"):
        pipe, model = pipeline(family), loaded(written, f"{family} file")
        rows = {key: torch.randn(4, width) * 0.3 for key, width in model.encoder.widths.items()}
        parts = [(pipe.tokenizer, pipe.text_encoder, "clip_l")]
        if family == "sdxl":
            parts.append((pipe.tokenizer_2, pipe.text_encoder_2, "clip_g"))
        for tokenizer, encoder, key in parts:
            save_file({"<apl>": rows[key]}, tmp_path / f"{key}.safetensors")
            pipe.load_textual_inversion(
                str(tmp_path / f"{key}.safetensors"),
                token="<apl>",
                tokenizer=tokenizer,
                text_encoder=encoder,
                local_files_only=True,
            )
        from apl_core.prefix import Rows

        ours = model.encoder.encode([PROMPTS[0]], Rows(rows))
        found = pipe.encode_prompt(
            f"<apl> {PROMPTS[0]}",
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        torch.testing.assert_close(ours.cross, found[0])
        plain = model.encoder.encode([PROMPTS[0]], None)
        assert (ours.cross - plain.cross).abs().max() > 0.01
        if ours.pooled is not None:
            torch.testing.assert_close(ours.pooled, found[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_read(
    written: dict[str, Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    path = write_file("sd1", pipe_of("sd1"), tmp_path / "half.safetensors", dtype)
    assert detect(path).stored == {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    model = load_checkpoint(path, Options(tokenizer=written["sd1 folder"] / "tokenizer"))
    theirs, ours = pipe_of("sd1").unet.state_dict(), model.denoiser.unet.state_dict()
    assert all(torch.equal(theirs[k].to(dtype).float(), ours[k]) for k in theirs)


def test_it_says_what_it_recognized(written: dict[str, Path]) -> None:
    said = {which: detect(path).sentence for which, path in written.items()}
    assert said["sd1 file"] == (
        "sd1.safetensors: SD 1.x (clip_l 768), single file, fp32, predicts eps"
    )
    assert "SD 2.x (clip_h 1024), diffusers folder" in said["sd2 folder"]
    assert "SDXL (clip_l 768 + clip_g 1280), single file" in said["sdxl file"]


def test_a_flow_is_predicted_as_diffusers_steps_it(tmp_path: Path) -> None:
    """An SDXL that learned by rectified flow: said by its scheduler, or by the user of a file."""
    pipe = pipe_of("sdxl")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    flowing = pipeline("sdxl")
    flowing.register_modules(scheduler=scheduler)
    flowing.save_pretrained(tmp_path / "flow")
    file = write_file("sdxl", pipe, tmp_path / "flow.safetensors")
    assert detect(file).prediction == "eps" and detect(file, "flow").prediction == "flow"
    model = load_checkpoint(tmp_path / "flow")
    assert (model.recognized.prediction, model.recognized.shift) == ("flow", 3.0)
    random = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 4, 16, 16, generator=random) for _ in range(2))
    texts, steps = model.encoder.encode(["a red circle"], None), torch.tensor([700])
    x_t = model.denoiser.schedule.q_sample(clean, noise, steps)
    eps = model.denoiser.predict_noise(x_t, steps, texts)
    # the same place on the path, by diffusers' scheduler: x_t, its time, and a step to no noise
    sigma = float(model.denoiser.schedule.flow[steps])
    torch.testing.assert_close(scheduler.scale_noise(clean, scheduler.timesteps[:1], noise), noise)
    torch.testing.assert_close(x_t, sigma * noise + (1 - sigma) * clean)
    side = 16.0 * model.latents.pixels
    sizes = torch.tensor([[side, side, 0, 0, side, side]])
    added = {"text_embeds": texts.pooled, "time_ids": sizes}
    velocity = flowing.unet(x_t, 1000 * sigma, texts.cross, added_cond_kwargs=added).sample
    scheduler.set_timesteps(sigmas=[sigma])
    scheduler.sigmas = torch.tensor([sigma, 0.0])  # it has shifted the given one once more
    ended = scheduler.step(velocity, scheduler.timesteps[0], x_t).prev_sample
    torch.testing.assert_close((x_t - sigma * eps) / (1 - sigma), ended, atol=1e-4, rtol=1e-4)


def test_v_prediction_is_found(written: dict[str, Path], tmp_path: Path) -> None:
    pipeline("sd2", v=True).save_pretrained(tmp_path / "v")
    assert detect(tmp_path / "v").prediction == "v"
    marked = write_file(
        "sdxl",
        pipe_of("sdxl"),
        tmp_path / "v.safetensors",
        v_pred=torch.tensor([]),
        ztsnr=torch.tensor([]),
    )
    found = detect(marked)
    assert (found.prediction, found.zero_snr) == ("v", True)
    weights = load_file(written["sd2 file"])
    save_file(weights, tmp_path / "said.safetensors", {"modelspec.prediction_type": "v"})
    assert detect(tmp_path / "said.safetensors").prediction == "v"
    assert detect(tmp_path / "said.safetensors", "eps").prediction == "eps"
    model = load_checkpoint(marked, Options(tokenizer=written["sdxl folder"] / "tokenizer"))
    x_t, t = torch.randn(1, 4, 8, 8), torch.tensor([300])
    texts = model.encoder.encode(["a red circle"], None)
    eps = model.denoiser.predict_noise(x_t, t, texts)
    model.denoiser.kind = "eps"
    v = model.denoiser.predict_noise(x_t, t, texts)
    kept = model.denoiser.schedule.alphas_cumprod[300]
    torch.testing.assert_close(eps, kept.sqrt() * v + (1 - kept).sqrt() * x_t)
    assert float(model.denoiser.schedule.alphas_cumprod[-1]) < 1e-7


def changed(source: Path, path: Path, **changes: torch.Tensor | None) -> Path:
    """A copy of a file with tensors replaced, added or (None) left out; `__` stands for a dot."""
    weights = load_file(source)
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            weights = {k: v for k, v in weights.items() if not k.startswith(name)}
        else:
            weights[name] = value
    save_file(weights, path)
    return path


UNET_IN = "model__diffusion_model__input_blocks__0__0__weight"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({UNET_IN: torch.zeros(32, 9, 3, 3)}, "inpainting"),
        ({UNET_IN: torch.zeros(32, 8, 3, 3)}, "edits pictures"),
        ({"cond_stage_model": None}, "without its text encoder"),
        ({"first_stage_model": None}, "weights of its VAE are missing"),
        ({"model__diffusion_model": None, "cond_stage_model": None}, "VAE alone"),
        ({"model__diffusion_model__joint_blocks__0": torch.zeros(1)}, "Stable Diffusion 3"),
        ({"model__diffusion_model__double_blocks__0": torch.zeros(1)}, "Flux"),
        ({"control_model__x": torch.zeros(1)}, "ControlNet"),
        ({"model__diffusion_model__out__2__weight": None}, "are missing"),
        ({"model__diffusion_model__middle_block__0": None}, "incomplete or of another build"),
        ({"model__diffusion_model__extra": torch.zeros(2)}, "1 weights have no place"),
        ({"model__diffusion_model__x__scale_weight": torch.zeros(1)}, "quantized"),
        ({UNET_IN: torch.zeros(32, 4, 3, 3).to(torch.float8_e4m3fn)}, "quantized (F8_E4M3)"),
    ],
)
def test_what_cannot_be_used_is_refused(
    written: dict[str, Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = changed(written["sd1 file"], tmp_path / "bad.safetensors", **changes)
    with pytest.raises(AplError) as caught:
        load_checkpoint(path, Options(tokenizer=written["sd1 folder"] / "tokenizer"))
    assert said in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_files_that_are_no_checkpoint_are_refused(written: dict[str, Path], tmp_path: Path) -> None:
    whole = written["sd1 file"].read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "old.ckpt").write_bytes(b"PK\x03\x04")
    (tmp_path / "text.safetensors").write_text("not at all")
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    save_file({"emb_params": torch.zeros(2, 768)}, tmp_path / "ti.safetensors")
    save_file({"something.else": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    refiner = {
        k.replace("embedders.1", "embedders.0"): v
        for k, v in load_file(written["sdxl file"]).items()
        if "embedders.0" not in k
    }
    save_file(refiner, tmp_path / "refiner.safetensors")
    for name, said in (
        ("cut", "cut off"),
        ("old", "pickle"),
        ("text", "cut off"),
        ("lora", "LoRA"),
        ("ti", "textual inversion"),
        ("foreign", "something.else"),
        ("refiner", "refiner"),
        ("nowhere", "there is no"),
    ):
        ending = "ckpt" if name == "old" else "safetensors"
        with pytest.raises(AplError) as caught:
            detect(tmp_path / f"{name}.{ending}")
        assert said in str(caught.value), name


def test_folders_that_cannot_be_used_are_refused(written: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AplError, match=r"model_index\.json is missing"):
        detect(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "SanaPipeline"}))
    with pytest.raises(AplError, match="SanaPipeline"):
        detect(tmp_path)
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline"})
    )
    with pytest.raises(AplError, match="unet"):
        detect(tmp_path)


def test_a_vocabulary_that_does_not_belong_is_refused(
    written: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(AplError, match=r"vocab\.json"):
        load_checkpoint(written["sd1 file"], Options(tokenizer=tmp_path))
