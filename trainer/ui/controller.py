"""What the page's buttons do, without a page: start, resume, ask, use."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apl_core.atomic import numbered, reason, write_bytes, write_text
from apl_core.errors import ConfigError, RunError
from apl_core.training.config import PRESETS
from apl_core.training.people import people_in

from ..checkpoints.model_files import Piece, needed
from ..run_paths import STATUS
from .launcher import Runner
from .model_index import ModelIndex
from .review import APPROVED, DATA
from .run_request import RunRequest
from .run_status import RunStatus, read_run
from .trial import TRY, Trial, tried

_ASKED = {
    "stop": "The run stops after the step under way and saves.",
    "save": "The run saves after the step under way.",
    "preview": "The run draws a preview after the step under way.",
}


@dataclass(frozen=True)
class ModelFound:
    """What a model is, a sentence or a family; what it lacks, with the titles of what fits."""

    said: str
    pieces: Sequence[tuple[Piece, Sequence[str]]] = ()


class Controller:
    """All that a page may ask for; every refusal is an AplError whose sentence the page shows."""

    def __init__(self, index: ModelIndex, runner: Runner) -> None:
        self.index, self._runner = index, runner
        self._lock = threading.Lock()

    def start(
        self,
        model: str,
        names: str,
        preset: str,
        settings: str,
        name: str,
        look: bool = False,
        *pieces: str,
    ) -> str:
        """Order a run and begin it; its name. Names and settings are texts, one a line.

        With `look` a run on a checkpoint waits for `learn` once its pictures are drawn. `pieces`
        are the titles of what makes a transformer's file whole.
        """
        choice = self.index.model(model)
        key = next((k for k, p in PRESETS.items() if preset in (k, p.title)), None)
        if key is None:
            raise ConfigError(f"use the preset {preset}", "there is none", "choose one of the list")
        given = people_in(names) if names.strip() or choice.kind != "pocket" else None
        real = choice.kind != "pocket"
        wanted = None if given is None else tuple(one.line if real else one.name for one in given)
        looked = bool(look) and choice.kind != "pocket"
        files = self.index.pieces(choice, pieces)
        order = RunRequest(
            choice.kind,
            str(choice.path),
            wanted,
            key,
            looked,
            None if files is None else tuple(map(str, files)),
            str(self.index.imports_root),
        )
        with self._lock:
            self._refuse_two()
            folder = self.index.new_run(name.strip())
            order.save(folder, settings)
            self._go(folder)
        return folder.name

    def resume(self, name: str) -> str:
        """Go on with a run that was stopped, failed or killed; its name."""
        with self._lock:
            self._refuse_two()
            folder = self.index.run(name)
            RunRequest.of(folder)
            self._go(folder)
        return folder.name

    def learn(self, name: str, descriptions: str) -> str:
        """Take descriptions, `NAME: DESCRIPTION` a line, and learn from the pictures; its name."""
        from ..data.descriptions_csv import write_descriptions

        run = self.look(name)
        if run.state != "looking":
            raise RunError(
                f"learn in {run.name}", "it is not waiting for a review", "choose another run"
            )
        wanted: dict[str, str] = {}
        for number, line in enumerate(descriptions.splitlines(), 1):
            who, colon, text = line.partition(":")
            if line.strip() and not colon:
                raise ConfigError(
                    "read the descriptions",
                    f"there is no colon in line {number}",
                    "write NAME: DESCRIPTION",
                )
            if line.strip():
                wanted[who.strip()] = text.strip()
        write_descriptions(run.path / DATA, wanted)
        _touch(run.path / APPROVED, "learn in", run)
        return self.resume(name)

    def ask(self, what: str, name: str) -> str:
        """Leave a request `stop`, `save` or `preview` for a run; what will come of it."""
        run = self.look(name)
        if what not in _ASKED or not run.going:
            raise RunError(f"{what} {run.name}", "it is not going on", "resume it first")
        self._refuse_late(what, run)
        _touch(run.path / what, what, run)
        return _ASKED[what]

    def attempt(self, name: str, prompt: str, negative: str, seed: str) -> str:
        """Ask for pictures of a prompt without and with a run's prefix; how they will be drawn.

        A run at work draws them between two steps, else a process of its own does.
        """
        trial, run = Trial.asked(prompt, negative, seed), self.look(name)
        with self._lock:
            before = tried(run)
            if before is not None and before.going:
                raise RunError(
                    f"draw in {run.name}", "it is drawing already", "wait for those pictures"
                )
            if run.going:
                self._refuse_late("draw", run)
                trial.save(run.path)
                _touch(run.path / TRY, "draw", run)
                return "The pictures are drawn between two steps of the run."
            if run.prefix is None:
                raise RunError(f"draw in {run.name}", "it has no prefix yet", "let it learn first")
            self._refuse_two()
            self._go(trial.save(run.path))
        return "The model is loaded and draws."

    def use(self, name: str) -> str:
        """Copy a run's prefix to where hosts look for prefixes; says where it is now."""
        from apl_core.formats import read_prefix

        run, target = self.look(name), self.index.apl_dir
        if run.prefix is None:
            raise RunError(f"use {run.name}", "it has no prefix yet", "wait for it, or stop it")
        if target is None:
            raise RunError(
                f"use {run.name}",
                "the page does not know where hosts look for prefixes",
                "start it with `apl ui --apl-dir FOLDER`, or download the prefix",
            )
        read_prefix(run.prefix)
        data = run.prefix.read_bytes()
        path = _free(target, run.name, data)
        try:
            target.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data)
        except OSError as error:
            raise RunError(f"copy the prefix to {target}", *reason(error)) from error
        return (
            f"Copied to {path}. Refresh the list of prefixes in the host, then choose {path.stem}."
        )

    def look(self, name: str) -> RunStatus:
        """A run as it stands."""
        self._runner.reap()
        return read_run(self.index.run(name))

    def runs(self) -> list[RunStatus]:
        """All runs, the newest first."""
        self._runner.reap()
        return [read_run(self.index.runs_root / name) for name in self.index.runs()]

    def now(self) -> str | None:
        """The run to show first: the one that is going on, else the newest; None without runs."""
        runs = self.runs()
        going = [run for run in runs if run.going]
        return (going or runs)[0].name if runs else None

    def about(self, model: str) -> ModelFound:
        """What a checkpoint is, and what can make it whole if it is a transformer alone."""
        path = self.index.model(model).path
        lone = needed(path) if path.is_file() else None
        if lone is not None:
            family, pieces = lone
            return ModelFound(family, [(p, list(self.index.candidates(p))) for p in pieces])
        from ..checkpoints.detect import detect  # it brings torch

        return ModelFound(detect(path).sentence)

    def names_of(self, model: str) -> str:
        """The names that a pocket model's prefix is learned from, one a line; else nothing."""
        from ..pocket.world import World

        choice = self.index.model(model)
        if choice.kind != "pocket":
            return ""
        world = World.load(choice.path / "world.json")
        return "\n".join(person.name for person in world.group("train"))

    def _refuse_late(self, what: str, run: RunStatus) -> None:
        if run.learned:
            raise RunError(
                f"{what} {run.name}",
                "it has learned and saved; now it is being measured",
                "wait for the result",
            )

    def _refuse_two(self) -> None:
        for run in self.runs():
            if run.going:
                raise RunError("begin", f"{run.name} is going on", "wait for it, or stop it first")
            trial = tried(run)
            if trial is not None and trial.going:
                raise RunError("begin", f"pictures are being drawn in {run.name}", "wait for them")

    def _go(self, folder: Path) -> None:
        for request in (*_ASKED, TRY):  # left over from the process before this one
            (folder / request).unlink(missing_ok=True)
        process = self._runner.start(folder)
        said = {"state": "working", "doing": "starting", "process": process}
        if not (folder / STATUS).exists() or read_run(folder).state != "working":
            try:
                write_text(folder / STATUS, json.dumps(said) + "\n")
            except OSError as error:
                raise RunError(f"begin a run in {folder}", *reason(error)) from error


def _touch(request: Path, what: str, run: RunStatus) -> None:
    try:
        request.touch()
    except OSError as error:
        raise RunError(f"{what} {run.name}", *reason(error)) from error


def _free(folder: Path, name: str, data: bytes) -> Path:
    """A path for a prefix: no other one of the same name is lost, the same one is not doubled."""
    ending = ".safetensors"
    return numbered(
        folder / f"{name}{ending}", ending, lambda path: path.exists() and path.read_bytes() != data
    )
