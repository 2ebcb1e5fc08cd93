"""What a person reads on ComfyUI's own page where a graph cannot be run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from browser import Browser
from comfyui_host import Graph, Host, txt2img
from test_comfyui_operator import FOREIGN, fill
from test_comfyui_server import applied, prefix

from apl_core.formats import write_prefix

if browser.driver() is None:
    pytest.skip("no chromedriver", allow_module_level=True)

READY = (
    "return !!window.app?.graph &&"
    " 'APL_LoadPrefix' in (window.LiteGraph?.registered_node_types ?? {})"
)
ESCAPE = "\ue00c"  # the key that closes the greeting of an empty server
DETAILS = (
    "const found = [...document.querySelectorAll('button')]"
    ".find(one => one.innerText.includes('View details')); found?.click(); return !!found"
)
SAYS = "return document.body.innerText.replace(/\\s+/g, ' ').includes(arguments[0])"

WHOLE = (
    "return [...document.querySelectorAll('*')].some(one => !one.children.length"
    " && one.innerText?.includes(arguments[0]) && one.scrollHeight <= one.clientHeight)"
)
"""Whether the page shows a text without cutting its end off."""


@pytest.fixture(scope="module")
def page() -> Iterator[Browser]:
    with Browser() as window:
        yield window


def numbered(graph: Graph) -> Graph:
    """The graph with numbers for names, as the page has them."""
    ids = {name: str(number) for number, name in enumerate(graph, 1)}
    return {
        ids[name]: {
            **told,
            "inputs": {
                slot: [ids[value[0]], value[1]] if isinstance(value, list) else value
                for slot, value in told["inputs"].items()
            },
        }
        for name, told in graph.items()
    }


def pressed(page: Browser, host: Host, graph: Graph) -> None:
    """Open the page with a graph and press Run."""
    page.open(host.url)
    page.until(READY)
    page.press("body", ESCAPE)
    page.run("window.app.loadApiJson(arguments[0], 'graph.json')", numbered(graph))
    page.until("return window.app.graph._nodes.length === arguments[0]", len(graph))
    page.run("window.app.queuePrompt(0)")


def test_a_missing_prefix_is_told_with_where_one_comes_from(
    source: Path, tmp_path: Path, page: Browser
) -> None:
    folder = tmp_path / "models" / "apl"
    folder.mkdir(parents=True)
    with Host(source, tmp_path) as host:
        graph = applied(txt2img("a photo of a man"), "my-prefix")
        pressed(page, host, graph)
        page.until(SAYS, "find the prefix 'my-prefix': there is no prefix yet in models/apl.")
        assert page.run(SAYS, "Fix: put its file there, or learn one with APL Train Prefix.")
        assert page.run(WHOLE, "find the prefix 'my-prefix'")
        write_prefix(prefix("clip_l"), folder / "my-prefixes.safetensors")
        pressed(page, host, graph)
        page.until(SAYS, "did you mean 'my-prefixes'? If not, put its file there")


def test_a_refusal_of_an_operator_is_told(source: Path, tmp_path: Path, page: Browser) -> None:
    fill(tmp_path)
    pack = tmp_path / "custom_nodes" / "foreign.py"
    pack.parent.mkdir()
    pack.write_text(FOREIGN)
    with Host(source, tmp_path, env={"APL_ENFORCE": "house"}) as host:
        graph = txt2img("a photo of a man")
        graph["pos"] = {"class_type": "ForeignConditioning", "inputs": {"clip": ["model", 1]}}
        pressed(page, host, graph)
        page.until(SAYS, "ask the operator")


def test_a_prefix_that_does_not_fit_is_told_behind_view_details(
    source: Path, tmp_path: Path, page: Browser
) -> None:
    file = tmp_path / "models" / "apl" / "xl.safetensors"
    file.parent.mkdir(parents=True)
    write_prefix(prefix("clip_l", "clip_g"), file)
    with Host(source, tmp_path) as host:
        pressed(page, host, applied(txt2img("a photo of a man"), "xl"))
        page.until(DETAILS)
        page.until(SAYS, "the loaded checkpoint is SD 1.x (clip_l 768)")
