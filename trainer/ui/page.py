"""The page's components and what connects them with the controller."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from apl_core.errors import AplError
from apl_core.training.config import PRESETS

from . import markup
from .compat import known
from .controller import Controller
from .review import shown_text
from .run_status import RunStatus

log = logging.getLogger("apl")

SECONDS, _LARGE, _SLOWER = 1.5, 5000, 4
"""How often an open page asks for news; one of so many elements, so many times more seldom.

Whatever an event brings, gradio goes through all elements of a page: a webui's has 11,000.
"""

_TICK = (
    "if (!window.aplTicking) window.aplTicking = setTimeout(function news() {"
    "const tick = document.querySelector('#apl_tick');"
    "const seen = document.querySelector('#apl_status')?.offsetParent;"  # not another tab's page
    "if (tick && seen && !document.hidden) tick.click();"
    f"const large = document.getElementsByTagName('*').length > {_LARGE};"
    f"setTimeout(news, {round(1000 * SECONDS)} * (large ? {_SLOWER} : 1))"
    f"}}, {round(1000 * SECONDS)})"
)
_ABOUT = {
    "pocket": "Cartoon faces of people who do not exist. A prefix is learned and measured on this "
    "machine in minutes; nothing is downloaded.",
    "checkpoint": "A checkpoint of yours, or the folder of a diffusers pipeline. It draws the "
    "pictures to learn from itself, and nothing of it is changed. Not yet tried on pretrained "
    "weights.",
}
_PIECES = 5
"""Files beside a transformer's at most: three text encoders, a VAE and a tokenizer."""

_EMPTY = {
    "pocket": "One name a line. Left empty, the model's own names are taken.",
    "checkpoint": "One name a line.",
}


class View:
    """The panels of one page: what each shows now, and only what changed since it was sent."""

    def __init__(self, gr: Any, controller: Controller) -> None:
        self._gr, self._desk = gr, controller

    def show(self, name: str | None, sent: dict[str, Any], said: str | None) -> list[Any]:
        """Updates for a notice, both lists, all panels and buttons, and what is now sent.

        `sent` is what this page showed before; `said` a notice's HTML, or None to leave it.
        Answers of overlapping events may come in any order: the next news put them right. Models
        are looked for when a run begins or ends: it may have made a folder of files.
        """
        gr, controller = self._gr, self._desk
        run = self._look(name)
        at = (run.name, run.state) if run else None
        still = sent and sent["at"] == at
        fresh: dict[str, Any] = {
            "runs": (tuple(controller.index.runs()), run.name if run else None),
            "models": sent["models"] if still else tuple(controller.index.models()),
            "status": markup.status(run),
            "charts": markup.charts(run),
            "preview": markup.preview(run),
            "results": markup.results(run, controller.index.apl_dir),
            "contact": markup.contact(run),
            "trial": markup.trial(run),
            "described": _described(run),
            **_usable(run, controller.index.apl_dir),
        }
        updates: list[Any] = [
            gr.update() if said is None else gr.update(value=said, visible=bool(said))
        ]
        for key, value in fresh.items():
            if sent.get(key) == value:
                updates.append(gr.update())
            elif key == "runs":
                updates.append(gr.update(choices=list(value[0]), value=value[1]))
            elif key == "models":
                updates.append(gr.update(choices=list(value)))
            elif isinstance(value, bool):
                updates.append(gr.update(**{"interactive" if key == "start" else "visible": value}))
            else:
                updates.append(value)
        return [*updates, fresh | {"at": at}]

    def _look(self, name: str | None) -> RunStatus | None:
        try:
            return self._desk.look(name) if name else None
        except AplError:  # its folder was deleted meanwhile
            return None


def _usable(run: RunStatus | None, apl_dir: Path | None) -> dict[str, bool]:
    """Which buttons make sense now, in the order of the outputs; the others are not shown."""
    asks = run is not None and run.going and not run.learned
    return {
        "start": run is None or not run.going,
        "asks": asks,
        "looks": run is not None and run.state == "looking",
        "tries": asks or (run is not None and not run.going and run.prefix is not None),
        "resume": run is not None and run.state in ("stopped", "failed", "broken") and run.began,
        "use": apl_dir is not None and run is not None and not run.going and run.prefix is not None,
    }


def _described(run: RunStatus | None) -> str:
    """What the page offers to edit; nothing while nobody is asked."""
    if run is None or run.state != "looking":
        return ""
    try:
        return shown_text(run.path)
    except AplError:  # the table was spoilt by hand: a button will say so
        return ""


def build(gr: Any, controller: Controller) -> None:
    """Put the page into the Blocks that are open."""
    view = View(gr, controller)
    html = partial(gr.HTML, **known(gr.HTML.__init__, padding=False))
    html(markup.part("style", _TICK) + markup.part("head"))
    sent = gr.State({})
    tick = gr.Button("news", elem_id="apl_tick", elem_classes=["apl-hidden"])
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            ordered = _order_form(gr, html, controller)
            start = gr.Button("Start", variant="primary", elem_id="apl_start")
        with gr.Column(scale=3, min_width=420):
            notice = html("", elem_id="apl_notice", visible=False)
            with gr.Row():
                runs = gr.Dropdown([], label="Run", elem_id="apl_runs", scale=3)
                resume = gr.Button("Resume", elem_id="apl_resume", scale=1, visible=False)
            status = html(markup.status(None), elem_id="apl_status")
            with gr.Row(visible=False) as asks:
                stop = gr.Button("Stop and save", elem_id="apl_stop")
                save = gr.Button("Save now", elem_id="apl_save")
                shot = gr.Button("Preview now", elem_id="apl_preview")
            with gr.Column(visible=False) as looks:
                contact = html(markup.contact(None), elem_id="apl_contact")
                described = gr.Textbox(
                    label="What stands for each name (NAME: DESCRIPTION)",
                    lines=6,
                    max_lines=20,
                    elem_id="apl_described",
                )
                learn = gr.Button("Learn from these", variant="primary", elem_id="apl_learn")
            charts = html(markup.charts(None), elem_id="apl_charts")
            results = html(markup.results(None, None), elem_id="apl_results")
            use = gr.Button("Use it now", variant="primary", elem_id="apl_use", visible=False)
            with gr.Column(visible=False) as tries:
                prompt = gr.Textbox(
                    label="Try it on my prompt",
                    lines=2,
                    max_lines=6,
                    placeholder="a photo of ... smiling",
                    elem_id="apl_prompt",
                )
                with gr.Row():
                    negative = gr.Textbox(
                        label="Negative prompt", max_lines=2, scale=3, elem_id="apl_negative"
                    )
                    seed = gr.Textbox(label="Seed", value="0", max_lines=1, elem_id="apl_seed")
                    draw = gr.Button("Draw", elem_id="apl_draw")
                trial = html(markup.trial(None), elem_id="apl_trial")
            sheet = html(markup.preview(None), elem_id="apl_sheet")
    outputs = [
        notice,
        runs,
        ordered[0],
        status,
        charts,
        sheet,
        results,
        contact,
        trial,
        described,
        start,
        asks,
        looks,
        tries,
        resume,
        use,
        sent,
    ]

    def on(button: Any, do: Callable[..., str], inputs: Sequence[Any], moves: bool = False) -> None:
        """Connect a button: `do` gives the run to show if it `moves` there, else what to say."""

        def press(name: str | None, before: dict[str, Any], *given: Any) -> list[Any]:
            try:
                answer = do(*("" if one is None else one for one in given))
            except AplError as error:
                return view.show(name, before, markup.notice(str(error), "bad"))
            except Exception as error:
                log.exception("a button of the page failed")
                text = f"Something unexpected: {type(error).__name__}: {error}"
                return view.show(name, before, markup.notice(text, "bad"))
            if moves:
                return view.show(answer, before, "")
            return view.show(name, before, markup.notice(answer))

        button.click(press, [runs, sent, *inputs], outputs, show_progress="hidden")

    on(start, controller.start, ordered, moves=True)
    on(resume, controller.resume, [runs], moves=True)
    on(use, controller.use, [runs])
    on(learn, controller.learn, [runs, described], moves=True)
    on(draw, controller.attempt, [runs, prompt, negative, seed])
    for button, what in ((stop, "stop"), (save, "save"), (shot, "preview")):
        on(button, partial(controller.ask, what), [runs])

    def news(name: str | None, before: dict[str, Any]) -> list[Any]:
        if before:
            return view.show(name, before, None)
        return view.show(controller.now(), before, "")  # the page was opened just now

    for event in (tick.click, runs.change):
        event(news, [runs, sent], outputs, show_progress="hidden")


def _order_form(gr: Any, html: Callable[..., Any], controller: Controller) -> list[Any]:
    """What is asked of the user before a run: the inputs of `Controller.start`, in its order."""
    models = controller.index.models()
    title, first = next(iter(models.items()))
    model = gr.Dropdown(list(models), value=title, label="Model", elem_id="apl_model")
    about = html(markup.part("about", _ABOUT[first.kind]), elem_id="apl_about")
    pieces = [
        gr.Dropdown([], label="Piece", elem_id=f"apl_piece_{number}", visible=False)
        for number in range(_PIECES)
    ]
    names = gr.Textbox(
        label="Names to learn from",
        lines=7,
        max_lines=14,
        placeholder=_EMPTY[first.kind],
        elem_id="apl_names",
    )
    with gr.Row():
        html(markup.part("file_button", "apl_names"))
        fill = gr.Button(
            "Show the model's names", size="sm", elem_id="apl_fill", visible=first.kind == "pocket"
        )
    titles = [preset.title for preset in PRESETS.values()]
    usual = PRESETS["standard"].title
    preset = gr.Radio(titles, value=usual, label="Preset", elem_id="apl_preset")
    look = gr.Checkbox(
        label="Show me the pictures and descriptions before it learns",
        value=False,
        elem_id="apl_look",
        visible=controller.index.looks and first.kind != "pocket",
    )
    name = gr.Textbox(label="Name of the run", value="my-prefix", max_lines=1, elem_id="apl_name")
    with gr.Accordion("More settings", open=False, elem_id="apl_more"):
        settings = gr.Textbox(
            label="Settings over those of the preset, as in a TOML file",
            lines=3,
            placeholder="steps = 400\nseed = 1",
            elem_id="apl_settings",
        )
        html(markup.settings_help())

    def chosen(title: str) -> list[Any]:
        kind = controller.index.model(title).kind
        real = kind != "pocket"
        told, missing = markup.part("about", _ABOUT[kind]), []
        if real and controller.index.looks:
            try:
                found = controller.about(title)
                told, missing = markup.model(found) + told, list(found.pieces)
            except AplError as error:
                told = markup.notice(str(error), "bad")
        return [
            told,
            gr.update(placeholder=_EMPTY[kind]),
            gr.update(visible=not real),
            gr.update(visible=controller.index.looks and real),
            *(_piece(gr, missing, number) for number in range(len(pieces))),
        ]

    outputs = [about, names, fill, look, *pieces]
    model.change(chosen, [model], outputs, show_progress="hidden")
    fill.click(controller.names_of, [model], [names], show_progress="hidden")
    return [model, names, preset, settings, name, look, *pieces]


def _piece(gr: Any, missing: Sequence[tuple[Any, Sequence[str]]], number: int) -> Any:
    """The update of a list to choose a piece from, which is not shown where there is none."""
    if number >= len(missing):
        return gr.update(choices=[], value=None, visible=False)
    piece, titles = missing[number]
    first = titles[0] if titles else None
    return gr.update(choices=list(titles), value=first, label=piece.label, visible=True)
