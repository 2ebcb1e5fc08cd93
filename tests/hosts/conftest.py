"""Real hosts for the tests of this folder; where a host is not installed its tests are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import a1111_host
import comfyui_host
import forge_host
import pytest
import torch
from lora_file import write_lora

from apl_core.formats import write_prefix
from apl_core.prefix import Prefix

# without A1111 the first of its files says so once, and the others are not even collected
collect_ignore = (
    []
    if a1111_host.installed()
    else [
        f"test_a1111_{name}.py"
        for name in ("surface", "normal", "operator", "engines", "page", "training", "verify")
    ]
)
if forge_host.installed() is None:
    collect_ignore += [f"test_forge_{name}.py" for name in ("operator", "page", "training")]
if not comfyui_host.installed():
    names = ("mixed", "operator", "packs", "server", "training", "verify")
    collect_ignore += [f"test_comfyui_{name}.py" for name in names]

CLONES = ("apl-prefix", "apl-prefix-copy")


def random_prefix(seed: int, n: int, behind: int = 0, key: str = "clip_l") -> Prefix:
    """Rows about as long as real token embeddings are in a random model."""
    width = {"clip_l": 768, "clip_h": 1024}[key]
    rows = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return Prefix({key: rows * 0.05}, behind)


@pytest.fixture(scope="session")
def a1111(tmp_path_factory: pytest.TempPathFactory) -> Iterator[a1111_host.Webui]:
    """A running A1111 with this extension, a second clone of it, and a few random prefixes."""
    host = a1111_host.installed()
    assert host is not None
    data = furnished(tmp_path_factory.mktemp("a1111"))
    with a1111_host.Webui(host, data, clones=CLONES) as webui:
        yield webui


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[forge_host.Forge]:
    """A running Forge with this extension, a second clone of it, and a few random prefixes."""
    host = forge_host.installed()
    assert host is not None
    data = furnished(tmp_path_factory.mktemp("forge"))
    with forge_host.Forge(host, data, clones=CLONES) as webui:
        yield webui


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
