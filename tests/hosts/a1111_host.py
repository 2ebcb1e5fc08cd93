"""A real A1111 on the CPU, started in a folder of its own and spoken to through its HTTP API.

forge_host.py says what is different in Forge.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import host_server
import torch
from host_server import REPOSITORY, Server, hosts_folder, python
from PIL import Image
from torch import Tensor

WRITER = Path(__file__).with_name("a1111_checkpoint.py")
PROBE = Path(__file__).with_name("a1111_probe")
RESIDUE = Path(__file__).with_name("host_residue.py")
EXTENSION = ("a1111_extension", "apl_core", "trainer", "scripts", "localizations", "javascript")
OPTIONS = (
    *("--skip-torch-cuda-test", "--use-cpu", "all", "--no-half", "--skip-version-check"),
    *("--no-hashing", "--no-download-sd-model", "--api"),
)
FILES = ("apl_hosting.py", "install.py", "preload.py", "metadata.ini")


def installed(name: str = "a1111") -> Path | None:
    """A webui with a virtual environment of its own, if there is one.

    Links are followed: gradio serves nothing to a browser that lies in a hidden folder.
    """
    host = (hosts_folder() / name).resolve()
    return host if python(host).exists() and (host / "launch.py").exists() else None


def models(host: Path) -> Path:
    """A folder with the random checkpoint, its configuration and the vocabulary."""
    last, env = "random.yaml", environment(host)
    return host_server.written("a1111", WRITER, host, env, last, "random.safetensors")


def environment(host: Path, **extra: str) -> dict[str, str]:
    """A host process's environment: offline, one thread, no operator mode unless `extra` says."""
    more = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    assets = host / "repositories" / "stable-diffusion-webui-assets"
    if assets.is_dir():  # Forge Neo has none
        ask = ["git", "-C", str(assets), "rev-parse", "HEAD"]
        head = subprocess.run(ask, capture_output=True, text=True, check=True)
        more["ASSETS_COMMIT_HASH"] = head.stdout.strip()
    return host_server.host_environment("APL_", **more, **extra)


def copy_extension(target: Path) -> Path:
    """The parts of this repository that A1111 uses, as a clone in its extensions folder."""
    for name in EXTENSION:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(
                REPOSITORY / name, target / name, ignore=shutil.ignore_patterns("__pycache__")
            )
    for name in FILES:
        shutil.copy(REPOSITORY / name, target / name)
    return target


class Refused(host_server.Refused):
    """The host answered with an error: its HTTP status and what it said."""

    def __init__(self, status: int, said: dict[str, Any]) -> None:
        super().__init__(status, said)
        self.status = status
        self.sentence = str(said.get("detail") or said.get("errors") or said)


@dataclass
class Answer:
    """What an image request gave."""

    images: list[bytes]
    info: dict[str, Any]

    @property
    def pixels(self) -> str:
        """A hash of the pixels alone: what PNGs say about themselves differs on purpose."""
        return hashlib.sha256(b"".join(map(_pixels, self.images))).hexdigest()

    @property
    def infotext(self) -> str:
        return self.info["infotexts"][0]

    def distance(self, other: Answer) -> float:
        """Mean difference of the first pictures' pixels, 0 to 255."""
        one, another = (_values(answer.images[0]) for answer in (self, other))
        return float((one - another).abs().mean())


@dataclass
class Webui(Server):
    """One running A1111; leave it as a context manager to stop the process."""

    name: ClassVar[str] = "A1111"
    options: ClassVar[Sequence[str]] = OPTIONS
    pasting: ClassVar[dict[str, Any]] = {}
    quick_preview: ClassVar[str] = "Approx cheap"
    """Its way to show latents that needs no network."""
    beside: ClassVar[Sequence[Path]] = ()
    """Scripts of the tests that are extensions of their own."""

    source: Path
    data: Path
    arguments: Sequence[str] = ()
    env: dict[str, str] = field(default_factory=dict[str, str])
    clones: Sequence[str] = ("apl-prefix",)
    login: str = ""

    @property
    def prefixes(self) -> Path:
        """Its folder with prefix files."""
        return self.data / "models" / "apl"

    def __enter__(self) -> Webui:
        extensions = self.data / "extensions"
        self.prefixes.mkdir(parents=True, exist_ok=True)
        if not extensions.exists():
            shutil.copytree(PROBE, extensions / "apl-probe")
            shutil.copy(RESIDUE, extensions / "apl-probe")
            for name in self.clones:
                copy_extension(extensions / name)
            for script in self.beside:
                folder = extensions / script.stem / "scripts"
                folder.mkdir(parents=True)
                shutil.copy(script, folder)
        random = self.random()
        checkpoints = self.data / "models" / "Stable-diffusion"
        checkpoints.mkdir(parents=True, exist_ok=True)
        for name in ("first", "second"):
            for suffix in (".safetensors", ".yaml"):
                link, file = checkpoints / f"{name}{suffix}", random / f"random{suffix}"
                if file.exists() and not link.exists():
                    link.symlink_to(file)
        command = [str(python(self.source)), "launch.py", "--data-dir", str(self.data)]
        command += self.choosing(checkpoints / "first.safetensors")
        command += [*self.options, *self.arguments]
        env = environment(self.source, HUGGINGFACE_HUB_CACHE=str(random / "hub"), **self.env)
        self.launch(command, self.source, env, self.data)
        return self

    def choosing(self, checkpoint: Path) -> list[str]:
        """Options that make it the loaded one."""
        return ["--ckpt", str(checkpoint)]

    def random(self) -> Path:
        """The folder with the random checkpoint."""
        return models(self.source)

    def ask_for_readiness(self) -> None:
        """It is not asked earlier: a request that comes while A1111 still adds its API ends it."""
        if "Startup time:" not in self.log():
            raise ConnectionError("it is still starting")
        self.get("/probe/wrapped")

    def reload(self) -> None:
        """Press "Reload UI", and wait until everything is there again."""
        starts = self.log().count("Startup time:")
        self.post("/probe/reload", {})
        while self.log().count("Startup time:") == starts:
            time.sleep(1)
        self.wait_until_ready()

    def get(self, path: str) -> Any:
        """The JSON answer to a GET; Refused."""
        return self._ask(urllib.request.Request(self.url + path))

    def post(self, path: str, body: object) -> Any:
        """The JSON answer to a POST; Refused."""
        header = {"Content-Type": "application/json"}
        return self._ask(urllib.request.Request(self.url + path, json.dumps(body).encode(), header))

    def _ask(self, request: urllib.request.Request) -> Any:
        if self.login:
            login = base64.b64encode(self.login.encode()).decode()
            request.add_header("Authorization", f"Basic {login}")
        try:
            with urllib.request.urlopen(request, timeout=900) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(error.code, json.loads(error.read() or b"{}")) from None

    def draw(self, prompt: str = "a photo of a man", *args: object, **more: Any) -> Answer:
        """A 64x64 picture in 2 steps; `args` are the script's, `more` the request's; Refused."""
        body: dict[str, Any] = {"steps": 2, "width": 64, "height": 64, "seed": 1, "prompt": prompt}
        body |= {"sampler_name": "Euler"} | more
        if args:
            body["alwayson_scripts"] = {"apl": {"args": list(args)}}
        return self.answer(f"/sdapi/v1/{'img2img' if 'init_images' in body else 'txt2img'}", body)

    def pasted(self, infotext: str) -> Answer:
        """What a request gives that is nothing but pasted parameters; Refused."""
        return self.answer("/sdapi/v1/txt2img", {"infotext": infotext, **self.pasting})

    def answer(self, path: str, body: object) -> Answer:
        """What an image route answers to a body as it is; Refused."""
        said = self.post(path, body)
        return Answer([base64.b64decode(one) for one in said["images"]], json.loads(said["info"]))

    def probe(self, **state: object) -> None:
        """Forget what was seen, and set what the test extension shall do."""
        self.post("/probe", state)

    def seen(self, what: str = "cond") -> list[Tensor]:
        """Conditioning (B, tokens, width) of every step since `probe`, as the U-Net got it."""
        return [
            torch.frombuffer(bytearray(base64.b64decode(one["data"])), dtype=torch.float32).reshape(
                one["shape"]
            )
            for one in self.get("/probe")
            if one["what"] == what
        ]


def _values(png: bytes) -> Tensor:
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).float()


def _pixels(png: bytes) -> bytes:
    place, data = 8, b""
    while place < len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        if png[place + 4 : place + 8] in (b"IHDR", b"IDAT"):
            data += png[place + 8 : place + 8 + length]
        place += 12 + length
    return data


def checks(by: Path, script: str, *arguments: object) -> dict[str, bool]:
    """What a script of this folder says, run by a host's Python."""
    here = Path(__file__).parent
    done = subprocess.run(
        [str(part) for part in (python(by), here / script, *arguments)],
        env=environment(by),
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
