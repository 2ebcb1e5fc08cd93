"""A1111 and Forge by their address: sends API requests, and reads what came of them."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from apl_core.errors import HostError
from apl_core.metadata import printable

from .a1111_generate import Schema, request
from .a1111_matrix import Found, Matrix
from .case import Answer, Body, Case
from .http import Client, NoAnswer, status

_PATHS = {"txt2img": "/sdapi/v1/txt2img", "img2img": "/sdapi/v1/img2img"}
_OPTIONS = "/sdapi/v1/options"


@dataclass
class WebuiServer:
    """A webui with `--api` by its address."""

    client: Client
    side: int = 64
    steps: int = 2
    _marks: list[str] = field(default_factory=list[str], init=False)
    _name: str = field(default="", init=False)
    _schema: Schema | None = field(default=None, init=False)

    def status(self) -> Mapping[str, Any]:
        """What `GET /apl/status` answers."""
        said = status(self.client)
        self._name = str(said.get("enforced"))
        families = said.get("families") or {}
        own = families.values() or [{"prefix": self._name, "hash": said.get("hash")}]
        self._marks = [f"APL: {one['prefix']} {one['hash']}" for one in own]
        return said

    def weights(self) -> Mapping[str, Any]:
        """The checkpoint that is drawn with, and the styles and LoRA that a request may name."""
        loaded = str(self._settings(("sd_model_checkpoint",)).get("sd_model_checkpoint"))
        found = self._found()
        return {"checkpoint": loaded, "styles": found.styles, "loras": found.loras}

    def textless(self) -> Case | None:
        """None: a webui always draws with a text."""
        return None

    def cases(self) -> Sequence[Case]:
        """Every case that this server has the files for; the plain one first."""
        return self._matrix().cases()

    def generated(self, seed: int, number: int) -> Case:
        """Request `number` of a seed, by what the server says of its API."""
        if self._schema is None:
            told = self.client.get("/openapi.json")
            if not isinstance(told, dict):
                raise HostError("make requests up", "the server describes none", "start with --api")
            options = self.client.get(_OPTIONS, {})
            samplers = self._names("/sdapi/v1/samplers", "name")
            schedulers = self._names("/sdapi/v1/schedulers", "name")
            self._schema = Schema(told, options, self._found(), samplers, schedulers)
        return request(self._schema, self._matrix(), seed, number)

    def send(self, case: Case) -> Sequence[Answer]:
        """Send all bodies of a case at once, then those that follow; settings are put back."""
        named = {name for body in case.bodies for name in _overridden(body)}
        before = self._settings(named)
        try:
            with ThreadPoolExecutor(len(case.bodies)) as pool:
                answers = list(pool.map(self._send, case.bodies))
            return [*answers, *map(self._send, case.follow)]
        finally:
            self._put_back(before)

    def _put_back(self, before: Mapping[str, Any]) -> None:
        """Give settings their values again.

        A webui takes no overridden setting back that was never saved: a request has to; what even
        that leaves is set by the options.
        """
        try:
            if changed := self._changed(before):
                more = {"override_settings": changed, "override_settings_restore_afterwards": False}
                self._send(self._matrix().body(more))
            if changed := self._changed(before):
                self.client.ask(_OPTIONS, changed)
        except NoAnswer:
            return  # the next request says so

    def _changed(self, before: Mapping[str, Any]) -> dict[str, Any]:
        now = self._settings(before)
        return {name: value for name, value in before.items() if now.get(name) != value}

    def _settings(self, names: Iterable[str]) -> dict[str, Any]:
        """The values of these settings."""
        wanted = list(names)
        try:
            known = self.client.get(_OPTIONS, {}) if wanted else {}
        except NoAnswer:
            return {}
        return {name: known[name] for name in wanted if name in known}

    def _send(self, body: Body) -> Answer:
        request = f"task(apl-{secrets.token_hex(8)})"
        try:
            if "route" in body:
                reply = self.client.ask(str(body["route"]), body["body"])
                said = f"HTTP {reply.status}" if reply.status != 200 else ""
                return Answer(request, refusal=said)
            path = _PATHS["img2img" if "init_images" in body else "txt2img"]
            reply = self.client.ask(path, {**body, "force_task_id": request})
        except NoAnswer as error:
            return Answer(request, refusal=error.found, lost=True)
        if reply.status != 200 or not isinstance(reply.body, dict):
            said = reply.body if isinstance(reply.body, dict) else {}
            words = str(said.get("detail") or said.get("errors") or f"HTTP {reply.status}")
            return Answer(request, refusal=printable(words, 200))
        pictures = tuple(map(_decoded, filter(None, reply.body.get("images") or [])))
        try:
            texts: list[str | None] = json.loads(reply.body["info"])["infotexts"]
        except (KeyError, TypeError, ValueError):
            texts = [""]
        known = [one for one in texts if one is not None]  # grids can have none
        says = all(any(mark in one for mark in self._marks) for one in known)
        return Answer(request, pictures, says, "no picture")

    def _matrix(self) -> Matrix:
        return Matrix(self._found(), self._name, self.side, self.steps)

    def _found(self) -> Found:
        scripts = self.client.get("/sdapi/v1/script-info", [])
        styles = self.client.get("/sdapi/v1/prompt-styles", [])
        return Found(
            {str(one["name"]): one for one in scripts if not one["is_img2img"]},
            {str(one["name"]): one for one in scripts if one["is_img2img"]},
            [str(one["name"]) for one in styles if one.get("prompt")],  # Forge lists headings
            self._names("/sdapi/v1/loras", "name"),
            self._names("/sdapi/v1/sd-models", "title"),
        )

    def _names(self, path: str, key: str) -> list[str]:
        return [str(one[key]) for one in self.client.get(path, [])]


def _overridden(body: Body) -> Mapping[str, Any]:
    """The settings that a request names."""
    found = body.get("body") if "route" in body else body.get("override_settings")
    return found if isinstance(found, Mapping) else {}


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.split(",", 1)[-1])
    except (binascii.Error, ValueError):
        return b""
