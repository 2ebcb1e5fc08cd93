"""The matrix for A1111 and Forge: API requests that try to get a text past the prefix."""

from __future__ import annotations

import base64
import json
import secrets
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from apl_core.metadata import shown

from .http import Client, status
from .proof import Answer, Case

_PATHS = {"txt2img": "/sdapi/v1/txt2img", "img2img": "/sdapi/v1/img2img"}
_HIRES = {
    "enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7,
    "hr_second_pass_steps": 2,
    "hr_additional_modules": ["Use same choices"],  # Forge fails without; A1111 does not know it
}  # fmt: skip


@dataclass
class WebuiServer:
    """A webui with `--api` by its address."""

    client: Client
    side: int = 64
    steps: int = 2
    _mark: str = field(default="", init=False)
    _name: str = field(default="", init=False)

    def status(self) -> Mapping[str, Any]:
        """What `GET /apl/status` answers."""
        said = status(self.client)
        self._name = str(said.get("enforced"))
        self._mark = f"APL: {said.get('enforced')} {said.get('hash')}"
        return said

    def cases(self) -> Sequence[Case]:
        """Every case that this server has the files for."""
        requests: dict[str, dict[str, Any]] = {
            "plain": {},
            "negative prompt": {"negative_prompt": _unique("blurry, a (dog:1.2)")},
            "emphasis": {"prompt": _unique("a (photo:1.3) of a [man]")},
            "schedule": {"prompt": _unique("[a cat:a man:0.5]"), "steps": 4},
            "alternation": {"prompt": _unique("[a cat|a man]"), "steps": 4},
            "AND": {"prompt": f"{_unique('a cat')} AND {_unique('a man')} :0.7"},
            "BREAK": {"prompt": f"{_unique('a cat')} BREAK {_unique('a man')}"},
            "8 chunks": {"prompt": _unique(" ".join(f"man {i}" for i in range(180)))},
            "batch of 2": {"batch_size": 2},
            "two batches": {"n_iter": 2},
            "hires fix": _HIRES,
            "hires fix, own prompt": {**_HIRES, "hr_prompt": _unique("a man, detailed")},
            "img2img": {"init_images": [_picture(self.side)], "denoising_strength": 0.7},
            "clip skip": {"override_settings": {"CLIP_stop_at_last_layers": 2}},
            "guidance of 1": {"cfg_scale": 1.0},
            "switched off": _script(False, ""),
            "another prefix": _script(True, "another"),
            "few steps only": _script(True, self._name, 0.9, 1.0),
            "broken arguments": _script("no", 3, [], {}),
            "no scripts": {"alwayson_scripts": {}},
            "tag": {"prompt": _unique("a man <apl:another>")},
            "tag of few steps": {"prompt": _unique(f"a man <apl:{self._name}:0.9-1>")},
            "pasted parameters": {
                "styles": [],  # without them Forge answers every infotext with an error
                "infotext": "a man\nSteps: 2, APL prefix: another, APL steps: 0-0.1, APL: off",
            },
            "settings": {"override_settings": {"apl_on_by_default": False}},
            "settings of folders": {"override_settings": {"apl_folders": "/"}},
            "old emphasis": {"override_settings": {"use_old_emphasis_implementation": True}},
            "wildcards": {"prompt": _unique("a photo of {a cat|a man}, __somebody__")},
            "prompt matrix": {
                "prompt": _unique("a man|a cat"),
                "script_name": "prompt matrix",
                "script_args": [False, False, "positive", "comma", 0],
            },
        }
        requests |= self._of_this_server()
        found = [Case(name, (self._body(body),)) for name, body in requests.items()]
        found.append(Case("two users at once", (self._body({}), self._body(_script(False, "")))))
        return found

    def send(self, case: Case) -> Sequence[Answer]:
        """Send all bodies of a case at once, and put settings back that they changed."""
        named = {name for body in case.bodies for name in body.get("override_settings", {})}
        before = self._settings(named)
        with ThreadPoolExecutor(len(case.bodies)) as pool:
            answers = list(pool.map(self._send, case.bodies))
        now = self._settings(named)
        if changed := {name: value for name, value in before.items() if now.get(name) != value}:
            # a webui takes no overridden setting back that was never saved: a request has to
            self._send(
                self._body(
                    {
                        "override_settings": changed,
                        "override_settings_restore_afterwards": False,
                    }
                )
            )
        return answers

    def _settings(self, names: Iterable[str]) -> dict[str, Any]:
        """The values of these settings."""
        known = self.client.get("/sdapi/v1/options", {}) if names else {}
        return {name: known[name] for name in names if name in known}

    def _send(self, body: Mapping[str, Any]) -> Answer:
        path = _PATHS["img2img" if "init_images" in body else "txt2img"]
        reply = self.client.ask(path, body)
        request = str(body["force_task_id"])
        if reply.status != 200 or not isinstance(reply.body, dict):
            said = reply.body if isinstance(reply.body, dict) else {}
            words = str(said.get("detail") or said.get("errors") or f"HTTP {reply.status}")
            return Answer(request, 0, refusal=shown(words, 200))
        pictures = [one for one in reply.body.get("images", []) if one]
        texts: list[str] = json.loads(reply.body["info"])["infotexts"]
        return Answer(request, len(pictures), all(self._mark in one for one in texts))

    def _of_this_server(self) -> dict[str, dict[str, Any]]:
        """Cases that need a style, a LoRA, a second checkpoint or one of the webui's scripts."""
        found: dict[str, dict[str, Any]] = {}
        told = self.client.get("/sdapi/v1/script-info", [])
        scripts = {str(one["name"]): one for one in told if not one["is_img2img"]}
        known = self.client.get("/sdapi/v1/prompt-styles", [])
        styles = [str(one["name"]) for one in known if one.get("prompt")]  # Forge lists headings
        loras = [str(one["name"]) for one in self.client.get("/sdapi/v1/loras", [])]
        models = [str(one["title"]) for one in self.client.get("/sdapi/v1/sd-models", [])]
        if styles:
            found["styles"] = {"styles": styles[:2]}
        if loras:
            lora = f"<lora:{loras[0]}:0.5>"
            found["LoRA"] = {"prompt": _unique(f"a man {lora}")}
            found["LoRA, hires fix"] = {
                **_HIRES, "prompt": _unique(f"a man {lora}"), "hr_prompt": _unique(f"a cat {lora}")
            }  # fmt: skip
        if "prompts from file or textbox" in scripts:
            lines = f'{_unique("a man")}\n--prompt "{_unique("a cat")}" --negative_prompt "x"'
            found["list of prompts"] = _of_script(
                scripts["prompts from file or textbox"], {"List of prompt inputs": lines}
            )
        found |= _grids(scripts.get("x/y/z plot"))
        if len(models) > 1:
            found["refiner"] = {
                "refiner_checkpoint": models[1], "refiner_switch_at": 0.5, "steps": 4
            }  # fmt: skip
            found["another checkpoint"] = {
                "override_settings": {"sd_model_checkpoint": models[1]},
                "override_settings_restore_afterwards": True,
            }
        return found

    def _body(self, more: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "prompt": _unique("a photo of a man"),
            "steps": self.steps, "width": self.side, "height": self.side,
            "seed": secrets.randbelow(2**31), "sampler_name": "Euler",
            "save_images": False, "force_task_id": f"task(apl-{secrets.token_hex(8)})", **more,
        }  # fmt: skip


def _script(*arguments: Any) -> dict[str, Any]:
    return {"alwayson_scripts": {"APL": {"args": list(arguments)}}}


def _of_script(script: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A request that runs a selectable script, its arguments by label, the rest as it comes."""
    given = [values.get(str(arg["label"]), arg.get("value")) for arg in script["args"]]
    return {"script_name": script["name"], "script_args": given}


def _grids(script: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Grids whose axes replace words, take the prefix away, or confine it to some steps."""
    if script is None:
        return {}
    plain: dict[str, Any] = {f"{axis} type": 0 for axis in "XYZ"}
    plain |= {f"{axis} values": "" for axis in "XYZ"}
    plain |= {"Use text inputs instead of dropdowns": True, "Draw legend": False}
    words = [secrets.token_hex(4) for _ in range(3)]  # one each: a cache would hide its encoding
    axes = {
        "Prompt S/R": ("grid of words", words[0], f"{words[0]}, a man, a cat"),
        "[APL] Anonymize": ("grid that switches it off", words[1], "off, on"),
        "[APL] Steps": ("grid of few steps", words[2], "0.9-1"),
    }
    choices: list[str] = next((arg["choices"] for arg in script["args"] if arg.get("choices")), [])
    return {
        case: {
            "prompt": f"a photo of {word}",
            **_of_script(script, {**plain, "X type": choices.index(axis), "X values": values}),
        }
        for axis, (case, word, values) in axes.items()
        if axis in choices
    }


def _unique(text: str) -> str:
    """The text with a word that no cache has seen."""
    return f"{text} {secrets.token_hex(4)}"


def _picture(side: int) -> str:
    """A grey square as a base64 PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    lines = (b"\0" + b"\x80" * (3 * side)) * side
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    png += chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return base64.b64encode(png).decode()
