"""Made-up requests for A1111 and Forge, by what their API says of itself."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .a1111_matrix import (
    HIRES,
    NBSP,
    WHO,
    Found,
    Matrix,
    Request,
    axes,
    grid_of,
    of_script,
    picture,
)
from .case import NUMBER, PERSON, SALT, Case

_CAPS: Mapping[str, Sequence[Any]] = {
    "batch_size": (1, 2),
    "n_iter": (1, 2),
    "steps": (1, 2, 3),
    "width": (64, 72),
    "height": (64, 72),
    "hr_scale": (1.0, 1.5, 2.0),
    "hr_second_pass_steps": (0, 1, 2),
    "hr_resize_x": (0, 96),
    "hr_resize_y": (0, 96),
    "firstphase_width": (0, 64),
    "firstphase_height": (0, 64),
    "seed_resize_from_w": (-1, 0, 64),
    "seed_resize_from_h": (-1, 0, 64),
    "inpaint_full_res_padding": (0, 32),
    "mask_blur_x": (0, 4),
    "mask_blur_y": (0, 4),
    "mask_blur": (0, 4),
    "cfg_scale": (-7.0, -1.0, 0.0, 0.5, 1.0, 30.0),
    "image_cfg_scale": (-7.0, 0.0, 1.0, 1.5),
    "denoising_strength": (0.4, 0.7, 1.0),
    "resize_mode": (0, 1, 2, 3),
    "inpainting_fill": (0, 1, 2, 3),
    "hr_upscaler": ("Latent", "None"),
}  # what must not grow, and the ends of what has a meaning of its own
_ENDS: Mapping[str, Sequence[Any]] = {
    "integer": (-1, 0, 1, 2, 12),
    "number": (-1.0, 0.0, 0.25, 1.0, 7.0),
    "boolean": (True, False),
}
_OWN = re.compile(
    r"^(prompt|negative_prompt|seed|subseed|init_images|mask|latent_mask|firstpass_image|styles)$"
    r"|^(override_|script_|save_images|send_images|do_not_save|force_task|always|infotext|comments)"
    r"|checkpoint|sampler|scheduler|restore_faces|include_init"
)
"""Fields that are not drawn by their type: texts, what is fixed, and what is built further down."""

_LEFT_OUT = re.compile(
    r"^apl_|save|outdir|_dir|dirs|directories|path|folder|file|checkpoint|vae|unet$|hypernet|model|train"
    r"|dataset|profil|notification|interrogate|deepbooru|localization|gradio|font|explanation|api_"
    r"|extension|restore_|fp8|cache|upcast|t5|face_rest|code_former|compile|auto_launch|log|hash"
    r"|pnginfo|infotext|send_|grid|do_not_show|return_|images|attention_opt|sd_lora|backcompat"
    r"|no_dpmpp|randn_source|enable_console|memmon|dump_|pin_|max_size|temp_|_keep"
)
"""Settings that load something else, write files, hide pictures, or change what randomness is."""

_STRINGS: Mapping[str, Sequence[str]] = {
    "emphasis": ("None", "Ignore", "Original", "No norm"),
    "sd_noise_schedule": ("Default", "Zero Terminal SNR"),
    "hires_fix_refiner_pass": ("first pass", "second pass", "both passes"),
    "ddim_discretize": ("uniform", "quad"),
}
_SLOW = ("DPM adaptive",)
_SAFE_AXES = (
    "Prompt S/R",
    "Prompt order",
    "CFG Scale",
    "Sigma Churn",
    "Eta",
    "Clip skip",
    "Denoising",
    "Negative Guidance minimum sigma",
    "Token merging ratio",
    "Var. strength",
    "Styles",
)


@dataclass(frozen=True)
class Schema:
    """What a webui tells of its API: the OpenAPI page, settings, and names of things."""

    told: Mapping[str, Any]
    options: Mapping[str, Any]
    found: Found
    samplers: Sequence[str]
    schedulers: Sequence[str]

    def fields(self, kind: str) -> dict[str, str]:
        """The fields of a request and their JSON types; `kind` is Txt2Img or Img2Img."""
        name = f"StableDiffusionProcessing{kind}"
        known = self.told.get("components", {}).get("schemas", {}).get(name, {})
        return {
            field: _type(about)
            for field, about in known.get("properties", {}).items()
            if not _OWN.search(field)
        }

    def settings(self) -> dict[str, Any]:
        """Settings that a request may try, with their values."""
        return {
            name: value
            for name, value in sorted(self.options.items())
            if not _LEFT_OUT.search(name)
            and (isinstance(value, (bool, int, float)) or name in _STRINGS)
        }


def request(schema: Schema, matrix: Matrix, seed: int, number: int) -> Case:
    """Request `number` of a seed: the same every time, on servers that tell the same."""
    dice = random.Random(f"{seed}-{number}")
    image = dice.random() < 0.3
    body = matrix.body(_texts(schema.found, dice))
    body["seed"] = dice.randrange(2**31)
    if image:
        body |= {"init_images": [picture(matrix.side)], "denoising_strength": 0.8}
    fields = schema.fields("Img2Img" if image else "Txt2Img")
    for name in dice.sample(sorted(fields), min(len(fields), dice.randint(1, 4))):
        values = _CAPS.get(name, _ENDS.get(fields[name], ()))
        if values:
            body[name] = dice.choice(values)
    if "cfg_scale" not in body and dice.random() < 0.3:
        body["cfg_scale"] = dice.choice(_CAPS["cfg_scale"])
    if not image and dice.random() < 0.2:
        body |= HIRES | {"hr_second_pass_steps": 1}
        if dice.random() < 0.7:
            body |= {"hr_prompt": _prompt(schema.found, dice), "hr_negative_prompt": WHO}
    _sampler(schema, body, dice)
    if settings := _settings(schema, dice, number):
        body["override_settings"] = settings
    if dice.random() < 0.2:
        body |= _script(schema.found, image, matrix, dice)
    if dice.random() < 0.08:
        body["infotext"] = f"{_prompt(schema.found, dice)}\nNegative prompt: {WHO}\nSteps: 2"
        body["styles"] = []
    if PERSON not in f"{body['prompt']}{body['negative_prompt']}":
        body["negative_prompt"] = f"{WHO}, {body['negative_prompt']}"
    return Case(f"g{number}", (body,))


def _texts(found: Found, dice: random.Random) -> Request:
    """Texts on both sides, the person on at least one of them."""
    negative = dice.choice((f"blurry {SALT}", f"blurry {SALT}", "", WHO, _prompt(found, dice)))
    texts: Request = {"prompt": _prompt(found, dice), "negative_prompt": negative}
    if dice.random() < 0.15:
        empty = dice.choice(("", " ", NBSP, " :-1", f"{SALT} :0", "BREAK", " AND ", "()", "<x:1>"))
        texts = {"prompt": empty, "negative_prompt": WHO}
    if found.styles and dice.random() < 0.1:
        texts["styles"] = [dice.choice(found.styles)]
    return texts


def _prompt(found: Found, dice: random.Random, depth: int = 0) -> str:
    """A text of the webui's grammar."""
    one = WHO if depth else dice.choice((f"a photo of {WHO}", WHO))
    if depth > 1:
        return dice.choice((one, "a cat", "a man"))
    two = _prompt(found, dice, depth + 1)
    weight = dice.choice((-3, -1, 0, 0.01, 0.5, 1, 1.5, 10))
    forms = [
        one,
        f"({one}:{weight}) {two}",
        f"(((({one})))) {two}",
        f"[{one}:{two}:0.5]",
        f"[{two}::0.5] {one}",
        f"[{one}|{two}|]",
        f"{one} BREAK {two}",
        f"{two} AND {one} :{weight}",
        f"{one} :{weight} AND {two} :{-weight}",
        f"{one}\n{two}",
        f"\\({one}\\) [[[{two}]]]",
        f"{one} " + "very " * 80 + two,
        f"{one} # {two}",
    ]
    if found.loras and depth == 0:
        lora = found.loras[0]
        forms += [f"{one} <lora:{lora}:{weight}>", f"<lora:{lora}:0.{NUMBER}:0.5> {two}"]
    return dice.choice(forms)


def _sampler(schema: Schema, body: Request, dice: random.Random) -> None:
    names = [one for one in schema.samplers if one not in _SLOW]
    if names and dice.random() < 0.3:
        body["sampler_name"] = dice.choice(names)
    if schema.schedulers and dice.random() < 0.2:
        body["scheduler"] = dice.choice(schema.schedulers)


def _settings(schema: Schema, dice: random.Random, number: int) -> Request:
    """A setting in turn, and some more; each at an end."""
    known = schema.settings()
    if not known:
        return {}
    names = [sorted(known)[number % len(known)]] if dice.random() < 0.7 else []
    names += dice.sample(sorted(known), min(len(known), dice.randrange(3)))
    found: Request = {}
    for name in names:
        value = known[name]
        if name in _STRINGS:
            found[name] = dice.choice(_STRINGS[name])
        elif isinstance(value, bool):
            found[name] = not value
        else:
            kind = "integer" if isinstance(value, int) else "number"
            found[name] = dice.choice((*_ENDS[kind], value))
    return found


def _script(found: Found, image: bool, matrix: Matrix, dice: random.Random) -> Request:
    """One of the webui's own scripts, its arguments at their ends."""
    scripts = found.img2img if image else found.scripts
    names = [name for name, told in scripts.items() if told.get("args")]
    if not names:
        return {}
    script = scripts[dice.choice(names)]
    if script["name"] == "x/y/z plot":
        return _grid(script, dice)
    given = {str(arg["label"]): _argument(arg, matrix, dice) for arg in script["args"]}
    if script.get("is_alwayson"):
        return {"alwayson_scripts": {script["name"]: {"args": list(given.values())}}}
    return of_script(script, given)


def _argument(arg: Mapping[str, Any], matrix: Matrix, dice: random.Random) -> Any:
    label, value = str(arg["label"]).lower(), arg.get("value")
    if "prompt" in label and isinstance(value, str | None) and not arg.get("choices"):
        return WHO
    if "step" in label or "loops" in label:
        return dice.choice((1, matrix.steps))
    if "seed" in label:
        return 1789
    if "pixels" in label or "overlap" in label or "size" in label:
        return dice.choice((arg.get("minimum") or 0, 16))
    if "scale factor" in label:
        return 1.0
    if arg.get("choices") or isinstance(value, str) or dice.random() < 0.3:
        return value  # a choice may be a model to load
    if isinstance(value, bool):
        return not value
    ends = [one for one in (arg.get("minimum"), arg.get("maximum")) if one is not None]
    return dice.choice([*ends, value])


def _grid(script: Mapping[str, Any], dice: random.Random) -> Request:
    known = axes(script)
    axis = dice.choice([one for one in _SAFE_AXES if one in known] or known[:1])
    words = {"Prompt S/R": f"{PERSON}, a cat", "Prompt order": f"{PERSON}, photo"}
    return grid_of(script, axis, words.get(axis, "0, 1"))


def _type(about: Mapping[str, Any]) -> str:
    """The JSON type of a field, also where it may be null."""
    if "type" in about:
        return str(about["type"])
    kinds = [str(one.get("type")) for one in about.get("anyOf", ())]
    return next((one for one in kinds if one != "null"), "")
