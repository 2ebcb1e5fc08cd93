"""Operator mode on every installed ComfyUI: graphs through the API are prefixed or refused."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import comfyui_host
import comfyui_probes
import pytest
from comfyui_host import Host, Refused, txt2img
from PIL import Image
from test_comfyui_server import PROMPT, applied, conditioned, picture, pixels, prefix

from apl_core.formats import write_prefix

HOSTS = comfyui_host.installed()
if not HOSTS:
    pytest.skip(comfyui_probes.NO_HOST, allow_module_level=True)


@pytest.fixture(scope="module", params=HOSTS, ids=lambda host: host.name)
def enforcing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """A ComfyUI whose operator enforces the prefix "house", with a foreign pack beside ours."""
    base = tmp_path_factory.mktemp(request.param.name)
    folder = base / "models" / "apl"
    folder.mkdir(parents=True)
    write_prefix(prefix("clip_l", behind=4), folder / "house.safetensors")
    write_prefix(prefix("clip_l", seed=3), folder / "own.safetensors")
    pack = base / "custom_nodes" / "foreign.py"
    pack.parent.mkdir()
    pack.write_text(FOREIGN)
    with Host(request.param, base, env={"APL_ENFORCE": "house"}) as running:
        yield running


FOREIGN = '''
"""A pack that is loaded after ours (by name) and makes a conditioning out of nothing."""



class Loads:
    CATEGORY, FUNCTION, RETURN_TYPES = "t", "run", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return ([[torch.zeros(1, 77, 768), {}]],)


NODE_CLASS_MAPPINGS = {"ForeignConditioning": Loads}
'''


def test_a_graph_from_the_api_is_prefixed_and_its_picture_says_so(enforcing: Host) -> None:
    by_node = picture(enforcing, applied(txt2img(PROMPT), "house"))
    (png,) = enforcing.run(txt2img(PROMPT)).images()
    assert pixels(png) == by_node
    text = Image.open(io.BytesIO(png)).info
    assert json.loads(text["apl_enforced"])["prefix"] == "house"
    used = {node["class_type"] for node in json.loads(text["prompt"]).values()}
    assert {"APL_LoadPrefix", "APL_ApplyPrefix"} <= used
    assert picture(enforcing, conditioned(txt2img(PROMPT), "house")) == by_node


def test_it_differs_from_the_plain_picture_of_a_host_without_operator_mode(
    enforcing: Host, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Host(enforcing.source, tmp_path_factory.mktemp("plain"), with_pack=False) as plain:
        assert picture(plain, txt2img(PROMPT)) != picture(enforcing, txt2img(PROMPT))


def test_a_prefix_of_ones_own_is_added_not_exchanged(enforcing: Host) -> None:
    own = picture(enforcing, applied(txt2img(PROMPT), "own"))
    assert own != picture(enforcing, txt2img(PROMPT))


def test_the_negative_prompt_stays_as_it_is(enforcing: Host) -> None:
    graph = txt2img(PROMPT, negative="blurry, a (dog:1.2)")
    entry = enforcing.run(graph).entry
    sent = entry["prompt"][2]
    assert sent["neg"]["inputs"]["clip"] == ["model", 1]
    assert sent["pos"]["inputs"]["clip"] != ["model", 1]


def test_what_it_cannot_cover_is_refused_on_its_node(enforcing: Host) -> None:
    graph = txt2img(PROMPT)
    graph["odd"] = {"class_type": "ForeignConditioning", "inputs": {}}
    graph["sampler"]["inputs"]["positive"] = ["odd", 0]
    before = set((enforcing.base / "output").glob("*.png"))
    with pytest.raises(Refused) as refused:
        enforcing.queue(graph, partial_execution_targets=["save"])
    assert "not one of ComfyUI's own local nodes" in refused.value.nodes["odd"]
    assert set((enforcing.base / "output").glob("*.png")) == before


def test_without_its_prefix_the_server_makes_no_picture(enforcing: Host) -> None:
    file = enforcing.base / "models" / "apl" / "house.safetensors"
    hidden = file.rename(file.with_suffix(".hidden"))
    try:
        with pytest.raises(Refused, match="enforces a prefix"):
            enforcing.queue(txt2img(PROMPT))
    finally:
        hidden.rename(file)
    assert picture(enforcing, txt2img(PROMPT))


def test_a_graph_of_nonsense_is_refused(enforcing: Host) -> None:
    with pytest.raises(Refused):
        enforcing.queue({"a": {"class_type": "KSampler", "inputs": {"positive": [[], {}]}}})


def test_comfyui_does_not_start_where_the_pack_cannot_protect(
    enforcing: Host, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("two clones")
    packs = base / "custom_nodes"
    packs.mkdir()
    (packs / "a_foreign.py").write_text(
        "import sys, types\nsys.modules['apl_core'] = types.ModuleType('apl_core')\n"
        "NODE_CLASS_MAPPINGS = {}\n"
    )
    with pytest.raises(RuntimeError, match="APL_ENFORCE is set, but APL Prefix cannot start"):
        Host(enforcing.source, base, env={"APL_ENFORCE": "house"}).__enter__()
