"""One training run inside the webui: its order, its thread, and the webui put back afterwards."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from apl_core.errors import AplError, ConfigError, RunError
from apl_core.prefix import Prefix, Rows
from apl_core.training.config import TrainConfig
from apl_core.training.events import Control, Event, Finished, Phase, Stepped
from apl_core.training.folder import RunFolder
from apl_core.training.loop import Model, Trainer

from ..hosts import Host
from ..webui import loaded_model, module
from .material import FRAMES, PEOPLE, Material, make_latents, prompts_of, sample
from .ports import HostDenoiser, HostEncoder, pictures, refuse_unfit

log = logging.getLogger("apl")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
_LATENT = 8
"""Pixels per side of one place of a latent."""


@dataclass(frozen=True)
class Order:
    """What a run shall learn; kept in its folder, so that it can be resumed."""

    names: tuple[str, ...]
    size: int = 512

    def __post_init__(self) -> None:
        alike = [" ".join(name.casefold().split()) for name in self.names]
        if not alike or "" in alike or len(set(alike)) != len(alike):
            raise ConfigError("train on these names", "there is none, or one stands there twice",
                              "write one name a line, each of them once")  # fmt: skip
        if not 64 <= self.size <= 1024 or self.size % 64:
            raise ConfigError("train on pictures of this size", f"{self.size} pixels",
                              "give a multiple of 64 from 64 to 1024")  # fmt: skip

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"names": self.names, "size": self.size}), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Order:
        said = json.loads(path.read_text(encoding="utf-8"))
        return Order(tuple(said["names"]), said["size"])


def runs_folder() -> Path:
    """Where the webui's runs lie."""
    return Path(module("paths").data_path) / "apl-runs"


def folder_of(name: str) -> RunFolder:
    """The folder of a run by its name; ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"use the run name {name[:60]!r}", "it is no plain name",
                          "use 1 to 60 letters, digits, - and _")  # fmt: skip
    return RunFolder(runs_folder() / name)


class Job:
    """At most one run at a time, in a thread of its own that outlives the page."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.control = Control()
        self.folder: RunFolder | None = None
        self.said = ""
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether a run is under way or waits for the webui's queue."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, name: str, order: Order, config: TrainConfig) -> None:
        """Begin a new run; AplErrors."""
        folder = self._free(name)
        folder.create(config)
        with folder.told("write the order in"):
            order.save(folder.path / "order.json")
        self._go(folder, order, config)

    def resume(self, name: str) -> None:
        """Go on with a run that was stopped or killed; AplErrors."""
        folder = self._free(name)
        if not folder.config.is_file():
            raise RunError(f"resume {name}", f"there is no such run in {runs_folder()}",
                           "start one")  # fmt: skip
        lines = folder.config.read_text(encoding="utf-8").splitlines()
        pairs = (line.partition(" = ") for line in lines if line)
        config = TrainConfig.from_mapping({key: json.loads(value) for key, _, value in pairs})
        self._go(folder, Order.load(folder.path / "order.json"), config)

    def _free(self, name: str) -> RunFolder:
        if self.running:
            raise RunError("start a run", "another one is under way", "stop it or wait for it")
        refuse_unfit(loaded_model())
        return folder_of(name)

    def _go(self, folder: RunFolder, order: Order, config: TrainConfig) -> None:
        self.control, self.folder, self.said = Control(), folder, "waiting for the webui's queue"
        self._thread = threading.Thread(target=self._run, args=(folder, order, config), daemon=True)
        self._thread.start()

    def _run(self, folder: RunFolder, order: Order, config: TrainConfig) -> None:
        try:
            with module("call_queue").queue_lock, borrowed() as model:
                prefix = learn(self.host, model, folder, order, config, self)
            self.said += f"; learnt {prefix.n} vectors, {prefix.card.steps} steps"
        except AplError as error:
            self.said = f"failed: {error}"
        except Exception as error:
            log.exception("APL training failed")
            self.said = f"failed: {type(error).__name__}: {error}"

    def tell(self, event: Event) -> None:
        """Show an event in the webui's progress, and take its interrupt button seriously."""
        state = module("shared").state
        if isinstance(event, Phase):
            self.said = f"{event.name}: {event.done} of {event.total}"
        elif isinstance(event, Stepped):
            state.job_no, state.job_count = event.step, event.steps
            self.said = f"step {event.step} of {event.steps}, loss {event.loss:.3g}"
        elif isinstance(event, Finished):
            self.said = f"finished at step {event.step} ({event.why})"
        state.textinfo = f"APL: {self.said}"
        if state.interrupted or state.stopping_generation:
            self.control.stop.set()


@contextlib.contextmanager
def borrowed() -> Iterator[Any]:
    """The loaded model for training, and everything of the webui as it was afterwards."""
    shared, hijack = module("shared"), module("sd_hijack")
    model = shared.sd_model
    refuse_unfit(model)
    lora = sys.modules.get("networks")  # the builtin extension's module
    if lora is not None:
        lora.loaded_networks.clear()
    shared.state.begin(job="apl-training")
    hijack.undo_optimizations()  # not every fast attention has a backward pass
    try:
        yield model
    finally:
        hijack.model_hijack.apply_optimizations()
        shared.state.end()
        module("devices").torch_gc()


def learn(
    host: Host, model: Any, folder: RunFolder, order: Order, config: TrainConfig, job: Job
) -> Prefix:
    """Learn a prefix into a run folder on the loaded model; AplErrors."""
    encoder, denoiser = HostEncoder(host, model), HostDenoiser(model)
    side = order.size // _LATENT
    shape = (4, side, side)
    prompts = prompts_of(order.names)

    def tell(done: int, total: int) -> None:
        job.tell(Phase("pictures to learn from", done, total))
        if job.control.stop.is_set():
            raise RunError("make the pictures to learn from", "it was stopped", "resume the run")

    latents = make_latents(
        folder.path / "latents.safetensors", encoder, denoiser, prompts, shape, tell
    )

    def preview(rows: Rows, path: Path) -> None:
        """Without the prefix above, with it below."""
        texts = [FRAMES[0].format(name) for name in order.names[:3]] + [PEOPLE[0]]
        drawn = [sample(encoder, denoiser, texts, shape, 0, each) for each in (None, rows)]
        strips = [torch.cat(list(pictures(model, latents)), 2) for latents in drawn]
        sheet = torch.cat(strips, 1).permute(1, 2, 0)
        picture = (255 * sheet).round().byte().cpu().numpy()
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)

    named = Model(encoder, denoiser, model.sd_checkpoint_info.name_for_extra)
    trainer = Trainer(
        config, named, Material(prompts, latents), folder, None, preview,
        [job.tell], job.control, names_trained=len(order.names),
    )  # fmt: skip
    return trainer.run()
