"""The matrix for A1111 and Forge: API requests that try to get a text past the prefix."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .case import NUMBER, PERSON, SALT, SPELLED, Case

Request = dict[str, Any]
WHO = f"{PERSON} {SALT}"
NBSP = "\N{NO-BREAK SPACE}"
HIRES: Request = {
    "enable_hr": True,
    "hr_scale": 2,
    "hr_upscaler": "None",  # the only one that every webui has
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 2,
    "hr_additional_modules": ["Use same choices"],  # Forge fails without; A1111 does not know it
}
_NEAR_TAGS = (
    "<APL:another>",
    "< apl:another>",
    "<apl>",
    "<apl:another",
    "&lt;apl:another&gt;",
    "\N{FULLWIDTH LESS-THAN SIGN}apl:another\N{FULLWIDTH GREATER-THAN SIGN}",
)
_EXTENSION = "apl-prefix"


@dataclass(frozen=True)
class Found:
    """What a webui says that it has: scripts of either tab by name, and names of the rest."""

    scripts: Mapping[str, Mapping[str, Any]]
    img2img: Mapping[str, Mapping[str, Any]]
    styles: Sequence[str] = ()
    loras: Sequence[str] = ()
    models: Sequence[str] = ()


@dataclass(frozen=True)
class Matrix:
    """Requests for a webui that has these things; `name` is the prefix that it enforces."""

    found: Found
    name: str
    side: int
    steps: int

    def cases(self) -> list[Case]:
        """Every case that this server has the files for; the plain one first."""
        requests = {
            **self._texts(),
            **self._negatives(),
            **self._passes(),
            **self._by_file(),
            **self._scripts(),
        }
        cases = [Case(name, (self.body(more),)) for name, more in requests.items()]
        cases += self._ours()
        cases += self._settings()
        users = (self.body({}), self.body({"prompt": f"a woman, {WHO}"}))
        return [*cases, Case("two users at once", users)]

    def body(self, more: Mapping[str, Any]) -> Request:
        """A small request with a fixed seed, and these fields."""
        return {
            "prompt": f"a photo of {WHO}",
            "negative_prompt": f"blurry {SALT}",
            "steps": self.steps,
            "width": self.side,
            "height": self.side,
            "seed": 1789,
            "subseed": 5,
            "sampler_name": "Euler",
            "save_images": False,
            **more,
        }

    def _texts(self) -> dict[str, Request]:
        return {
            "plain": {},
            "negative prompt": {"negative_prompt": f"{WHO}, a (dog:1.2)"},
            "no negative prompt": {"negative_prompt": ""},
            "emphasis": {"prompt": f"a (photo:1.3) of a [{WHO}]"},
            "schedule": {"prompt": f"[a cat:{WHO}:0.5]", "steps": 4},
            "alternation": {"prompt": f"[a cat|{WHO}]", "steps": 4},
            "AND": {"prompt": f"a cat AND {WHO} :0.7"},
            "BREAK": {"prompt": f"a cat BREAK {WHO}"},
            "8 chunks": {"prompt": WHO + " ".join(f" man {i}" for i in range(180))},
            "batch of 2": {"batch_size": 2},
            "two batches": {"n_iter": 2},
            "clip skip": {"override_settings": {"CLIP_stop_at_last_layers": 2}},
            "no scripts": {"alwayson_scripts": {}},
            **{
                f"a turn or an end of {whose}": {"prompt": text.format(WHO)}
                for whose, text in SPELLED.items()
            },
            "wildcards": {"prompt": f"{WHO} {{a cat|a man}}, __somebody__"},
            "pasted parameters": {
                "styles": [],  # without them Forge answers every infotext with an error
                "infotext": f"{WHO}, pasted\nNegative prompt: x {SALT}\nSteps: 2, "
                "APL prefix: another, APL steps: 0-0.1, APL: off",
            },
        }

    def _negatives(self) -> dict[str, Request]:
        """Requests that the negative text draws, or that leave the other one empty."""
        negative = f"a photo of {WHO}"
        weighted = {
            "a weight of -1 on nothing": " :-1",
            "a weight of 0": f"{SALT} :0",
            "a weight of -2": f"{SALT} :-2",
            "weights of 1 and -3": f"{SALT} AND dog :-3",
        }
        empty = {"": "empty prompt", NBSP * 3: "no-break spaces", ",": "a comma"}
        drawn: dict[str, Request] = {said: {"prompt": text} for said, text in weighted.items()}
        for cfg in (0.0, 0.5, -7.0):
            drawn[f"guidance of {cfg:g}"] = {"prompt": f"a cat {SALT}", "cfg_scale": cfg}
        drawn |= {said: {"prompt": text, "cfg_scale": 0.0} for text, said in empty.items()}
        found: dict[str, Request] = {
            f"{said}, the negative draws": {**more, "negative_prompt": negative}
            for said, more in drawn.items()
        }
        return {**found, "guidance of 1": {"cfg_scale": 1.0}}

    def _passes(self) -> dict[str, Request]:
        image = {"init_images": [picture(self.side)], "denoising_strength": 0.7}
        own = {"hr_prompt": f"{WHO}, detailed", "hr_negative_prompt": f"{WHO}, plain"}
        return {
            "hires fix": HIRES,
            "hires fix, own prompts": {**HIRES, **own},
            "hires fix, negative draws": {**HIRES, **own, "hr_prompt": " :-1", "hr_cfg": 0.0},
            "img2img": image,
            "img2img, guidance of -7": {**image, "cfg_scale": -7.0, "negative_prompt": WHO},
        }

    def _by_file(self) -> dict[str, Request]:
        """What needs a style, a LoRA or a second checkpoint."""
        found: dict[str, Request] = {}
        if self.found.styles:
            found["styles"] = {"styles": [*self.found.styles[:2]]}
        if self.found.loras:
            lora = f"<lora:{self.found.loras[0]}:0.{NUMBER}>"
            found["LoRA"] = {"prompt": f"{WHO} {lora}"}
            found["LoRA, hires fix"] = {
                **HIRES,
                "prompt": f"{WHO} {lora}",
                "hr_prompt": f"a cat {WHO} {lora}",
            }
            for said, text in {"": lora, " and no-break spaces": f"{NBSP}{lora}{NBSP}"}.items():
                found[f"LoRA alone{said}"] = {"prompt": text, "negative_prompt": ""}
        if len(self.found.models) > 1:
            found["refiner"] = {
                "refiner_checkpoint": self.found.models[1],
                "refiner_switch_at": 0.5,
                "steps": 4,
            }
            found["another checkpoint"] = {
                "override_settings": {"sd_model_checkpoint": self.found.models[1]},
                "override_settings_restore_afterwards": True,
            }
        return found

    def _scripts(self) -> dict[str, Request]:
        """What the webui's own selectable scripts do with texts."""
        found: dict[str, Request] = {
            "prompt matrix": {
                "prompt": f"{WHO}|a cat",
                "script_name": "prompt matrix",
                "script_args": [False, False, "positive", "comma", 0],
            }
        }
        listed = self.found.scripts.get("prompts from file or textbox")
        if listed is not None:
            lines = f'{WHO}\n--prompt "a cat, {WHO}" --negative_prompt "x"'
            found["list of prompts"] = of_script(listed, {"List of prompt inputs": lines})
        grid = self.found.scripts.get("x/y/z plot")
        if grid is not None and "Prompt S/R" in axes(grid):
            found["grid of words"] = {
                "prompt": f"a photo of {SALT}",
                **grid_of(grid, "Prompt S/R", f"{SALT}, {WHO}, a cat"),
            }
        inverse = self.found.img2img.get("img2img alternative test")
        if inverse is not None:
            values = {
                "Original prompt": WHO,
                "Original negative prompt": f"x {SALT}",
                "Decode steps": self.steps,
            }
            image = {"init_images": [picture(self.side)], "denoising_strength": 1.0}
            found["img2img alternative test"] = {**image, **of_script(inverse, values)}
        return found

    def _ours(self) -> list[Case]:
        """Requests that ask this project for less; a bare server gets them without that."""
        plain = self.body({})
        script = {
            "switched off": [False, ""],
            "another prefix": [True, "another"],
            "few steps only": [True, self.name, 0.9, 1.0],
            "broken arguments": ["no", 3, [], {}],
        }
        found = [
            Case(name, (self.body({"alwayson_scripts": {"APL": {"args": args}}}),), (plain,))
            for name, args in script.items()
        ]
        tags = {"tag": "<apl:another>", "tag of few steps": f"<apl:{self.name}:0.9-1>"}
        tags |= {f"nearly a tag: {one}": one for one in _NEAR_TAGS}
        for name, tag in tags.items():
            for where, what in (("prompt", WHO), ("negative_prompt", f"blurry {SALT}")):
                said = name if where == "prompt" else f"{name}, negative"
                found.append(Case(said, (self.body({where: f"{what} {tag}"}),), (plain,)))
        for name, value in {
            "settings": {"apl_on_by_default": False},
            "settings of folders": {"apl_folders": "/"},
        }.items():
            found.append(Case(name, (self.body({"override_settings": value}),), (plain,)))
        grid = self.found.scripts.get("x/y/z plot")
        for axis, values in {"[APL] Anonymize": "off, on", "[APL] Steps": "0.9-1"}.items():
            if grid is not None and axis in axes(grid):
                more = grid_of(grid, axis, values, cells=True)
                found.append(Case(f"grid of {axis}", (self.body(more),), (plain,)))
        return found

    def _settings(self) -> list[Case]:
        """Settings that take the extension off or stick after a refusal; then a plain request."""
        plain = self.body({})
        settings: dict[str, Request] = {
            "old emphasis": {"use_old_emphasis_implementation": True},
            "extension off": {"disabled_extensions": [_EXTENSION]},
            "all extensions off": {"disable_all_extensions": "all"},
        }
        found: list[Case] = []
        for name, values in settings.items():
            for sticks in (False, True):
                more = {
                    "override_settings": values,
                    "override_settings_restore_afterwards": not sticks,
                }
                said = f"{name}, kept" if sticks else name
                found.append(Case(said, (self.body(more),), (plain,), (plain,)))
            route = {"route": "/sdapi/v1/options", "body": values}
            found.append(Case(f"{name}, by the options", (route,), (), (plain,)))
        return found


def of_script(script: Mapping[str, Any], values: Mapping[str, Any]) -> Request:
    """A request that runs a selectable script, its arguments by label, the rest as it comes."""
    given = [values.get(str(arg["label"]), arg.get("value")) for arg in script["args"]]
    return {"script_name": script["name"], "script_args": given}


def axes(grid: Mapping[str, Any]) -> list[str]:
    """The axes that a grid offers."""
    return next((arg["choices"] for arg in grid["args"] if arg.get("choices")), [])


def grid_of(grid: Mapping[str, Any], axis: str, values: str, *, cells: bool = False) -> Request:
    """A grid along one axis; with `cells` its pictures come one by one, too."""
    plain: Request = {f"{one} type": 0 for one in "XYZ"} | {f"{one} values": "" for one in "XYZ"}
    plain |= {"Use text inputs instead of dropdowns": True, "Draw legend": False}
    plain |= {"Include Sub Images": cells}
    given = {**plain, "X type": axes(grid).index(axis), "X values": values}
    return of_script(grid, given)


def picture(side: int) -> str:
    """A gray square as a base64 PNG."""
    data = io.BytesIO()
    Image.new("RGB", (side, side), (128, 128, 128)).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()
