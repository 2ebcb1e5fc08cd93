"""Operator mode's rewriting of graphs, on facts about a few of ComfyUI's nodes."""

from __future__ import annotations

import copy

import pytest
from apl_comfy.enforce import APPLY, LOAD, Graph, NodeFacts, NotCovered, enforced


def facts(inputs: str, outputs: str, names: str = "", trusted: bool = True) -> NodeFacts:
    """Facts from words: "name:TYPE name:TYPE", "TYPE TYPE"."""
    pairs = dict(pair.split(":") for pair in inputs.split())
    gives = tuple(outputs.split())
    return NodeFacts(pairs, gives, tuple(names.split()) or gives, trusted)


GUIDE = "positive:CONDITIONING negative:CONDITIONING"
CATALOGUE = {
    "Checkpoint": facts("", "MODEL CLIP VAE"),
    "CLIPSetLastLayer": facts("clip:CLIP", "CLIP"),
    "CLIPTextEncode": facts("clip:CLIP text:STRING", "CONDITIONING"),
    "Combine": facts("a:CONDITIONING b:CONDITIONING", "CONDITIONING"),
    "ControlNet": facts(GUIDE, "CONDITIONING CONDITIONING", "positive negative"),
    "KSampler": facts(f"model:MODEL {GUIDE}", "LATENT"),
    "OtherSampler": facts(f"model:MODEL {GUIDE}", "LATENT"),
    "VideoLinearCFGGuidance": facts("model:MODEL", "MODEL"),
    "LoadConditioning": facts("file:COMBO", "CONDITIONING"),
    "Foreign": facts("text:STRING", "IMAGE", trusted=False),
    LOAD: facts("file:COMBO", "APL_PREFIX STRING"),
    APPLY: facts("clip:CLIP prefix:APL_PREFIX", "CLIP"),
}


def graph(
    cfg: object = 7.0, sampler: str = "KSampler", **more: tuple[str, dict[str, object]]
) -> Graph:
    """Checkpoint, two texts and a sampler; `more` adds or replaces nodes."""
    nodes: dict[str, tuple[str, dict[str, object]]] = {
        "ckpt": ("Checkpoint", {}),
        "pos": ("CLIPTextEncode", {"clip": ["ckpt", 1], "text": "Ada"}),
        "neg": ("CLIPTextEncode", {"clip": ["ckpt", 1], "text": "blurry"}),
        "sample": (
            sampler,
            {"model": ["ckpt", 0], "positive": ["pos", 0], "negative": ["neg", 0], "cfg": cfg},
        ),
        **more,
    }
    return {
        node: {"class_type": kind, "inputs": copy.deepcopy(inputs)}
        for node, (kind, inputs) in nodes.items()
    }


def prefixed(before: Graph) -> set[str]:
    """The nodes whose CLIP the rewriting exchanges for a prefixed one; the rest stays equal."""
    kept = copy.deepcopy(before)
    after = enforced(before, CATALOGUE.get, "house")
    assert before == kept
    changed = {node for node in before if after[node] != before[node]}
    for node in changed:
        apply = after[after[node]["inputs"]["clip"][0]]
        assert apply["class_type"] == APPLY
        assert apply["inputs"]["clip"] == before[node]["inputs"]["clip"]
        assert after[apply["inputs"]["prefix"][0]]["inputs"] == {"file": "house"}
        assert {**after[node]["inputs"], "clip": 0} == {**before[node]["inputs"], "clip": 0}
    return changed


def test_the_positive_text_is_prefixed_and_the_negative_is_not() -> None:
    assert prefixed(graph()) == {"pos"}


def test_a_text_that_serves_both_sides_is_prefixed() -> None:
    both = graph()
    both["sample"]["inputs"]["negative"] = ["pos", 0]
    assert prefixed(both) == {"pos", "neg"}  # nobody takes "neg": not known to be negative


@pytest.mark.parametrize("cfg", [0.0, 0.99, -3, True, ["ckpt", 0], "7", None])
def test_a_negative_text_that_could_draw_is_prefixed(cfg: object) -> None:
    assert prefixed(graph(cfg)) == {"pos", "neg"}


def test_an_unknown_sampler_gets_no_plain_text() -> None:
    assert prefixed(graph(sampler="OtherSampler")) == {"pos", "neg"}


def test_a_model_that_reshapes_guidance_gets_no_plain_text() -> None:
    shaped = graph(shape=("VideoLinearCFGGuidance", {"model": ["ckpt", 0]}))
    assert prefixed(shaped) == {"pos", "neg"}


def test_a_negative_text_is_followed_through_a_controlnet() -> None:
    control = graph(net=("ControlNet", {"positive": ["pos", 0], "negative": ["neg", 0]}))
    control["sample"]["inputs"].update(positive=["net", 0], negative=["net", 1])
    assert prefixed(control) == {"pos"}
    control["sample"]["inputs"].update(positive=["net", 1], negative=["net", 0])
    assert prefixed(control) == {"pos", "neg"}


def test_a_negative_text_that_is_combined_with_others_is_prefixed() -> None:
    combined = graph(mix=("Combine", {"a": ["neg", 0], "b": ["pos", 0]}))
    combined["sample"]["inputs"]["negative"] = ["mix", 0]
    assert prefixed(combined) == {"pos", "neg"}


def test_the_clip_keeps_its_way_through_other_nodes() -> None:
    skipped = graph(skip=("CLIPSetLastLayer", {"clip": ["ckpt", 1]}))
    skipped["pos"]["inputs"]["clip"] = ["skip", 0]
    assert prefixed(skipped) == {"pos"}


def test_rewriting_twice_is_rewriting_once() -> None:
    once = enforced(graph(), CATALOGUE.get, "house")
    twice = enforced(once, CATALOGUE.get, "house")
    assert {node: twice[node] for node in once} == once
    assert all(twice[node]["class_type"] == LOAD for node in twice.keys() - once.keys())


def test_a_clip_with_another_prefix_gets_this_one_too() -> None:
    other = graph(
        load=(LOAD, {"file": "other"}),
        apply=(APPLY, {"clip": ["ckpt", 1], "prefix": ["load", 0]}),
    )
    other["pos"]["inputs"]["clip"] = ["apply", 0]
    assert prefixed(other) == {"pos"}


def test_ids_of_the_graph_are_never_overwritten() -> None:
    forged = graph(apl_enforced=("CLIPTextEncode", {"clip": ["ckpt", 1], "text": "Ada"}))
    after = enforced(forged, CATALOGUE.get, "house")
    assert after["apl_enforced"]["class_type"] == "CLIPTextEncode"
    assert after["apl_enforced_"]["inputs"] == {"file": "house"}


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (("LoadConditioning", {"file": "ada"}), "makes a conditioning without a CLIP"),
        (("Foreign", {"text": "Ada"}), "not one of ComfyUI's own local nodes"),
        (("Absent", {}), "does not know such a node"),
    ],
)
def test_what_the_prefix_cannot_reach_is_refused(
    node: tuple[str, dict[str, object]], said: str
) -> None:
    with pytest.raises(NotCovered, match=said) as refused:
        enforced(graph(odd=node), CATALOGUE.get, "house")
    assert refused.value.node == "odd"
    assert node[0] in str(refused.value)


@pytest.mark.parametrize(
    "entry", [None, [], {}, {"class_type": 3}, {"class_type": "KSampler", "inputs": []}]
)
def test_a_malformed_node_is_refused(entry: object) -> None:
    with pytest.raises(NotCovered):
        enforced({**graph(), "odd": entry}, CATALOGUE.get, "house")
