"""Learning on A1111's own SD 2.x and SDXL classes, on small random networks.

Run by the host's Python: `a1111_training_engines.py WEBUI REPOSITORY HUB`. Conditioner, U-Nets and
the way to call them are the webui's; text towers are three layers deep, U-Nets one level wide.
Prints checks that hold as JSON.
"""

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import a1111_engines as engines

sys.path.append(str(Path(__file__).parents[1] / "fixtures"))
import lesson_digest
import torch
from apl_a1111 import hooks
from apl_a1111.training.material import make_latents
from apl_a1111.training.ports import HostDenoiser, HostEncoder, refuse_unfit
from ldm.util import instantiate_from_config
from modules import devices, sd_models_xl
from omegaconf import OmegaConf
from sgm.modules.diffusionmodules.openaimodel import UNetModel
from sgm.modules.diffusionmodules.wrappers import OpenAIWrapper
from sgm.modules.encoders.modules import ConcatTimestepEmbedderND, GeneralConditioner

from apl_core.errors import HostError
from apl_core.formats import read_prefix
from apl_core.training import batches
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder
from apl_core.training.learner import learner
from apl_core.training.loop import Model
from apl_core.training.material import Material, pictures_to_draw
from apl_core.training.people import people_in

engines.apl_hosting.load(Path(engines.REPOSITORY) / "trainer", "apl_trainer")  # as the tab does
batches.CAPTIONS = 4  # what errors are counted in takes no minute then
HOST, CHECKS = engines.HOST, engines.CHECKS
UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [1],
    "num_res_blocks": 1,
    "channel_mult": [1],
    "num_head_channels": 32,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "transformer_depth": 1,
}


def shaken(network):
    """Last layers that do not start at zero: a model that ignores its text could hide anything."""
    with torch.no_grad():
        for value in network.parameters():
            if value.dim() > 1 and not value.any():
                value.normal_(std=0.2 * value[0].numel() ** -0.5)
    return network.eval()


def sd2():
    """ldm's LatentDiffusion that predicts v, with A1111's OpenCLIP engine."""
    network = {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel"}
    params = {
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "timesteps": 1000,
        "num_timesteps_cond": 1,
        "image_size": 8,
        "channels": 4,
        "parameterization": "v",
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "conditioning_key": "crossattn",
        "cond_stage_config": "__is_unconditional__",
        "first_stage_config": {"target": "torch.nn.Identity"},
        "unet_config": {
            **network,
            "params": {**UNET, "image_size": 8, "context_dim": 1024, "legacy": False},
        },
        "use_ema": False,
    }
    target = "ldm.models.diffusion.ddpm.LatentDiffusion"
    model = instantiate_from_config(OmegaConf.create({"target": target, "params": params}))
    model.cond_stage_model = engines.sd2_engine()
    model.cond_stage_forward, model.lowvram = None, False
    model.model.conditioning_key = "crossattn"
    return shaken(model)


class SDXL(torch.nn.Module):
    """What A1111 makes of sgm's DiffusionEngine, as far as learning touches it."""

    get_learned_conditioning = sd_models_xl.get_learned_conditioning
    apply_model = sd_models_xl.apply_model
    is_sdxl_inpaint = lowvram = False
    parameterization = "eps"

    def __init__(self):
        super().__init__()
        self.conditioner = GeneralConditioner([])
        sizes = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
        for key, embedder in (
            ("txt", engines.clip_l_engine()),
            ("txt", engines.clip_g_engine()),
            *((size, ConcatTimestepEmbedderND(256)) for size in sizes),
        ):
            embedder.input_key, embedder.legacy_ucg_val = key, None
            embedder.is_trainable = False
            self.conditioner.embedders.append(embedder)
        more = {"context_dim": 2048, "num_classes": "sequential", "adm_in_channels": 2816}
        self.model = OpenAIWrapper(shaken(UNetModel(**UNET, **more)))
        self.alphas_cumprod = torch.linspace(0.9991**0.5, 0.0047**0.5, 1000) ** 2


def learn(family, model, keys):
    """Two steps of the real learner on a model, its gradient, and the model afterwards."""
    frozen = [one.requires_grad for one in model.parameters()]
    trainable = [one.is_trainable for one in HOST.engines(model)]
    before = sum(one.detach().double().sum() for one in model.parameters())
    encoder, denoiser = HostEncoder(HOST, model, 64), HostDenoiser(model)
    refuse_unfit(HOST, model)
    CHECKS[f"{family}, widths"] = set(encoder.widths) == set(keys)
    folder, people = Path(tempfile.mkdtemp()), people_in(lesson_digest.NAMES)
    config = TrainConfig.from_mapping(lesson_digest.SETTINGS | {"steps": 2, "micro_batch": 1})
    shown = pictures_to_draw(people, lesson_digest.PER_NAME, config.seed)
    path, shape = folder / "latents.safetensors", (4, 8, 8)
    latents = make_latents(path, encoder, denoiser, shown, shape, config.seed, lambda *_: None, 2)
    CHECKS[f"{family}, latents"] = bool(latents.isfinite().all())
    random = torch.Generator().manual_seed(0)
    check_gradient(family, encoder, denoiser, torch.randn((1, *shape), generator=random))
    run = RunFolder(folder / "run")
    run.create(config)
    material = Material(shown, latents.__getitem__)
    trainer = learner(config, Model(encoder, denoiser, family), material, people, run)
    CHECKS[f"{family}, lessons {lesson_digest.digest(trainer)}"] = True
    trainer.validator = None  # it takes minutes; ComfyUI's checks have it
    trainer.run()
    prefix = read_prefix(run.prefix)
    losses = [row["loss"] for row in run.rows() if row.get("loss") is not None]
    CHECKS[f"{family}, two finite losses"] = len(losses) == 2 and all(0 < x < 1e3 for x in losses)
    CHECKS[f"{family}, prefix"] = set(prefix.keys) == set(keys) and prefix.n == 4
    after = sum(one.detach().double().sum() for one in model.parameters())
    CHECKS[f"{family}, weights untouched"] = bool(before == after)
    CHECKS[f"{family}, no gradient left"] = all(one.grad is None for one in model.parameters())
    CHECKS[f"{family}, frozen as before"] = frozen == [p.requires_grad for p in model.parameters()]
    again = [one.is_trainable for one in HOST.engines(model)]
    CHECKS[f"{family}, trainable as before"] = trainable == again


def check_gradient(family, encoder, denoiser, latent):
    """Length of autograd's gradient against central differences along it, encoder by encoder."""
    torch.manual_seed(5)
    prefix = engines.prefix_of(6, 2, **encoder.widths)
    t = torch.tensor([300])
    for key, start in prefix.vectors.items():

        def loss(moved, key=key):
            rows = prefix.rows()
            rows = type(rows)({**rows.vectors, key: moved}, rows.behind)
            eps = denoiser.predict_noise(latent, t, encoder.encode(["a man"], rows))
            return eps.double().square().mean()

        leaf = start.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf)
        length = float(gradient.norm())
        # the difference's error shrinks with the square of the step: 7 % at a tenth of the length
        step = 0.02 * float(start.norm())
        ahead, behind = (loss(start + way * step * gradient / length) for way in (1, -1))
        slope = float(ahead - behind) / (2 * step)
        CHECKS[f"{family}, {key}, gradient {length:.3e} is {slope:.3e}"] = (
            abs(length - slope) <= 0.01 * length
        )


def main():
    torch.manual_seed(0)
    devices.device = torch.device("cpu")
    devices.dtype = devices.dtype_unet = devices.dtype_vae = torch.float32
    hooks.install(HOST)
    learn("SD 2.x", sd2(), ["clip_h"])
    sdxl = SDXL()
    learn("SDXL", sdxl, ["clip_l", "clip_g"])
    del sdxl.conditioner.embedders[0]
    for name, model in (
        ("refiner", sdxl),
        ("inpainting", SimpleNamespace(model=sdxl.model, is_sdxl_inpaint=True, lowvram=False)),
    ):
        try:
            refuse_unfit(HOST, model)
            CHECKS[f"SDXL, {name} refused"] = False
        except HostError:
            CHECKS[f"SDXL, {name} refused"] = True
    hooks.remove(HOST)
    print(json.dumps(CHECKS))


main()
