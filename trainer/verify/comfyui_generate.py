"""Made-up requests for ComfyUI: nodes of the server put between those of the stock graph."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from apl_core.errors import HostError
from apl_core.metadata import printable

from .case import SALT, Case
from .comfyui_graphs import MODEL, encode, saved
from .comfyui_nodes import CannotFill, Filler, Graph, Nodes, links, node

KINDS = ("MODEL", "CONDITIONING", "CLIP", "LATENT", "SIGMAS")
_EXTRA: tuple[Any, ...] = (
    {"extra_pnginfo": 5},
    {"extra_pnginfo": []},
    {"extra_pnginfo": {"APL": "off"}},
    {},
    [],
    "x",
    None,
    {"client_id": 5},
    {"extra_pnginfo": {"workflow": None}},
)
_SIDES = ("plain", "plain", "plain", "both", "negative only", "swapped", "same", "empty negative")


def request(known: Mapping[str, Any], checkpoint: str, side: int, seed: int, number: int) -> Case:
    """Request `number` of a seed: the same structure every time, on servers with the same nodes."""
    try:
        return _made(Nodes(known), checkpoint, side, random.Random(f"{seed}-{number}"), number)
    except CannotFill as error:
        raise HostError(
            "make requests up",
            f"the server lacks what its stock graph needs ({printable(str(error))})",
            "use a ComfyUI with all of its own nodes, or leave --generate out",
        ) from error


def _made(nodes: Nodes, checkpoint: str, side: int, dice: random.Random, number: int) -> Case:
    loader = {"model": node("CheckpointLoaderSimple", ckpt_name=checkpoint)}
    filler = Filler(nodes, loader, dice, side=side)
    wires = _sampled(filler, dice)
    turn = [(kind, name) for kind in KINDS for name in nodes.between(kind)]
    wanted = [turn[number % len(turn)]] if turn else []
    wanted += [_any(nodes, dice) for _ in range(dice.randrange(4))]
    for kind, name in wanted:
        _insert(filler, wires, kind, name, dice)
    if dice.random() < 0.3:
        _odd_link(filler, dice)
    if dice.random() < 0.15:
        _odd_number(filler, dice)
    if dice.random() < 0.02:
        _drop(filler.graph, dice)
    body: dict[str, Any] = {"prompt": filler.graph}
    if dice.random() < 0.12:  # a bare server may fail over it, and is asked without
        odd = {**body, "extra_data": dice.choice(_EXTRA)}
        return Case(f"g{number}", (odd,), (body,))
    return Case(f"g{number}", (body,))


def _any(nodes: Nodes, dice: random.Random) -> tuple[str, str]:
    kind = dice.choices(KINDS, (5, 5, 3, 1, 1))[0]
    return kind, dice.choice(nodes.between(kind) or [""])


Wires = dict[str, list[tuple[str, str]]]
"""Places that a type is plugged into: node and input."""


def _sampled(filler: Filler, dice: random.Random) -> Wires:
    """A stock graph by one of the host's samplers; every text that it has names the person."""
    graph = filler.graph
    which = dice.choice(_SIDES)
    told = filler.text()
    texts = {
        "plain": (told, f"blurry {SALT}"),
        "both": (told, filler.text()),
        "negative only": ("", told),
        "swapped": (f"blurry {SALT}", told),
        "same": (told, ""),
        "empty negative": (told, ""),
    }[which]
    for name, text in zip(("pos", "neg"), texts, strict=True):
        graph[name] = encode(text)
    pos, neg = ["pos", 0], ["neg", 0]
    if which == "swapped" and dice.random() < 0.5:
        pos, neg = neg, pos
    if which == "same":
        neg = dice.choice((["pos", 0], ["pos", -1]))
    side = filler.side
    graph["latent"] = node("EmptyLatentImage", width=side, height=side, batch_size=1)
    makers = (_ksampler, _ksampler, _advanced, _custom, _guided)
    wires = dice.choice(makers)(filler, dice, pos, neg)
    graph |= saved()
    wires["CLIP"] = [("pos", "clip"), ("neg", "clip")]
    wires["LATENT"] = [("sampler", "latent_image"), ("decode", "samples")]
    return wires


def _cfg(dice: random.Random) -> float:
    return dice.choice((0.0, 0.5, 1.0, 7.0, 7.0, 30.0, 100.0))


def _wired(pos: Any, neg: Any) -> dict[str, Any]:
    """What all samplers are given."""
    return {"model": MODEL, "positive": pos, "negative": neg, "latent_image": ["latent", 0]}


def _ksampler(filler: Filler, dice: random.Random, pos: Any, neg: Any) -> Wires:
    inputs = {
        **_wired(pos, neg),
        "seed": dice.randrange(2**31),
        "steps": dice.randint(1, 3),
        "cfg": _cfg(dice),
        "denoise": dice.choice((1.0, 1.0, 0.6)),
    }
    return _as_sampler(filler, "KSampler", inputs)


def _advanced(filler: Filler, dice: random.Random, pos: Any, neg: Any) -> Wires:
    steps = dice.randint(2, 3)
    inputs = {
        **_wired(pos, neg),
        "noise_seed": dice.randrange(2**31),
        "steps": steps,
        "cfg": _cfg(dice),
        "add_noise": "enable",
        "start_at_step": dice.choice((0, 0, 1)),
        "end_at_step": dice.choice((steps, 10000)),
    }
    return _as_sampler(filler, "KSamplerAdvanced", inputs)


def _custom(filler: Filler, dice: random.Random, pos: Any, neg: Any) -> Wires:
    inputs = {
        **_wired(pos, neg),
        "noise_seed": dice.randrange(2**31),
        "cfg": _cfg(dice),
        "add_noise": True,
        "sampler": _way(filler),
        "sigmas": _sigmas(filler, dice),
    }
    return _as_sampler(filler, "SamplerCustom", inputs)


def _guided(filler: Filler, dice: random.Random, pos: Any, neg: Any) -> Wires:
    """SamplerCustomAdvanced with any of the host's guiders."""
    makers = [one for one in filler.nodes.usable() if "GUIDER" in filler.nodes.gives(one)]
    makers = [one for one in makers if any(s.kind == "MODEL" for s in filler.nodes.slots(one))]
    if not makers:
        return _ksampler(filler, dice, pos, neg)
    name = dice.choice(makers)
    turn = [pos, neg, pos]
    dice.shuffle(turn)
    conditions = [one.name for one in filler.nodes.slots(name) if one.kind == "CONDITIONING"]
    given: dict[str, Any] = dict(zip(conditions, [pos, neg, *turn], strict=False))
    try:
        guide = filler.add(name, given)
    except CannotFill:
        return _ksampler(filler, dice, pos, neg)
    inputs = {
        "guider": [guide, 0],
        "noise": filler.link("NOISE"),
        "sampler": _way(filler),
        "sigmas": _sigmas(filler, dice),
        "latent_image": ["latent", 0],
    }
    wires = _as_sampler(filler, "SamplerCustomAdvanced", inputs)
    models = [one.name for one in filler.nodes.slots(name) if one.kind == "MODEL"]
    wires["MODEL"] = [(guide, slot) for slot in models]
    wires["CONDITIONING"] = [(guide, slot) for slot in conditions]
    return wires


def _way(filler: Filler) -> list[Any]:
    return [filler.add("KSamplerSelect", {"sampler_name": "euler"}), 0]


def _sigmas(filler: Filler, dice: random.Random) -> list[Any]:
    given = {"model": MODEL, "steps": dice.randint(1, 3), "denoise": 1.0}
    return [filler.add("BasicScheduler", given), 0]


def _as_sampler(filler: Filler, name: str, inputs: dict[str, Any]) -> Wires:
    place = filler.add(name, inputs)
    filler.graph["sampler"] = filler.graph.pop(place)
    wires = {"MODEL": [("sampler", "model")], "SIGMAS": [("sampler", "sigmas")]}
    return {**wires, "CONDITIONING": [("sampler", "positive"), ("sampler", "negative")]}


def _insert(filler: Filler, wires: Wires, kind: str, name: str, dice: random.Random) -> None:
    """Put a node between: what was plugged in there goes through it first."""
    graph = filler.graph
    places = [one for one in wires.get(kind, []) if one[1] in graph[one[0]]["inputs"]]
    if not places or not name:
        return
    mains = [one.name for one in filler.nodes.slots(name) if one.kind == kind and one.needed]
    outputs = [i for i, one in enumerate(filler.nodes.gives(name)) if one == kind]
    paired = len(mains) > 1 and len(outputs) > 1 and len(places) > 1  # positive and negative
    if not paired:
        place = dice.choice(places)
        before = graph[place[0]]["inputs"][place[1]]
        places = [p for p in places if graph[p[0]]["inputs"][p[1]] == before]
        if dice.random() < 0.3:
            places = [place]
        mains, outputs = [dice.choice(mains)], [dice.choice(outputs)] * len(places)
    given = {m: graph[p[0]]["inputs"][p[1]] for m, p in zip(mains, places, strict=False)}
    was = set(graph)
    try:
        new = filler.add(name, given)
    except CannotFill:
        for one in set(graph) - was:
            del graph[one]
        return
    for place, output in zip(places, outputs, strict=False):
        graph[place[0]]["inputs"][place[1]] = [new, output]


def _odd_link(filler: Filler, dice: random.Random) -> None:
    """Write a link in another way that a host may read as the same."""
    graph = filler.graph
    place, slot, (node, output) = dice.choice(list(links(graph)))
    count = len(filler.nodes.gives(graph[node]["class_type"]))
    alike: tuple[Any, ...] = (
        [node, output - count],
        [node, output - count],
        [node, output == 1] if output < 2 else [node, output - count],
        {"__value__": [node, output]},
    )
    strange: tuple[Any, ...] = ([node, float(output)], [node, str(output)], [node, output, 0])
    forms = strange if dice.random() < 0.15 else alike
    graph[place]["inputs"][slot] = dice.choice(forms)


def _odd_number(filler: Filler, dice: random.Random) -> None:
    """Give a number in another form, or by a link that no range is checked for."""
    graph = filler.graph
    numbers = [
        (place, slot, value)
        for place, node in graph.items()
        for slot, value in node["inputs"].items()
        if isinstance(value, float)
    ]
    if not numbers:
        return
    place, slot, value = dice.choice(numbers)
    form = dice.randrange(3)
    if form == 0 and "PrimitiveFloat" in filler.nodes:
        far = dice.choice((-7.0, -1.0, 0.0, 1e3))
        graph[place]["inputs"][slot] = [filler.add("PrimitiveFloat", {"value": far}), 0]
    else:
        graph[place]["inputs"][slot] = str(value) if form == 1 else {"__value__": value}


def _drop(graph: Graph, dice: random.Random) -> None:
    place = dice.choice([one for one in graph if graph[one]["inputs"]])
    del graph[place]["inputs"][dice.choice(list(graph[place]["inputs"]))]
