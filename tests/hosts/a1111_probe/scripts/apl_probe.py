"""Test extension for A1111 and Forge: shows what reaches the U-Net, gets in the way on request."""

import base64
import sys
from contextlib import contextmanager

import modules.scripts as webui_scripts
import utils
from fastapi import Body
from modules import processing, script_callbacks, sd_samplers_cfg_denoiser, shared

import tests  # like trainer and utils, a package of this very extension
import trainer

try:
    from backend.text_processing.classic_engine import ClassicTextProcessingEngine as Engine
except ImportError:
    from modules.sd_hijack_clip import TextConditionalModel as Engine

SEEN = []
STATE = {"inner": False, "trouble": None}


def _note(params):
    for name, value in (("cond", params.text_cond), ("uncond", params.text_uncond)):
        if value is not None:
            _keep(name, value)


def _keep(name, value):
    data = value.detach().float().cpu().contiguous()
    SEEN.append(
        {
            "what": name,
            "shape": list(data.shape),
            "data": base64.b64encode(data.numpy().tobytes()).decode(),
        }
    )


def _watch_unet():
    """Forge alone: what its U-Net is called with for the positive prompts, batched by itself."""
    from backend.modules.k_model import KModel

    original = _bare(KModel.apply_model)

    def apply_model(model, x, t, *args, **given):
        _keep("unet", given["c_crossattn"][given["transformer_options"]["cond_indices"]])
        return original(model, x, t, *args, **given)

    apply_model.__wrapped__ = original
    KModel.apply_model = apply_model


def _bare(function):
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def _fail(*_args, **_kwargs):
    raise RuntimeError("probe: broken on purpose")


@contextmanager
def _replaced(owner, name, value):
    kept = owner.__dict__.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if kept is None:
            delattr(owner, name)
        else:
            setattr(owner, name, kept)


def _trouble():
    request = processing.StableDiffusionProcessing
    texts = Engine
    return {
        "cond": lambda: _replaced(shared.sd_model, "get_learned_conditioning", _fail),
        "sampling": lambda: _replaced(sd_samplers_cfg_denoiser.CFGDenoiser, "forward", _fail),
        "encoder": lambda: _replaced(texts, "process_texts", _bare(texts.process_texts)),
        "rows": lambda: _replaced(texts, "process_tokens", _drop_rows(texts.process_tokens)),
        "zeroed": lambda: _replaced(texts, "process_tokens", _zero_rows(texts.process_tokens)),
        "conditioning": lambda: _replaced(
            request, "get_conds_with_caching", _bare(request.get_conds_with_caching)
        ),
    }[STATE["trouble"]]()


def _holder(engine):
    return engine.hijack if hasattr(engine, "hijack") else engine.embeddings


def _drop_rows(original):
    def process_tokens(engine, tokens, multipliers):
        _holder(engine).fixes = [[] for _ in tokens]
        return original(engine, tokens, multipliers)

    return process_tokens


def _zero_rows(original):
    """Lets the rows be read, so that the extension is content, and makes nothing of them."""

    def process_tokens(engine, tokens, multipliers):
        for fixes in _holder(engine).fixes:
            for _, embedding in fixes:
                embedding._rows = embedding._rows * 0
        return original(engine, tokens, multipliers)

    return process_tokens


class Probe(webui_scripts.Script):
    def title(self):
        return "APL probe"

    def show(self, is_img2img):
        return webui_scripts.AlwaysVisible

    def postprocess_image(self, p, pp):
        """An inner pass as face-fixing extensions make it: a request of their own, ours in part."""
        if not STATE["inner"]:
            return
        STATE["inner"] = False
        inner = processing.StableDiffusionProcessingImg2Img(
            init_images=[pp.image],
            prompt=p.prompts[0],
            seed=1,
            steps=2,
            width=64,
            height=64,
            denoising_strength=0.9,
            sampler_name="Euler",
            do_not_save_samples=True,
            do_not_save_grid=True,
            extra_generation_params=p.extra_generation_params,
        )
        inner.scripts = None
        processing.process_images(inner)


def _routes(_demo, app):
    @app.post("/probe")
    def set_state(state: dict = Body(...)):  # noqa: B008
        SEEN.clear()
        STATE.update({"inner": False, "trouble": None, **state})
        return STATE

    @app.get("/probe")
    def get_seen():
        return SEEN

    @app.post("/probe/reload")
    def reload():
        shared.state.request_restart()

    @app.get("/probe/model")
    def model():
        forge = hasattr(shared.sd_model, "forge_objects")
        networks = _forge_networks() if forge else [shared.sd_model]
        parameters = [one for network in networks for one in network.parameters()]
        return {
            "learning": sum(one.requires_grad for one in parameters),
            "gradients": sum(one.grad is not None for one in parameters),
            "training": sum(one.training for network in networks for one in network.modules()),
            "sum": float(sum(one.detach().double().sum() for one in parameters)),
            "attention": "" if forge else _attention(),
            "trainable": not forge and shared.sd_model.cond_stage_model.is_trainable,
        }

    @app.get("/probe/packages")
    def packages():
        return sorted(name for name in sys.modules if name.startswith("apl_"))

    @app.get("/probe/owners")
    def owners():
        return [getattr(one, "OWNER", str(one)) for one in (trainer, tests, utils)]

    @app.get("/probe/wrapped")
    def wrapped():
        count, function = 0, processing.StableDiffusionProcessing.get_conds_with_caching
        while hasattr(function, "__wrapped__"):
            count, function = count + 1, function.__wrapped__
        return count


def _forge_networks():
    objects = shared.sd_model.forge_objects
    return [
        objects.unet.model.diffusion_model,
        objects.clip.cond_stage_model,
        objects.vae.first_stage_model,
    ]


def _attention():
    from ldm.modules.attention import CrossAttention

    return repr(CrossAttention.forward)


_inner = _bare(processing.process_images_inner)


def _process_images_inner(p):
    if STATE["trouble"] is None:
        return _inner(p)
    with _trouble():
        return _inner(p)


_process_images_inner.__wrapped__ = _inner
processing.process_images_inner = _process_images_inner
if Engine.__module__.startswith("backend"):
    _watch_unet()
script_callbacks.on_cfg_denoiser(_note)
script_callbacks.on_app_started(_routes)
