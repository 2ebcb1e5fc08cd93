"""A real ComfyUI on the CPU, started in a folder of its own and spoken to through its HTTP API."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import host_server
from host_server import REPOSITORY, Server, hosts_folder, python

from apl_trainer.verify import comfyui_graphs as graphs
from apl_trainer.verify.comfyui_nodes import Graph, node

WRITER = Path(__file__).with_name("comfyui_checkpoint.py")


def installed() -> list[Path]:
    """Every ComfyUI with a virtual environment in the hosts' folder."""
    return [
        main.parent
        for main in sorted(hosts_folder().glob("*/main.py"))
        if python(main.parent).exists() and (main.parent / "comfyui_version.py").exists()
    ]


def pack(name: str, host: Path) -> Path | None:
    """A pack of somebody else's: `packs/NAME`, or `packs/HOST/NAME` for a host of another time."""
    places = [hosts_folder() / "packs" / host.name / name, hosts_folder() / "packs" / name]
    return next((place for place in places if (place / "__init__.py").exists()), None)


def environment(**extra: str) -> dict[str, str]:
    """The environment of a host process: one thread, no operator mode unless `extra` says so.

    Some packs look whether pytest runs and then do nothing.
    """
    return host_server.host_environment("APL_", "PYTEST_", **extra)


def models(host: Path) -> Path:
    """A models folder with random checkpoints."""
    last = "vae/random_vae.safetensors"
    return host_server.written("comfyui", WRITER, host, environment(), last)


class Refused(host_server.Refused):
    """The host did not make what the graph asks for; `nodes` says which node said what."""

    def __init__(self, nodes: dict[str, str], answer: Any) -> None:
        super().__init__(f"{nodes or answer}")
        self.nodes = nodes
        self.answer = answer


@dataclass
class Result:
    """What a finished graph left: its history entry and the files it saved."""

    host: Host
    entry: dict[str, Any]

    def images(self) -> list[bytes]:
        """Every saved picture, as PNG bytes."""
        outputs = self.entry["outputs"].values()
        return [self.host.view(image) for output in outputs for image in output.get("images", [])]

    def text(self, node: str) -> str:
        """The text that a node shows."""
        return "".join(self.entry["outputs"][node]["text"])


@dataclass
class Host(Server):
    """One running ComfyUI; leave it as a context manager to stop the process."""

    name: ClassVar[str] = "ComfyUI"

    source: Path
    base: Path
    with_pack: bool = True
    packs: Sequence[Path] = ()
    arguments: Sequence[str] = ()
    env: dict[str, str] = field(default_factory=dict[str, str])

    def __enter__(self) -> Host:
        packs = self.base / "custom_nodes"
        packs.mkdir(parents=True, exist_ok=True)
        link = packs / "apl-prefix"
        if self.with_pack and not link.exists():
            link.symlink_to(REPOSITORY, target_is_directory=True)
        for pack in self.packs:
            if not (packs / pack.name).exists():
                (packs / pack.name).symlink_to(pack, target_is_directory=True)
        paths = self.base / "paths.yaml"
        kinds = ("checkpoints", "diffusion_models", "text_encoders", "vae")
        folder = models(self.source).as_posix()
        lines = [f"  {kind}: {kind}" for kind in kinds]
        paths.write_text("\n".join(["random:", f"  base_path: {folder}", *lines, ""]))
        command = [str(python(self.source)), "main.py", "--cpu", "--disable-auto-launch"]
        command += ["--listen", "127.0.0.1"]
        command += ["--base-directory", str(self.base), "--extra-model-paths-config", str(paths)]
        command += self.arguments
        self.launch(command, self.source, environment(**self.env), self.base)
        return self

    def ask_for_readiness(self) -> None:
        """URLError or ConnectionError while the server does not listen."""
        self.get("/system_stats")

    def raw(self, path: str) -> bytes:
        """The body of the answer to a GET."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def get(self, path: str) -> Any:
        """The JSON answer to a GET."""
        return json.loads(self.raw(path))

    def post(self, path: str, body: object) -> Any:
        """The JSON answer to a POST; Refused with what each node said for HTTP 400."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            said = json.load(error)
            nodes = {
                node: "; ".join(f"{one['message']}: {one['details']}" for one in found["errors"])
                for node, found in said.get("node_errors", {}).items()
            }
            raise Refused(nodes, said) from None

    def view(self, image: dict[str, str]) -> bytes:
        """One file that the host saved."""
        return self.raw(f"/view?{urllib.parse.urlencode(image)}")

    def queue(self, graph: Graph, **extra: object) -> str:
        """Queue a graph, giving its id; Refused if the host does not accept it."""
        return self.post("/prompt", {"prompt": graph, **extra})["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600) -> Result:
        """The result of a queued graph; Refused if a node stopped it."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                if entry["status"]["status_str"] == "success":
                    return Result(self, entry)
                said = {
                    what["node_id"]: what.get("exception_message", kind)
                    for kind, what in entry["status"]["messages"]
                    if "node_id" in what
                }
                raise Refused(said, entry["status"])
            time.sleep(0.1)
        raise TimeoutError(f"the graph is not done after {timeout} s:\n{self.log()[-3000:]}")

    def run(self, graph: Graph, **extra: object) -> Result:
        """Queue a graph and wait for it."""
        return self.wait(self.queue(graph, **extra))


def txt2img(text: str, *, negative: str = "", seed: int = 1, steps: int = 3) -> Graph:
    """The stock text-to-image graph on the random SD 1.5 checkpoint; its encoder is node "pos"."""
    checkpoint = "random_sd15.safetensors"
    graph = graphs.graph(checkpoint, text, 64, steps, negative=negative, seed=seed)
    return {**graph, **graphs.saved("apl")}


def txt2img_sdxl(text: str, *, seed: int = 1, steps: int = 2) -> Graph:
    """The same on the random SDXL parts; its encoder is node "pos"."""
    graph = txt2img(text, seed=seed, steps=steps)
    graph["model"] = node("UNETLoader", unet_name="random_sdxl.safetensors", weight_dtype="default")
    names = {f"clip_name{i}": f"random_clip_{one}.safetensors" for i, one in ((1, "l"), (2, "g"))}
    graph["clip"] = node("DualCLIPLoader", **names, type="sdxl")
    graph["vae"] = node("VAELoader", vae_name="random_vae.safetensors")
    graph["pos"]["inputs"]["clip"] = graph["neg"]["inputs"]["clip"] = ["clip", 0]
    graph["decode"]["inputs"]["vae"] = ["vae", 0]
    return graph
