"""The accordion "Anonymize faces" in txt2img and img2img."""

from __future__ import annotations

import base64
import html
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apl_core.errors import AplError
from apl_core.prefix import Prefix
from apl_core.tokens import room

from . import config, gate, request
from .hosts import Host, report
from .refusal import public
from .steps import StepRange
from .trainer_tab import ELEMENT
from .webui import gradio, loaded_model, module

log = logging.getLogger("apl")

LABEL = "Anonymize faces"
_PICTURES = (".preview.png", ".png", ".preview.jpg", ".jpg", ".jpeg", ".webp")
_PICTURE_BYTES = 512 * 1024
_NONE_YET = (
    "There is no prefix yet: a ticked box makes no picture.",
    "A prefix is a small file that was learned to make faces anonymous; it goes before prompts.",
    "Learn one in the tab APL Trainer, or put a file (.safetensors) into models/apl and refresh.",
)
_OPEN = "Open APL Trainer"
_CLICK = f"document.querySelector('#tab_{ELEMENT}-button')?.click()"


def build(script: Any, host: Host) -> list[Any]:
    """Components whose values are the script's arguments: enabled, prefix, start, end."""
    gr = gradio()
    locked = config.enforced()
    names = config.library().names()
    chosen = locked or request.preset(names)
    elem_id = script.elem_id
    with _switch(gr, elem_id("enabled"), locked) as enabled:
        with gr.Row():
            prefix = gr.Dropdown(
                label="Prefix",
                choices=_choices(names),
                value=chosen,
                elem_id=elem_id("prefix"),
                interactive=not locked,
            )
            refresh = module("ui_common").create_refresh_button(
                prefix,
                lambda: None,
                lambda: {"choices": _choices(config.library().names())},
                elem_id("refresh"),
            )
        line = gr.HTML(fit_line(host, chosen), elem_id=elem_id("fit"))
        with gr.Row():
            start = _slider(
                gr, "Anonymize from (share of the steps)", 0.0, elem_id("start"), locked
            )
            end = _slider(gr, "Anonymize until (share of the steps)", 1.0, elem_id("end"), locked)
    said = [enabled, prefix, start, end]
    for component in said:
        component.do_not_save_to_config = True  # the page of settings holds the defaults
    for event in (refresh.click, *(component.change for component in said)):
        event(lambda _on, *given: fit_line(host, *given), inputs=said, outputs=[line])
    script.infotext_fields = [] if locked else list(zip(said, _PASTED, strict=True))
    script.paste_field_names = [request.NAME, request.HASH, request.STEPS]
    return said


@contextmanager
def _switch(gr: Any, elem_id: str, locked: str | None) -> Iterator[Any]:
    """The accordion that is a tick, or, locked, an open one around a tick that stays."""
    if not locked:
        accordion = module("ui_components").InputAccordion
        with accordion(config.on_by_default(), label=LABEL, elem_id=elem_id) as enabled:
            yield enabled
        return
    label = f"{LABEL} (locked on by the operator: {locked})"
    with gr.Accordion(LABEL, open=True, elem_id=f"{elem_id}-locked"):
        yield gr.Checkbox(True, label=label, elem_id=elem_id, interactive=False)


def _choices(names: list[str]) -> list[str]:
    return ["", *names]  # nothing chosen: the default of the settings


def fit_line(host: Host, name: object, start: object = 0.0, end: object = 1.0) -> str:
    """HTML: does the prefix fit the loaded checkpoint, and how much of text and steps is there."""
    if not config.enforced() and not config.library().names():
        return _none_yet()
    try:
        model, closed = loaded_model(), gate.running()
        chosen = closed.of(model).name if closed else request.chosen(name)
        path, prefix = config.library().resolve(chosen), config.library().load(chosen)
        if model is None:
            sentence, color = "No checkpoint is loaded yet.", "inherit"
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


def pasted_name(said: dict[str, Any]) -> str | None:
    """The prefix that a pasted picture was made with, found by its hash if it was renamed."""
    name, digest = said.get(request.NAME), said.get(request.HASH)
    if name is None:
        return None
    library = config.library()
    for candidate in sorted(library.names(), key=lambda one: one != name):
        try:
            if library.load(candidate).short_digest == digest:
                return candidate
        except AplError as error:
            log.debug("paste: %s", error)
    log.warning("The prefix %r with the hash %s is not here.", name, digest)
    return name


def pasted_steps(said: dict[str, Any]) -> StepRange:
    """The step range of a pasted picture; every step where it says nothing readable."""
    try:
        return StepRange.parse(said.get(request.STEPS, "0-1"))
    except AplError as error:
        log.warning("%s", error)
        return StepRange()


_PASTED: tuple[
    Callable[[dict[str, Any]], Any], ...
] = (  # None leaves a component as it is: a plain picture unticks nothing
    lambda said: True if request.NAME in said else None,
    pasted_name,
    lambda said: pasted_steps(said).start if request.NAME in said else None,
    lambda said: pasted_steps(said).end if request.NAME in said else None,
)


def _slider(gr: Any, label: str, value: float, elem_id: str, locked: str | None) -> Any:
    return gr.Slider(
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        label=label,
        value=value,
        elem_id=elem_id,
        interactive=not locked,
    )


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
