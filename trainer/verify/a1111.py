"""The matrix for A1111 and Forge: API requests that try to get a text past the prefix."""

from __future__ import annotations

import base64
import json
import secrets
import struct
import zlib
from collections.abc import Mapping, Sequence
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
_NEW_EMPHASIS = {
    "override_settings": {"use_old_emphasis_implementation": False},
    "override_settings_restore_afterwards": False,
}
"""A1111 does not take an overridden setting back that was never saved: a request has to."""


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
        """Send all bodies of a case at once."""
        with ThreadPoolExecutor(len(case.bodies)) as pool:
            answers = list(pool.map(self._send, case.bodies))
        if case.name == "old emphasis":
            self._send(self._body(_NEW_EMPHASIS))
        return answers

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
        """Cases that need a style, a LoRA or a second checkpoint."""
        found: dict[str, dict[str, Any]] = {}
        known = self.client.get("/sdapi/v1/prompt-styles", [])
        styles = [str(one["name"]) for one in known if one.get("prompt")]  # Forge lists headings
        loras = [str(one["name"]) for one in self.client.get("/sdapi/v1/loras", [])]
        models = [str(one["title"]) for one in self.client.get("/sdapi/v1/sd-models", [])]
        if styles:
            found["styles"] = {"styles": styles[:2]}
        if loras:
            found["LoRA"] = {"prompt": _unique(f"a man <lora:{loras[0]}:0.5>")}
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
