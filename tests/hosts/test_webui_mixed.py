"""A thousand mixed requests to each webui: each its own answer, and nothing left.

`APL_MIXED_RUNS=1000 pytest tests/hosts/test_webui_mixed.py -s` prints the figures of SECURITY.md;
without it there are 100. Every request is a whole picture of 64 pixels.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from a1111_host import Refused, Webui
from a1111_kinds import LONG, picture
from mixed_runs import REFUSED, check

MAN, OFF, FRONT, BRACKET = "a photo of a man", (False, "front"), (True, "front"), (True, "bracket")
Kind = tuple[str, tuple[object, ...], dict[str, Any]]
"""Prompt, arguments of our script, the rest of the request."""

SKIP: dict[str, Any] = {"override_settings": {"CLIP_stop_at_last_layers": 2}}
REDRAWN: dict[str, Any] = {"init_images": [picture()]}
LORA = f"{MAN} <lora:random_lora:0.7>"
KINDS: dict[str, Kind] = {
    "off": (MAN, OFF, {}),
    "not asked": (MAN, (), {}),
    "front": (MAN, FRONT, {}),
    "tag": (f"{MAN} <apl:front>", (), {}),
    "bracket": (MAN, BRACKET, {}),
    "other": (MAN, (True, "other"), {}),
    "some steps": (MAN, (True, "front", 0.0, 0.5), {"steps": 2}),
    "emphasis": ("a (photo:1.3) of a (man:0.5)", BRACKET, {}),
    "emphasis, off": ("a (photo:1.3) of a (man:0.5)", OFF, {}),
    "AND": ("a cat AND a man :0.7", FRONT, {}),
    "BREAK": ("a cat BREAK a man", FRONT, {}),
    "schedule": ("[a cat:a man:0.5]", BRACKET, {"steps": 2}),
    "schedule, off": ("[a cat:a man:0.5]", OFF, {"steps": 2}),
    "long": (LONG, BRACKET, {}),
    "long, off": (LONG, OFF, {}),
    "empty": ("", FRONT, {}),
    "empty, off": ("", OFF, {}),
    "batch": (MAN, FRONT, {"batch_size": 2}),
    "img2img": (MAN, FRONT, REDRAWN),
    "img2img, off": (MAN, OFF, REDRAWN),
    "clip skip": (MAN, FRONT, SKIP),
    "clip skip, off": (MAN, OFF, SKIP),
    "LoRA": (LORA, FRONT, {}),
    "LoRA, off": (LORA, OFF, {}),
    "wildcard": ("a photo of __somebody__", FRONT, {}),
    "missing": (MAN, (True, "absent"), {}),
    "broken": (MAN, (True, "broken"), {}),
    "another family": (MAN, (True, "wrong_family"), {}),
    "spelled end": ("a <|endoftext|> man", FRONT, {}),
    "fails while encoding": ("a man probe:cond", FRONT, {}),
    "fails while sampling": ("a man probe:sampling", BRACKET, {}),
    "fails, off": ("a man probe:sampling", OFF, {}),
}
WRONG = {
    *("missing", "broken", "another family", "spelled end"),
    *("fails while encoding", "fails while sampling", "fails, off"),
}
SAME = (("off", "not asked"), ("front", "tag"), ("empty", "empty, off"))


def answer(webui: Webui, kind: Kind) -> str:
    """The pixels that a request gave, or that it was refused.

    A redrawn picture starts from the noise that whoever came before it has left in the webui's
    random numbers, so there it is the conditioning that every step was made with.
    """
    prompt, args, more = kind
    request: dict[str, Any] = {"steps": 1, **more}
    # without a seed and an id of ours the webui draws them from Python's own random numbers
    request |= {"subseed": 1, "force_task_id": f"task({secrets.token_hex(8)})"}
    try:
        drawn = webui.draw(prompt, *args, **request)
        said = re.search(r"Probe: (\w+)", drawn.infotext)
        assert said is not None
        return said[1] if "init_images" in more else drawn.pixels
    except Refused as refused:
        return f"{REFUSED}{refused.status}"


def state(webui: Webui) -> dict[str, Any]:
    """What the process holds after one and the same picture.

    Twice at once, as the mixed requests came: a worker thread keeps its last one until the next.
    """
    with ThreadPoolExecutor(2) as clients:
        for _ in clients.map(lambda text: answer(webui, (text, (), {})), ["the same picture"] * 2):
            pass
    return webui.get("/probe/state")


def test_mixed_runs_leave_nothing_and_are_never_mixed_up(webui: Webui) -> None:
    kinds: dict[str, Callable[[], str]] = {
        name: (lambda kind=kind: answer(webui, kind)) for name, kind in KINDS.items()
    }
    # what was never saved stays overridden in a webui
    webui.post("/sdapi/v1/options", {"CLIP_stop_at_last_layers": 1})
    webui.probe(watch=False, digest=True)
    answer(webui, KINDS["LoRA"])  # the webui reads the folder and patches its layers once
    try:
        check(
            webui.name, kinds, lambda: state(webui), lambda: webui.get("/probe/memory"), WRONG, SAME
        )
    finally:
        webui.probe()
