"""The line under a list of prefixes: whether the chosen one fits, and what room it leaves."""

from __future__ import annotations

import base64
import html
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apl_core.errors import AplError
from apl_core.prefix import Prefix
from apl_core.tokens import room

from . import config, gate, request
from .hosts import Host, report
from .refusal import public
from .trainer_tab import ELEMENT
from .webui import awaited, loaded_model, module

_PICTURES = (".preview.png", ".png", ".preview.jpg", ".jpg", ".jpeg", ".webp")
_PICTURE_BYTES = 512 * 1024
_NONE_YET = (
    "There is no prefix yet: a ticked box makes no picture.",
    "A prefix is a small file that was learned to make faces anonymous; it goes before prompts.",
    "Learn one in the tab APL Trainer, or put a file (.safetensors) into models/apl and refresh.",
)
_OPEN = "Open APL Trainer"
_CLICK = (
    f"(document.querySelector('#tab_{ELEMENT}-button') ?? "  # gradio 3 gives tabs' buttons no name
    "document.querySelectorAll('#tabs > .tab-nav > button')[[...document.querySelectorAll("
    f"'#tabs > .tabitem')].findIndex(one => one.id === 'tab_{ELEMENT}')])?.click()"
)
_WHEN_LOADED = "is loaded with the next picture; whether this prefix fits it is looked at then."
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
"""How a line is written: in Neo the queue's overlay would stay on it."""
_LAST = "footer"
"""The webui's component behind all others on its page."""
_CHOOSERS = ("setting_sd_model_checkpoint", "setting_sd_modules")
"""Its lists of checkpoints and, in Neo, of files with text encoders and VAEs."""
_TABS = ("txt2img", "img2img")


def follow(host: Host) -> Callable[..., None]:
    """What the webui calls for each component of its page: keeps the lines true.

    They are written anew when another checkpoint is chosen, by hand or by a preset, and when
    another picture was drawn, which is when a Forge loads what was chosen. The box of a picture's
    facts tells that: HTML, as the log under it, says in gradio 4 that it has changed whenever
    anything on the page has, which writing a line is.
    """

    def again(name: object, start: object, end: object, *lists: object) -> str:
        return fit_line(host, name, start, end, *lists)

    def built(component: Any, **_: Any) -> None:
        if getattr(component, "elem_id", None) != _LAST:
            return
        page = importlib.import_module("gradio.context").Context.root_block.blocks.values()
        named = {one.elem_id: one for one in page if one.elem_id}
        choosers = [named[one] for one in _CHOOSERS if one in named]
        drawn = [named[one] for tab in _TABS if (one := f"generation_info_{tab}") in named]
        for tab in _TABS:
            ours = [f"script_{tab}_apl_{part}" for part in ("prefix", "start", "end", "fit")]
            if not named.keys() >= set(ours):
                continue
            *said, line = (named[one] for one in ours)
            for source in (*choosers, *drawn):
                given = [*said, *choosers]
                source.change(again, given, [line], **AT_ONCE)

    return built


def fit_line(
    host: Host, name: object, start: object = 0.0, end: object = 1.0, *lists: object
) -> str:
    """HTML: does the prefix fit the loaded checkpoint, and how much of text and steps is there.

    `lists` is what the page's lists of checkpoints and modules show, if it is known.
    """
    if not config.enforced() and not config.library().names():
        return _none_yet()
    try:
        model, closed = loaded_model(), gate.running()
        chosen = closed.of(model).name if closed else request.chosen(name)
        path, prefix = config.library().resolve(chosen), config.library().load(chosen)
        if model is None:
            sentence, color = "No checkpoint is loaded yet.", "inherit"
        elif coming := awaited(*lists):
            sentence, color = f"{coming} {_WHEN_LOADED}", "inherit"
        else:
            fit = report(host, prefix, model, fingerprints=True)
            known = fit.same_encoder is not False
            color = "inherit" if known else "darkorange"
            sentence = f"{model.sd_checkpoint_info.name_for_extra}: {fit.sentence}"
        lines = [_picture(path), _paragraph(sentence, color), _room(prefix)]
    except AplError as error:
        lines = [_paragraph(str(error), "crimson")]
    return "".join([*lines, _part_of_the_steps(start, end)])


def _none_yet() -> str:
    """What a prefix is and where one comes from, with a button that opens the trainer's tab."""
    lines = [_paragraph(sentence, "inherit") for sentence in _NONE_YET]
    if not module("shared").cmd_opts.disable_extension_access:  # else there is no such tab
        style = 'class="lg secondary gradio-button"'
        lines.append(f'<button type="button" {style} onclick="{_CLICK}">{_OPEN}</button>')
    return "".join(lines)


def _room(prefix: Prefix) -> str:
    if not all(key.startswith("clip_") for key in prefix.keys):
        return ""  # language models read a text of any length
    left = room(prefix.n)
    about = f"Each chunk of the prompt has room for {left} tokens, not 75 as the counter shows."
    return _paragraph(about, "inherit")


def _part_of_the_steps(start: object, end: object) -> str:
    if (start, end) == (0, 1):
        return ""
    about = f"Only from {start:.0%} to {end:.0%} of the steps; the others draw the bare prompt."
    return _paragraph(about, "darkorange")


def _paragraph(sentence: str, color: str) -> str:
    return f"<p style='color:{color}'>{html.escape(public(sentence))}</p>"


def picture_of(path: Path) -> Path | None:
    """The preview picture beside a prefix file."""
    pictures = (path.with_name(path.stem + suffix) for suffix in _PICTURES)
    return next((one for one in pictures if one.is_file()), None)


def _picture(path: Path) -> str:
    picture = picture_of(path)
    if picture is None or picture.stat().st_size > _PICTURE_BYTES:
        return ""
    data = base64.b64encode(picture.read_bytes()).decode("ascii")
    kind = "jpeg" if picture.suffix in (".jpg", ".jpeg") else picture.suffix[1:]
    return f"<img alt='' style='max-height:8em' src='data:image/{kind};base64,{data}'>"
