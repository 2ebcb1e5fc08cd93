"""Test extension for A1111 and Forge: shows what reaches the U-Net, gets in the way on request."""

import base64
import gc
import hashlib
import importlib.util
import re
import sys
from contextlib import ExitStack, contextmanager

import host_residue as residue  # copied here by a1111_host.py
import modules.scripts as webui_scripts
import utils
from fastapi import Body
from modules import (
    extra_networks,
    processing,
    prompt_parser,
    script_callbacks,
    sd_samplers_cfg_denoiser,
    shared,
)

import tests  # like trainer and utils, a package of this very extension
import trainer

try:
    from backend.text_processing.classic_engine import ClassicTextProcessingEngine as Engine
except ImportError:
    from modules.sd_hijack_clip import TextConditionalModel as Engine

_REFORGE = bool(
    importlib.util.find_spec("modules_forge")
    and importlib.util.find_spec("modules_forge.forge_clip")
)
SEEN = []
START = {"inner": False, "trouble": None, "watch": True, "digest": False, "late": ""}
STATE = dict(START)
TROUBLE = re.compile(r"probe:(\w+)")
"""In a prompt: trouble for this request alone, whoever else asks at the same time."""


def _note(params):
    if STATE["digest"]:  # the picture says which conditioning it was made with
        said = params.denoiser.p.extra_generation_params
        data = _crossattn(params.text_cond).detach().float().cpu().contiguous().numpy().tobytes()
        said["Probe"] = hashlib.sha256(said.get("Probe", "").encode() + data).hexdigest()[:16]
    if not STATE["watch"]:
        return
    for name, value in (("cond", params.text_cond), ("uncond", params.text_uncond)):
        if value is not None:
            _keep(name, _crossattn(value))
        if isinstance(value, dict):  # SDXL
            _keep(f"{name} vector", value["vector"])


def _crossattn(value):
    return value["crossattn"] if isinstance(value, dict) else value


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
        if STATE["watch"]:
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


def _trouble(which):
    request = processing.StableDiffusionProcessing
    texts = Engine
    return {
        "cond": lambda: _replaced(shared.sd_model, "get_learned_conditioning", _fail),
        "sampling": lambda: _replaced(sd_samplers_cfg_denoiser.CFGDenoiser, "forward", _fail),
        "encoder": lambda: _replaced(texts, "process_texts", _bare(texts.process_texts)),
        "rows": lambda: _replaced(texts, "process_tokens", _drop_rows(texts.process_tokens)),
        "zeroed": lambda: _replaced(texts, "process_tokens", _zero_rows(texts.process_tokens)),
        "second pass": lambda: _replaced(
            processing.StableDiffusionProcessingTxt2Img, "calculate_hr_conds", _own_hr_conds
        ),
        "after the swap": lambda: _replaced(
            processing.StableDiffusionProcessingTxt2Img, "get_conds", _own_conds
        ),
        "switch": lambda: _replaced(sys.modules["apl_a1111.guidance"], "COVERS_NEGATIVE", True),
        "guidance": lambda: _replaced(
            sd_samplers_cfg_denoiser.CFGDenoiser, "combine_denoised", _only_the_negative
        ),
        "conditioning": lambda: _replaced(
            request, "get_conds_with_caching", _bare(request.get_conds_with_caching)
        ),
        "swallowing": lambda: _swallowing(request, texts),
        "ungated": lambda: _ungated(texts),
        "turns": lambda: _bare_turns(),
        "open turns": lambda: _bare_turns(lambda: None),
    }[which]()


def _conds(prompts, negatives):
    """Conditioning as an extension makes it that calls the webui's own functions."""
    return (
        prompt_parser.get_multicond_learned_conditioning(shared.sd_model, prompts, 4),
        prompt_parser.get_learned_conditioning(shared.sd_model, negatives, 4),
    )


def _own_hr_conds(p):
    p.hr_c, p.hr_uc = _conds(p.hr_prompts, p.hr_negative_prompts)


def _own_conds(p):
    return _conds(p.prompts, p.negative_prompts)


@contextmanager
def _swallowing(request, texts):
    """Encodes bare, and goes on with zeros when that is refused."""
    original = request.get_conds_with_caching

    def get_conds_with_caching(p, function, prompts, steps, *args):
        try:
            return original(p, function, prompts, steps, *args)
        except Exception:
            zeros = shared.sd_model.cond_stage_model_empty_prompt[0] * 0
            schedule = [prompt_parser.ScheduledPromptConditioning(steps, zeros)]
            if getattr(prompts, "is_negative_prompt", False):
                return [schedule] * len(prompts)
            part = prompt_parser.ComposableScheduledPromptConditioning(schedule)
            return prompt_parser.MulticondLearnedConditioning((len(prompts),), [[part]])

    with (
        _replaced(texts, "process_texts", _bare(texts.process_texts)),
        _replaced(request, "get_conds_with_caching", get_conds_with_caching),
    ):
        yield


@contextmanager
def _ungated(texts):
    """Takes operator mode's gate off and leaves the trace, which is deeper."""
    layer = sys.modules["apl_a1111.hosts"].choose_host().embedding_class()
    with (
        _replaced(texts, "process_texts", _bare(texts.process_texts)),
        _replaced(texts, "process_tokens", _bare(texts.process_tokens)),
        _replaced(layer, "forward", layer.forward.__wrapped__),
    ):
        yield


@contextmanager
def _bare_turns(check=None):
    """Neo alone: the loaded checkpoint's language model reads texts as if there was no gate.

    With another `check` its table of embeddings does not look whether they are covered, either.
    """
    held = vars(shared.sd_model).values()
    kind = next(type(one) for one in held if hasattr(type(one), "tokenize_line"))
    with ExitStack() as stack:
        for name in ("tokenize", "tokenize_line", "process_tokens"):
            stack.enter_context(_replaced(kind, name, _bare(getattr(kind, name))))
        if check is not None:
            stack.enter_context(_replaced(sys.modules["apl_a1111.turns"], "require_covered", check))
        yield


def _only_the_negative(_denoiser, x_out, _conds_list, uncond, _cond_scale):
    return x_out[-uncond.shape[0] :].clone()


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

    def process(self, p):
        """Wildcards, as extensions for them work: the prompts change when the request runs."""
        p.all_prompts = [one.replace("__somebody__", "Ada Example") for one in p.all_prompts]

    def before_process_batch(self, p, **_kwargs):
        """Prompts that are written when all other scripts have seen them."""
        if STATE["late"]:
            p.prompts = [one + STATE["late"] for one in p.prompts]

    def postprocess_image(self, p, pp):
        """An inner pass as face-fixing extensions make it: a request of their own, ours in part."""
        if not STATE["inner"]:
            return
        hands_on, STATE["inner"] = STATE["inner"] != "alone", False
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
            extra_generation_params=p.extra_generation_params if hands_on else {},
        )
        # reForge asks every pass for its scripts
        inner.scripts = webui_scripts.ScriptRunner() if _REFORGE else None
        processing.process_images(inner)


def _routes(_demo, app):
    @app.post("/probe")
    def set_state(state: dict = Body(...)):  # noqa: B008
        SEEN.clear()
        STATE.update({**START, **state})
        return STATE

    @app.get("/probe/state")
    def state():
        return _state()

    @app.get("/probe/memory")
    def memory():
        gc.collect()
        return residue.megabytes()

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


def _state():
    """All that has to be the same before and after."""
    forge = hasattr(shared.sd_model, "forge_objects")
    owners = (
        processing.StableDiffusionProcessing,
        processing.StableDiffusionProcessingTxt2Img,
        processing.StableDiffusionProcessingImg2Img,
        sd_samplers_cfg_denoiser.CFGDenoiser,
        webui_scripts.ScriptRunner,
        *(Engine, processing, prompt_parser, extra_networks),
    )
    caches = {
        f"{owner.__name__}.{name}": [type(part).__name__ for part in value]
        + [hasattr(part, "apl_key") for part in value]
        for owner in owners[:2]
        for name, value in vars(owner).items()
        if name.startswith("cached_") and isinstance(value, list)
    }
    networks = _forge_networks() if forge else [shared.sd_model]
    return {
        **residue.everywhere(),
        "classes": residue.attributes(*owners),
        "random": residue.randomness(),
        "alive": residue.alive(
            "StableDiffusionProcessingTxt2Img", "StableDiffusionProcessingImg2Img"
        ),
        "networks": [residue.network(one) for one in networks],
        "engine": _engine_state(Engine.__module__.startswith("backend")),
        "caches": caches,
        "settings": {name: repr(value) for name, value in shared.opts.data.items()},
        "extra networks": sorted(extra_networks.extra_network_registry),
        "callbacks": {k: len(v) for k, v in script_callbacks.callback_map.items()},
    }


def _engine_state(forge):
    if forge:
        from backend.args import dynamic_args
        from backend.text_processing import classic_engine

        engine, noted = shared.sd_model.text_processing_engine, "last_extra_generation_params"
        owner = dynamic_args if hasattr(dynamic_args, noted) else classic_engine  # the first in Neo
        return {
            "held": residue.keys(engine),
            "embeddings": sorted(engine.embeddings.word_embeddings),
            "said": sorted(getattr(owner, noted)),
        }
    from modules.sd_hijack import model_hijack

    return {
        "held": residue.keys(shared.sd_model.cond_stage_model),
        "hijack": residue.keys(model_hijack),
        "embeddings": sorted(model_hijack.embedding_db.word_embeddings),
        "said": sorted(model_hijack.extra_generation_params),
        "comments": len(model_hijack.comments),
    }


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


_inner = processing.process_images_inner
while hasattr(_inner, "apl_probe"):  # ours of before a reload
    _inner = _inner.__wrapped__


def _process_images_inner(p):
    asked = TROUBLE.search(str(p.prompt))
    which = asked[1] if asked else STATE["trouble"]
    if which is None:
        return _inner(p)
    with _trouble(which):
        return _inner(p)


_process_images_inner.__wrapped__ = _inner
_process_images_inner.apl_probe = True
processing.process_images_inner = _process_images_inner
if Engine.__module__.startswith("backend"):
    _watch_unet()
script_callbacks.on_cfg_denoiser(_note)
script_callbacks.on_app_started(_routes)
