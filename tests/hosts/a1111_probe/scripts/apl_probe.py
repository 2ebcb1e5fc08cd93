"""Test extension for A1111: shows what reaches the U-Net, and puts things in the way on request."""

import base64
import sys
from contextlib import contextmanager

import modules.scripts as webui_scripts
import modules.sd_hijack_clip as engines
import utils
from fastapi import Body
from ldm.modules.attention import CrossAttention
from modules import processing, script_callbacks, sd_samplers_cfg_denoiser, shared

import tests  # like trainer and utils, a package of this very extension
import trainer

SEEN = []
STATE = {"inner": False, "trouble": None}


def _note(params):
    for name, value in (("cond", params.text_cond), ("uncond", params.text_uncond)):
        data = value.detach().float().cpu().contiguous()
        SEEN.append(
            {
                "what": name,
                "shape": list(data.shape),
                "data": base64.b64encode(data.numpy().tobytes()).decode(),
            }
        )


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
    texts = engines.TextConditionalModel
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


def _drop_rows(original):
    def process_tokens(engine, tokens, multipliers):
        engine.hijack.fixes = [[] for _ in tokens]
        return original(engine, tokens, multipliers)

    return process_tokens


def _zero_rows(original):
    """Lets the rows be read, so that the extension is content, and makes nothing of them."""

    def process_tokens(engine, tokens, multipliers):
        for fixes in engine.hijack.fixes:
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
        parameters = list(shared.sd_model.parameters())
        return {
            "learning": sum(one.requires_grad for one in parameters),
            "gradients": sum(one.grad is not None for one in parameters),
            "training": sum(one.training for one in shared.sd_model.modules()),
            "sum": float(sum(one.detach().double().sum() for one in parameters)),
            "attention": repr(CrossAttention.forward),
            "trainable": shared.sd_model.cond_stage_model.is_trainable,
            "packages": sorted(name for name in sys.modules if name.startswith("apl_")),
        }

    @app.get("/probe/owners")
    def owners():
        return [getattr(one, "OWNER", str(one)) for one in (trainer, tests, utils)]

    @app.get("/probe/wrapped")
    def wrapped():
        count, function = 0, processing.StableDiffusionProcessing.get_conds_with_caching
        while hasattr(function, "__wrapped__"):
            count, function = count + 1, function.__wrapped__
        return count


_inner = _bare(processing.process_images_inner)


def _process_images_inner(p):
    if STATE["trouble"] is None:
        return _inner(p)
    with _trouble():
        return _inner(p)


_process_images_inner.__wrapped__ = _inner
processing.process_images_inner = _process_images_inner
script_callbacks.on_cfg_denoiser(_note)
script_callbacks.on_app_started(_routes)
