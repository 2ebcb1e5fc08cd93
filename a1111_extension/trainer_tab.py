"""The tab "APL Trainer": learn a prefix on the checkpoint that is loaded, watch it, use it."""

from __future__ import annotations

import html
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

from apl_core.errors import AplError

from . import config
from .hosts import Host
from .webui import gradio, module

TITLE = "APL Trainer"
Shown = tuple[str, str | None]
"""Status as HTML, and the newest preview picture."""


class Desk:
    """What the buttons do; the training code is imported with the first of them."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._job: Any = None

    @property
    def job(self) -> Any:
        """The one job of this webui."""
        if self._job is None:
            from .training.job import Job

            self._job = Job(self._host)
        return self._job

    def start(
        self, name: str, names: str, steps: float, vectors: float, behind: float,
        rate: float, size: float,
    ) -> Iterator[Shown]:  # fmt: skip
        """Begin a run and watch it."""
        from apl_core.training.config import TrainConfig

        from .training.job import Order

        def begin() -> None:
            lines = [line.strip() for line in names.splitlines()]
            order = Order(tuple(line for line in lines if line), int(size))
            settings = TrainConfig.from_mapping(
                {
                    "steps": int(steps),
                    "vectors": int(vectors),
                    "behind": int(behind),
                    "rate": float(rate),
                    "batch_identity": 2,
                    "batch_things": 1,
                    "batch_people": 2,
                    "micro_batch": 1,
                    "pool": 0,
                    "check_every": 0,
                }
            )
            self.job.start(name.strip(), order, settings)

        yield from self._watch_after(begin)  # gradio asks the function, not what it gives

    def resume(self, name: str) -> Iterator[Shown]:
        """Go on with a run and watch it."""
        yield from self._watch_after(lambda: self.job.resume(name.strip()))

    def watch(self) -> Iterator[Shown]:
        """What is going on, until nothing is; the run goes on if nobody watches."""
        while self.job.running:
            yield self.shown()
            time.sleep(1)
        yield self.shown()

    def ask(self, what: str) -> Callable[[], Shown]:
        """A button's function that asks the run for `stop`, `save` or `preview`."""

        def press() -> Shown:
            getattr(self.job.control, what).set()
            return self.shown()

        return press

    def use(self, name: str) -> Shown:
        """Copy a run's prefix to where the accordion finds it."""
        from .training.job import folder_of

        try:
            source = folder_of(name.strip()).prefix
            if not source.is_file():
                return _paragraph("This run has no prefix yet: stop it first."), None
            target = config.roots()[0]
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / f"{name.strip()}.safetensors")
        except (AplError, OSError) as error:
            return _paragraph(str(error)), None
        return _paragraph(f"Copied to {target}: refresh the list in txt2img."), None

    def shown(self) -> Shown:
        """The state of the job, its curve and its newest preview."""
        folder = self.job.folder
        if folder is None:
            return _paragraph("No run yet."), None
        losses = [row["loss"] for row in folder.rows() if row.get("loss") is not None]
        previews = sorted(folder.previews.glob("*.png"))
        text = _paragraph(f"{folder.path.name}: {self.job.said}") + _curve(losses)
        return text, str(previews[-1]) if previews else None

    def _watch_after(self, begin: Callable[[], None]) -> Iterator[Shown]:
        try:
            begin()
        except AplError as error:
            yield _paragraph(str(error)), None
            return
        yield from self.watch()


def build(host: Host) -> list[tuple[Any, str, str]]:
    """The tab, or none where extensions may not be changed from the page."""
    if module("shared").cmd_opts.disable_extension_access:
        return []
    gr, desk = gradio(), Desk(host)
    with gr.Blocks(analytics_enabled=False) as tab, gr.Row():
        with gr.Column():
            name = gr.Textbox(label="Run", value="my-prefix", elem_id="apl_train_run")
            names = gr.Textbox(
                label="Names to learn from, one a line", lines=8, elem_id="apl_train_names"
            )
            with gr.Row():
                steps = gr.Number(label="Steps", value=1000, elem_id="apl_train_steps")
                vectors = gr.Number(label="Vectors", value=10, elem_id="apl_train_vectors")
                behind = gr.Number(
                    label="Of them behind the text", value=5, elem_id="apl_train_behind"
                )
                rate = gr.Number(label="Learning rate", value=0.002, elem_id="apl_train_rate")
                size = gr.Number(label="Picture size", value=512, elem_id="apl_train_size")
            with gr.Row():
                start = gr.Button("Start", variant="primary", elem_id="apl_train_start")
                resume = gr.Button("Resume", elem_id="apl_train_resume")
                watch = gr.Button("Watch", elem_id="apl_train_watch")
            with gr.Row():
                stop = gr.Button("Stop and save", elem_id="apl_train_stop")
                save = gr.Button("Save now", elem_id="apl_train_save")
                preview = gr.Button("Preview now", elem_id="apl_train_preview")
                use = gr.Button("Use it now", elem_id="apl_train_use")
        with gr.Column():
            status = gr.HTML(_paragraph("No run yet."), elem_id="apl_train_status")
            picture = gr.Image(
                label="Without the prefix, with it", elem_id="apl_train_picture", interactive=False
            )
        shown = [status, picture]
        order = [name, names, steps, vectors, behind, rate, size]
        start.click(desk.start, inputs=order, outputs=shown)
        resume.click(desk.resume, inputs=[name], outputs=shown)
        watch.click(desk.watch, inputs=[], outputs=shown)
        use.click(desk.use, inputs=[name], outputs=shown)
        for button, what in ((stop, "stop"), (save, "save"), (preview, "preview")):
            button.click(desk.ask(what), inputs=[], outputs=shown)
    for component in order:
        component.do_not_save_to_config = True
    return [(tab, TITLE, "apl_trainer")]


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _curve(losses: list[float]) -> str:
    """The loss as a small SVG."""
    if len(losses) < 2:
        return ""
    top, last = max(losses) or 1.0, len(losses) - 1
    points = " ".join(
        f"{300 * i / last:.1f},{80 - 76 * loss / top:.1f}" for i, loss in enumerate(losses)
    )
    return (
        "<svg viewBox='0 0 300 84' style='width:100%;max-height:12em'><polyline fill='none' "
        f"stroke='currentColor' points='{points}'/></svg>"
    )
