"""Forge, Neo and reForge, real: SDXL, switches between families, and operator mode."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import a1111_host
import pytest
import torch
import webui_hosts
from a1111_host import Refused, Webui
from a1111_kinds import KINDS
from conftest import fill, furnished
from safetensors.torch import load_file
from sdxl_host import PREFIXES, add_prefixes, with_sdxl
from torch import Tensor

MAN = "a photo of a man"
NAMES = ("plain", "empty", "BREAK", "emphasis")
XL: dict[str, Any] = {"override_settings": {"sd_model_checkpoint": "sdxl"}}


@pytest.fixture(scope="module", params=webui_hosts.NEWER)
def webui(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Webui]:
    """Each of them with prefixes of both families."""
    data = furnished(tmp_path_factory.mktemp(request.param))
    add_prefixes(data / "models" / "apl")
    with with_sdxl(request.param, data) as running:
        yield running


@pytest.fixture(scope="module")
def untouched(webui: Webui, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pixels from the same webui without the extension."""
    data = tmp_path_factory.mktemp("bare")
    with with_sdxl(webui.name.lower(), data, clones=()) as bare:
        return {name: bare.draw(KINDS[name].prompt, **XL).pixels for name in NAMES}


@pytest.fixture(scope="module")
def reference(webui: Webui, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Rows and pooled output of every text with every prefix and without, by transformers."""
    folder = tmp_path_factory.mktemp("reference")
    cases = [
        {
            "name": f"{prefix}/{name}",
            "prefix": prefix and str(webui.prefixes / f"{prefix}.safetensors"),
            "behind": PREFIXES.get(prefix or "", 0),
            "text": KINDS[name].groups[0][0],
        }
        for prefix in (None, *PREFIXES)
        for name in NAMES
    ]
    (folder / "cases.json").write_text(json.dumps(cases))
    script = Path(__file__).with_name("sdxl_reference.py")
    command = [a1111_host.python(webui.source), script, webui.random() / "hub"]
    command += [folder / "cases.json", folder / "out.safetensors"]
    env = a1111_host.environment(webui.source)
    subprocess.run([str(part) for part in command], check=True, env=env)
    return load_file(folder / "out.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_off_is_the_webui_without_the_extension(
    webui: Webui, untouched: dict[str, str], name: str
) -> None:
    assert webui.draw(KINDS[name].prompt, False, "xl", **XL).pixels == untouched[name]


@pytest.mark.parametrize("prefix", [None, *PREFIXES])
@pytest.mark.parametrize("name", NAMES)
def test_both_encoders_read_it(
    webui: Webui, reference: dict[str, Tensor], name: str, prefix: str | None
) -> None:
    webui.probe()
    args = () if prefix is None else (True, prefix)
    answer = webui.draw(KINDS[name].prompt, *args, **XL)
    assert ("APL prefix" in answer.infotext) == (prefix is not None and name != "empty")
    rows, vectors = webui.seen(), webui.seen("cond vector")
    assert len(rows) == len(vectors) == 2
    for one, vector in zip(rows, vectors, strict=True):
        assert torch.equal(one[0], reference[f"{prefix}/{name}.rows"])
        pooled = reference[f"{prefix}/{name}.pooled"]
        if webui.name == "reForge":  # its product adds up in another order, without a prefix too
            torch.testing.assert_close(vector[0, :1280], pooled, atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(vector[0, :1280], pooled)


def test_a_switch_between_families_leaves_nothing(webui: Webui) -> None:
    small, big = webui.draw(MAN, True, "front").pixels, webui.draw(MAN, True, "xl", **XL).pixels
    for prefix, more, said in (
        ("front", XL, "it is for SD 1.x; the loaded checkpoint is SDXL"),
        ("xl", {}, "it is for SDXL; the loaded checkpoint is SD 1.x"),
    ):
        with pytest.raises(Refused, match=said):
            webui.draw(MAN, True, prefix, **more)
    assert webui.draw(MAN, True, "front").pixels == small
    assert webui.draw(MAN, True, "xl", **XL).pixels == big


def test_two_clients_of_two_families(webui: Webui) -> None:
    def draw(ask: tuple[tuple[object, ...], dict[str, Any]]) -> str:
        args, more = ask
        return webui.draw(MAN, *args, **more).pixels

    asks = [((True, "front"), {}), ((True, "xl"), XL), ((), {}), ((True, "xl bracket"), XL)]
    want = list(map(draw, asks))
    assert len(set(want)) == len(asks)
    with ThreadPoolExecutor(2) as clients:
        assert list(clients.map(draw, asks)) == want


@pytest.fixture(scope="module", params=webui_hosts.NEWER)
def operated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Webui]:
    """Each of them, started with an enforced prefix for SDXL."""
    data, folder = tmp_path_factory.mktemp(request.param), tmp_path_factory.mktemp("prefixes")
    fill(folder / "apl")
    add_prefixes(folder / "apl")
    options = ("--nowebui", "--apl-enforce", "xl bracket", "--apl-dir", str(folder / "apl"))
    with with_sdxl(request.param, data, *options) as running:
        yield running


def test_an_operator_covers_both_sides_and_refuses_the_other_family(operated: Webui) -> None:
    with pytest.raises(Refused, match=r"it is for SDXL; the loaded checkpoint is SD 1.x"):
        operated.draw(MAN)
    operated.probe()
    answer = operated.draw(MAN, False, negative_prompt=MAN, **XL)
    assert "APL prefix: xl bracket" in answer.infotext
    for cond, uncond in zip(operated.seen(), operated.seen("uncond"), strict=True):
        assert torch.equal(cond, uncond)
    operated.probe(trouble="rows")
    with pytest.raises(Refused, match="another extension"):
        operated.draw(f"{MAN} again", **XL)
    operated.probe()
    assert operated.draw(f"{MAN} again", **XL).images
