"""The accordion "Anonymize faces" in txt2img and img2img."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from apl_core.errors import AplError

from . import config, request
from .fit_line import AT_ONCE, fit_line
from .hosts import Host
from .steps import StepRange
from .webui import gradio, module

log = logging.getLogger("apl")

LABEL = "Anonymize faces"


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
        event(lambda _on, *given: fit_line(host, *given), said, [line], **AT_ONCE)
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
