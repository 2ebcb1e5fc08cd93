"""What ComfyUI's registry, page and manager read off the clone, without a host."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import apl_core

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMFY = PROJECT["tool"]["comfy"]
TEXTS: dict[str, dict[str, Any]] = {
    language: json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))
    for language in ("en", "zh")
}
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
SERVER_MADE = "APL_Refused"


def node_ids() -> set[str]:
    """Ids as ComfyUI's manager finds them: literals in calls of io.Schema."""
    return {
        word.value.value
        for file in (ROOT / "comfy_nodes").glob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "io.Schema"
        for word in call.keywords
        if word.arg == "node_id" and isinstance(word.value, ast.Constant)
    }


def test_the_registry_takes_the_project() -> None:
    project = PROJECT["project"]
    assert re.fullmatch(r"[a-z](?:[a-z0-9]|[-_.](?=[a-z0-9])){0,98}", project["name"])
    assert "comfyui" not in project["name"]
    assert project["description"] and project["urls"]["Repository"].startswith("https://")
    assert (ROOT / project["license"]["file"]).is_file()
    assert COMFY["PublisherId"] and COMFY["DisplayName"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", COMFY["requires-comfyui"])
    systems = [c for c in project["classifiers"] if c.startswith("Operating System :: ")]
    assert systems == ["Operating System :: OS Independent"]


def test_the_registry_finds_the_version_in_its_file() -> None:
    text = (ROOT / COMFY["version"]["path"]).read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(\d+\.\d+\.\d+)"$', text, re.MULTILINE)
    assert found and found[1] == apl_core.__version__
    assert "version" in PROJECT["project"]["dynamic"]


def test_nothing_is_installed_into_a_host() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("#") for line in lines if line.strip())


def keys(texts: Any) -> Any:
    """The shape of a tree of texts: its keys without the texts."""
    return {key: keys(value) for key, value in texts.items()} if isinstance(texts, dict) else ""


def leaves(texts: Any) -> list[str]:
    return (
        [one for t in texts.values() for one in leaves(t)] if isinstance(texts, dict) else [texts]
    )


def test_both_languages_say_the_same_of_every_node() -> None:
    assert TEXTS["en"].keys() == node_ids()
    assert keys(TEXTS["zh"]) == keys(TEXTS["en"])
    for texts in TEXTS.values():
        assert all(text.strip() for text in leaves(texts))
    for node, texts in TEXTS["zh"].items():
        own = [texts["description"], *(t["tooltip"] for t in texts["inputs"].values())]
        assert all(re.search("[一-鿿]", text) for text in own), node


@pytest.mark.parametrize("node", sorted(node_ids() - {SERVER_MADE}))
def test_every_node_has_a_page_in_both_languages(node: str) -> None:
    for page in (f"{node}.md", f"{node}/zh.md"):
        text = (ROOT / "web" / "docs" / page).read_text(encoding="utf-8")
        assert text.startswith("# ") and len(text) > 100


def test_every_workflow_has_its_picture() -> None:
    assert {path.stem for path in WORKFLOWS} >= {"txt2img", "before_after", "sdxl", "training"}
    pictures = (ROOT / "example_workflows").glob("*.jpg")
    assert sorted(path.stem for path in pictures) == [path.stem for path in WORKFLOWS]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_whole(path: Path) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    numbers = {node["id"] for node in workflow["nodes"]}
    assert all({link[1], link[3]} <= numbers for link in workflow["links"])
    ours = {n["type"] for n in workflow["nodes"] if n["type"].startswith("APL_")}
    assert ours and ours <= node_ids()
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 200
