"""The accordion "Anonymize faces" in txt2img and img2img."""

from __future__ import annotations

import base64
import html
import logging
from pathlib import Path
from typing import Any

from apl_core.errors import AplError
from apl_core.fit import check_fit

from . import config, request
from .hosts import Host, faces
from .steps import StepRange
from .webui import gradio, loaded_model, module

log = logging.getLogger("apl")

LABEL = "Anonymize faces"
_PICTURES = (".preview.png", ".png", ".preview.jpg", ".jpg", ".jpeg", ".webp")
_PICTURE_BYTES = 512 * 1024


def build(script: Any, host: Host) -> list[Any]:
    """Components whose values are the script's arguments: enabled, prefix, start, end."""
    gr = gradio()
    locked = config.enforced()
    label = f"{LABEL} (locked on by the operator: {locked})" if locked else LABEL
    names = config.library().names()
    chosen = locked or config.default_prefix() or None
    elem_id = script.elem_id
    with module("ui_components").InputAccordion(
        bool(locked) or config.on_by_default(), label=label, elem_id=elem_id("enabled")
    ) as enabled:
        with gr.Row():
            prefix = gr.Dropdown(
                label="Prefix",
                choices=names,
                value=chosen,
                elem_id=elem_id("prefix"),
                interactive=not locked,
            )
            module("ui_common").create_refresh_button(
                prefix,
                lambda: None,
                lambda: {"choices": config.library().names()},
                elem_id("refresh"),
            )
        line = gr.HTML(fit_line(host, chosen), elem_id=elem_id("fit"))
        with gr.Row():
            start = _slider(
                gr, "Anonymize from (share of the steps)", 0.0, elem_id("start"), locked
            )
            end = _slider(gr, "Anonymize until (share of the steps)", 1.0, elem_id("end"), locked)
    for component in (enabled, prefix, start, end):
        component.do_not_save_to_config = True  # the page of settings holds the defaults
    for component in (enabled, prefix):
        component.change(
            lambda _on, name: fit_line(host, name), inputs=[enabled, prefix], outputs=[line]
        )
    script.infotext_fields = [
        (enabled, lambda said: request.NAME in said or config.on_by_default()),
        (prefix, pasted_name),
        (start, lambda said: pasted_steps(said).start),
        (end, lambda said: pasted_steps(said).end),
    ]
    script.paste_field_names = [request.NAME, request.HASH, request.STEPS]
    return [enabled, prefix, start, end]


def fit_line(host: Host, name: object) -> str:
    """One line of HTML: does the prefix fit the loaded checkpoint; its picture if it has one."""
    if not isinstance(name, str) or not name:
        folders = html.escape(config.library().folders)
        return f"<p>No prefix yet: put one into {folders} and refresh.</p>"
    try:
        path = config.library().resolve(name)
        prefix = config.library().load(name)
        model = loaded_model()
        if model is None:
            sentence, colour = "No checkpoint is loaded yet.", "inherit"
        else:
            report = check_fit(prefix, faces(host, model, fingerprints=True))
            known = report.same_encoder is not False
            colour = "inherit" if known else "darkorange"
            sentence = f"{model.sd_checkpoint_info.name_for_extra}: {report.sentence}"
        return _picture(path) + _paragraph(sentence, colour)
    except AplError as error:
        return _paragraph(str(error), "crimson")


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


def _paragraph(sentence: str, colour: str) -> str:
    return f"<p style='color:{colour}'>{html.escape(sentence)}</p>"


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
