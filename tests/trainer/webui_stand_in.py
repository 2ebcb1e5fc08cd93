"""A small webui on loopback whose pictures hang on the texts that its encoder reads.

Real HTTP, real PNG files and a real signed trace; noise by the texts stands for what a model draws.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from apl_core.trace import TraceWriter, key_of

DIGEST = "d" * 64
KEY = "the operator's long secret"
Body = Mapping[str, Any]
FIELDS = {"cfg_scale": "number", "n_iter": "integer", "tiling": "boolean", "prompt": "string"}


class StandIn:
    """One server; leave it as a context manager to stop it.

    `enforces` puts a prefix before every text. `leak` says of a request whether its picture is
    drawn bare all the same, while trace and metadata say that it is covered; `forgets` which texts
    are traced and drawn without the prefix; `answers` may answer instead of drawing.
    """

    def __init__(
        self, enforces: bool = False, trace: Path | None = None, weights: str = "w"
    ) -> None:
        self.enforces, self.weights = enforces, weights
        self.trace = TraceWriter(trace, key_of(KEY)) if trace else None
        if self.trace:
            self.trace.write("start", {"enforced": "house"})
        self.leak: Callable[[Body], bool] = lambda body: False
        self.forgets: Callable[[str], bool] = lambda text: False
        self.answers: Callable[[Body], tuple[int, Any] | None] = lambda body: None
        self.options: dict[str, Any] = {
            "sd_model_checkpoint": weights,
            "CLIP_stop_at_last_layers": 1,
            "tiling": False,
        }
        self.pages: dict[str, Any] = {}
        self.drawn: list[Body] = []

    def __enter__(self) -> StandIn:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def get(self, path: str) -> Any:
        """The answer to a GET; None where there is no page."""
        properties = {name: {"type": kind} for name, kind in FIELDS.items()}
        schemas = {
            f"StableDiffusionProcessing{kind}": {"properties": properties}
            for kind in ("Txt2Img", "Img2Img")
        }
        status = {
            "enforced": "house",
            "digest": DIGEST,
            "hash": DIGEST[:10],
            "trace": self.trace is not None,
        }
        pages = {
            "/apl/status": status if self.enforces else None,
            "/sdapi/v1/options": self.options,
            "/openapi.json": {"components": {"schemas": schemas}},
            **{
                f"/sdapi/v1/{name}": []
                for name in (
                    "script-info",
                    "prompt-styles",
                    "loras",
                    "sd-models",
                    "samplers",
                    "schedulers",
                )
            },
        }
        return {**pages, **self.pages}.get(path)

    def post(self, path: str, body: Body) -> tuple[int, Any]:
        """Status and answer of a POST."""
        if path == "/sdapi/v1/options":
            self.options |= body
            return 200, None
        sticks = not body.get("override_settings_restore_afterwards", True)
        kept = dict(self.options)
        self.options |= body.get("override_settings", {})
        try:
            return self.answers(body) or (200, self._draw(body))
        finally:
            if not sticks:
                self.options = kept

    def _draw(self, body: Body) -> Any:
        self.drawn.append(body)
        bare = not self.enforces or self.leak(body)
        texts = [
            self._read(str(body.get(side, "")), bare, body)
            for side in ("prompt", "negative_prompt")
        ]
        count = int(body.get("n_iter", 1)) * int(body.get("batch_size", 1))
        pictures = [self._picture(texts, body, number) for number in range(count)]
        says = f"x\nAPL: house {DIGEST[:10]}" if self.enforces else "x"
        return {"images": pictures, "info": json.dumps({"infotexts": [says] * count})}

    def _read(self, text: str, bare: bool, body: Body) -> str:
        forgotten = self.forgets(text)
        if self.trace:
            carried = {} if forgotten else {DIGEST: [1]}
            facts = {
                "request": body["force_task_id"],
                "side": "positive",
                "encoder": "clip_l",
                "words": len(text.split()),
                "carried": carried,
            }
            self.trace.write("chunk", facts)
        return text if bare or forgotten else f"prefix {text}"

    def _picture(self, texts: list[str], body: Body, number: int) -> str:
        facts = [self.weights, body.get("seed"), number]
        if body.get("denoising_strength") != 0:
            facts += texts
        seed = int.from_bytes(hashlib.sha256(json.dumps(facts).encode()).digest()[:8], "big")
        noise = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        data = io.BytesIO()
        Image.fromarray(noise).save(data, "PNG")
        return base64.b64encode(data.getvalue()).decode()


def _handler(server: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

        def do_GET(self) -> None:
            found = server.get(self.path)
            self._say(404 if found is None else 200, found)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._say(*server.post(self.path, body))

        def _say(self, code: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler
