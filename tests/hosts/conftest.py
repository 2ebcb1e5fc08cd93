"""Real hosts for the tests of this folder; where a host is not installed its tests are skipped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import comfyui_host
import pytest
import torch
import webui_hosts
from a1111_host import Webui
from lora_file import write_lora

from apl_core.formats import write_prefix
from apl_core.metadata import PrefixCard
from apl_core.prefix import Prefix
from apl_trainer.cli import main

# test_installed.py says of each host that is missing that it is; its files are not even collected
collect_ignore_glob = [
    f"test_{name}_*.py" for name in webui_hosts.KINDS if name not in webui_hosts.INSTALLED
]
if not webui_hosts.INSTALLED:
    collect_ignore_glob.append("test_webui_*.py")
if not comfyui_host.installed():
    collect_ignore_glob.append("test_comfyui_*.py")

KEY, LOGIN = "the operator's long secret", "operator:secret"
CLONES = ("apl-prefix", "apl-prefix-copy")


def random_prefix(seed: int, n: int, behind: int = 0, key: str = "clip_l") -> Prefix:
    """Rows about as long as real token embeddings are in a random model."""
    width = {"clip_l": 768, "clip_h": 1024}[key]
    rows = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return Prefix({key: rows * 0.05}, behind)


def zimage_prefix() -> Prefix:
    """Six rows for Z-Image, two of them behind the text."""
    rows = torch.randn(6, 2560, generator=torch.Generator().manual_seed(1))
    return Prefix({"qwen3_4b": rows * 0.05}, 2, PrefixCard(family="Z-Image"))


def running(name: str, factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """A running webui with this extension, a second clone of it, and a few random prefixes."""
    with webui_hosts.new(name, furnished(factory.mktemp(name)), clones=CLONES) as webui:
        yield webui


@pytest.fixture(scope="session")
def a1111(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """A1111 for the whole session."""
    yield from running("a1111", tmp_path_factory)


@pytest.fixture(scope="session")
def reforge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """reForge for the whole session."""
    yield from running("reforge", tmp_path_factory)


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """Forge for the whole session."""
    yield from running("forge", tmp_path_factory)


@pytest.fixture(scope="session")
def neo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """Forge Neo for the whole session."""
    yield from running("neo", tmp_path_factory)


@pytest.fixture(scope="session", params=webui_hosts.INSTALLED)
def webui(request: pytest.FixtureRequest) -> Webui:
    """Each installed webui in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session", params=webui_hosts.FORGES)
def a_forge(request: pytest.FixtureRequest) -> Webui:
    """Forge and Forge Neo in turn, where they are installed."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session", params=webui_hosts.NEWER)
def newer(request: pytest.FixtureRequest) -> Webui:
    """Each installed webui but A1111 in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module", params=comfyui_host.installed(), ids=lambda host: host.name)
def source(request: pytest.FixtureRequest) -> Path:
    """Each installed ComfyUI in turn."""
    return request.param


def enforcing(
    name: str, factory: pytest.TempPathFactory, *arguments: str, kind: type[Webui] | None = None
) -> Webui:
    """A webui that enforces a prefix of the operator's folder, asks for a login, and traces.

    It is a bracket for SD 1.x; a `kind` of Neo with Z-Image has a prefix for that, too.
    """
    data, folder = supplied(factory.mktemp(name)), factory.mktemp("operator") / "prefixes"
    fill(folder)
    shutil.copy(folder / "bracket.safetensors", folder / "locked.safetensors")
    if kind is not None:
        write_prefix(zimage_prefix(), folder / "locked-zimage.safetensors")
    arguments += ("--api-auth", LOGIN, "--apl-enforce", "locked", "--apl-dir", str(folder))
    environment = {"APL_TRACE": str(data / "trace.jsonl"), "APL_TRACE_KEY": KEY}
    start = kind or webui_hosts.KINDS[name]
    return start(webui_hosts.INSTALLED[name], data, arguments, env=environment, login=LOGIN)


def supplied(data: Path) -> Path:
    """A data folder with a LoRA and a style."""
    write_lora(data / "models" / "Lora" / "random_lora.safetensors")
    (data / "styles.csv").write_text("name,prompt,negative_prompt\nold,an old man,young\n")
    return data


def verify(webui: Webui, *more: str) -> int:
    """`apl verify` against such a webui, which reads its trace."""
    trace = ["--trace", str(webui.data / "trace.jsonl"), "--key", KEY, "--login", LOGIN]
    return main(["verify", "--host", webui.name.lower(), webui.url, *trace, *more])


def leak_is_told(
    webui: Webui, trouble: str, capsys: pytest.CaptureFixture[str], *more: str
) -> None:
    """While the probe makes trouble, `apl verify` fails on a plain picture and says why."""
    webui.probe(trouble=trouble)
    try:
        code = verify(webui, *more, "--only", "plain", "--json")
    finally:
        webui.probe()
    said = json.loads(capsys.readouterr().out)
    assert code == 1 and "without the prefix" in said["failures"][0]


def furnished(data: Path) -> Path:
    """A webui's data folder with prefixes and a style."""
    fill(data / "models" / "apl")
    write_lora(data / "models" / "Lora" / "random_lora.safetensors")
    styles = ("anonymous,<apl:front>,", "pushed away,,<apl:front>", "unclosed,of style <apl:front,")
    (data / "styles.csv").write_text("\n".join(("name,prompt,negative_prompt", *styles, "")))
    return data


def fill(folder: Path) -> None:
    """Write the prefixes that the tests name."""
    folder.mkdir(parents=True)
    write_prefix(random_prefix(1, 10), folder / "front.safetensors")
    write_prefix(random_prefix(2, 8, behind=3), folder / "bracket.safetensors")
    write_prefix(random_prefix(3, 4), folder / "other.safetensors")
    write_prefix(random_prefix(4, 4, key="clip_h"), folder / "wrong_family.safetensors")
    (folder / "broken.safetensors").write_bytes(b"no prefix")
