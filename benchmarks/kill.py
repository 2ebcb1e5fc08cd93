"""`apl bench kill`: a training on the pocket model, killed at random moments, on full disks too.

After every SIGKILL the folder must go on from a state that it can read; in the end the prefix and
the metrics must be, to the bit, those of a run that nobody disturbed.
"""

from __future__ import annotations

import json
import logging
import os
import random
import select
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apl_core.atomic import write_text
from apl_core.errors import AplError, HostError
from apl_core.training.callbacks import Event, Stepped
from apl_core.training.config import TrainConfig
from apl_core.training.folder import RunFolder, State
from apl_core.training.loop import Model, Trainer
from apl_trainer.pocket.model import PocketModel
from apl_trainer.pocket.source import PocketSource, training_people

_KILLS_A_RUN = 10
_STEPS = 26
_ENOUGH = 20
_NOBODY = 65534
_PATIENCE = 300.0

Say = Callable[[str], None]


def settings(seed: int, steps: int = _STEPS) -> TrainConfig:
    """A run of the smallest batches that saves after every other step."""
    return TrainConfig(
        seed=seed,
        weighting="x0",
        num_vectors=3,
        num_suffix_vectors=1,
        batch_identity=1,
        batch_things=1,
        batch_people=1,
        steps=steps,
        target_cache=6,
        lr_warmup_steps=2,
        learning_rate=0.005,
        validate_every=0,
        save_every=2,
    )


def run(model: PocketModel, out: Path, kills: int, seed: int, say: Say) -> dict[str, float]:
    """Figures of so many kills, files that cannot grow and folders that cannot be written to.

    Written to `figures.json`; `failures` counts what should not have been. Every run has
    `_KILLS_A_RUN` kills: half of them at any moment, half while a state is being written; after
    every fifth the newest state is cut off as well, as a disk does that lied about having written
    it. HostError where the system cannot fork.
    """
    if not hasattr(os, "fork"):
        raise HostError(
            "kill trainings", "this system cannot fork a process", "run it on Linux or macOS"
        )
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # a forked process has no threads of its parent
    tally = KillTally(out / "failures.txt", say)
    chance = random.Random(seed)
    while tally.kills < kills and tally.failures < _ENOUGH:
        _one_run(model, out, chance, min(kills - tally.kills, _KILLS_A_RUN), tally)
        say(f"{tally.kills} of {kills} kills, {tally.failures} failures")
    for number in range(max(2, kills // 20)):
        _no_room(model, out, chance, number, tally)
    with tempfile.TemporaryDirectory(prefix="apl-kill-") as place:
        Path(place).chmod(0o755)  # open to the user who may write nowhere
        _read_only(model, Path(place), chance, tally)
    figures = {key: float(value) for key, value in sorted(vars(tally).items()) if _count(value)}
    write_text(out / "figures.json", json.dumps(figures, indent=1, sort_keys=True) + "\n")
    return figures


def _count(value: object) -> bool:
    return isinstance(value, int)


class KillTally:
    """What happened, counted; failures are reported at once and kept in a file."""

    def __init__(self, path: Path, say: Say) -> None:
        self.path, self.say = path, say
        self.kills = self.while_writing = self.before_the_first_state = 0
        self.cut_states = self.told_of_the_earlier_state = 0
        self.runs = self.identical = self.no_room = self.read_only = self.failures = 0

    def failure(self, text: str) -> None:
        """Something that should not have been."""
        self.failures += 1
        self.say(f"FAILURE: {text}")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def _one_run(
    model: PocketModel, out: Path, chance: random.Random, kills: int, tally: KillTally
) -> None:
    config = settings(chance.randrange(2**31))
    straight, cut = _fresh(out / "straight"), _fresh(out / "cut")
    _finish(model, config, straight, tally)
    for number in range(kills):
        before = _state_step(cut)
        child = Child(model, config, cut)
        moment = _die_while_writing if number % 2 else _die_anywhere
        code = moment(child, chance, max(before, 0))
        if code == 0:  # its last step was done before the moment came
            break
        if code != -signal.SIGKILL:
            tally.failure(f"a run ended by itself with {code}: {child.said()[-500:]}")
            return
        tally.kills += 1
        tally.while_writing += child.is_writing
        _look(cut, before, number, chance, tally)
    _finish(model, config, cut, tally)
    tally.runs += 1
    if _outcome(cut) == _outcome(straight):
        tally.identical += 1
    else:
        tally.failure(f"a run of seed {config.seed} came out another one after its kills")
        shutil.copytree(cut, out / f"other-{config.seed}")


def _look(folder: Path, before: int, number: int, chance: random.Random, tally: KillTally) -> None:
    """Whether a killed run's folder can go on, and from where it began or later."""
    run_folder = RunFolder(folder)
    cut_off = number % 5 == 4 and run_folder.state.exists() and run_folder.earlier.exists()
    if cut_off:
        whole = run_folder.state.read_bytes()
        run_folder.state.write_bytes(whole[: chance.randrange(len(whole))])
        run_folder.newer.unlink(missing_ok=True)
        tally.cut_states += 1
        before = -1
    try:
        found = run_folder.load_state()
    except AplError as error:
        tally.failure(f"a killed run cannot go on: {error}")
        return
    if found is None:
        tally.before_the_first_state += 1
        if before > 0:
            tally.failure(f"the state of step {before} is gone")
        return
    if cut_off and not found[1]:
        tally.failure("nothing was said of a state that is cut off")
    tally.told_of_the_earlier_state += bool(found[1])
    if found[0].numbers["step"] < before:
        tally.failure(f"step {before} was saved, {found[0].numbers['step']} was found")


def _no_room(
    model: PocketModel, out: Path, chance: random.Random, number: int, tally: KillTally
) -> None:
    """Files that cannot grow beyond some size, as on a full disk, then room again."""
    config = settings(chance.randrange(2**31), steps=6)
    straight, cut = _fresh(out / "straight"), _fresh(out / "cut")
    _finish(model, config, straight, tally)
    largest = max(file.stat().st_size for file in straight.iterdir() if file.is_file())
    child = Child(model, config, cut, file_bytes=chance.randrange(500, largest))
    code, said = child.end()
    if code != 1 or "Fix:" not in said:
        tally.failure(f"with no room for its files a run ended with {code}: {said[-500:]}")
    if [file for file in cut.iterdir() if file.name.endswith(".tmp")]:
        tally.failure("a run without room left a temporary file")
    _finish(model, config, cut, tally)
    tally.no_room += 1
    if _outcome(cut) != _outcome(straight):
        tally.failure("a run that once had no room came out another one")


def _read_only(model: PocketModel, out: Path, chance: random.Random, tally: KillTally) -> None:
    """A folder that may not be written to, then one that may."""
    config = settings(chance.randrange(2**31), steps=6)
    straight, cut = _fresh(out / "straight"), _fresh(out / "cut")
    _finish(model, config, straight, tally)
    RunFolder(cut).create(config)
    (cut / "lock").touch()
    mode = stat.S_IMODE(cut.stat().st_mode)
    try:
        cut.chmod(0o555)
        code, said = Child(model, config, cut, nobody=True).end()
    finally:
        cut.chmod(mode)
    if code != 1 or "cannot be written to" not in said:
        tally.failure(
            f"in a folder that cannot be written to a run ended with {code}: {said[-500:]}"
        )
    _finish(model, config, cut, tally)
    tally.read_only += 1
    if _outcome(cut) != _outcome(straight):
        tally.failure("a run whose folder was read-only for a time came out another one")


def _finish(model: PocketModel, config: TrainConfig, folder: Path, tally: KillTally) -> None:
    code, said = Child(model, config, folder).end()
    if code != 0:
        tally.failure(f"a run did not end well ({code}): {said[-500:]}")


def _die_anywhere(child: Child, chance: random.Random, before: int) -> int:
    """Kill after a random step, a random part of a step later; the exit code."""
    wanted = before + chance.randrange(1, 4)
    child.wait(lambda: child.step >= wanted)
    return child.kill(chance.random() * child.step_seconds)


def _die_while_writing(child: Child, chance: random.Random, before: int) -> int:
    """Kill a random part of a save after one has begun; the exit code."""
    wanted = chance.randrange(1, 3)
    child.wait(lambda: child.saves >= wanted and child.is_writing)
    return child.kill(chance.random() * child.save_seconds)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _state_step(folder: Path) -> int:
    found = RunFolder(folder).load_state() if folder.exists() else None
    return -1 if found is None else int(found[0].numbers["step"])


def _outcome(folder: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The prefix file and the metrics without their times."""
    found = RunFolder(folder)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in found.rows()]
    return found.prefix.read_bytes() if found.prefix.exists() else b"", rows


@dataclass(frozen=True)
class _Mark:
    """One line that a child tells its parent."""

    kind: str
    step: int
    when: float


class Child:
    """A training in a forked process, watched through a pipe: steps, and saves that begin or end.

    `file_bytes` caps its files, `nobody` gives up the superuser's rights.
    """

    def __init__(
        self,
        model: PocketModel,
        config: TrainConfig,
        folder: Path,
        file_bytes: int | None = None,
        nobody: bool = False,
    ) -> None:
        self.step = self.saves = 0
        self.is_writing = False
        self.step_seconds = self.save_seconds = 0.02
        self.ended = False
        self._said, self._last = "", _Mark("start", 0, time.monotonic())
        self.pipe, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.pipe)
            _child(model, config, folder, write, file_bytes, nobody)
        os.close(write)

    def wait(self, until: Callable[[], bool]) -> None:
        """Read what the child tells until that holds, or until it ends."""
        while not until() and self._read(_PATIENCE):
            pass

    def kill(self, after: float) -> int:
        """SIGKILL after some seconds, unless the run is over by then; its exit code."""
        moment = time.monotonic() + after
        while not self.ended and (left := moment - time.monotonic()) > 0:
            self._read(left)
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
        return self.end()[0]

    def end(self) -> tuple[int, str]:
        """Exit code and what was said, once the child is done."""
        while self._read(_PATIENCE):
            pass
        os.close(self.pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), self._said

    def said(self) -> str:
        """All lines that were no marks."""
        return self._said

    def _read(self, seconds: float) -> bool:
        """Take in what comes within some seconds; False if nothing did."""
        if self.ended or not select.select([self.pipe], [], [], seconds)[0]:
            return False
        data = os.read(self.pipe, 4096)
        self.ended = self.ended or not data
        for line in data.decode("utf-8", "replace").splitlines():
            self._take(line)
        return bool(data)

    def _take(self, line: str) -> None:
        kind, _, number = line.partition(" ")
        if kind not in ("step", "save", "saved") or not number.isdigit():
            self._said += line + "\n"
            return
        mark = _Mark(kind, int(number), time.monotonic())
        spent = mark.when - self._last.when
        if kind == "step":
            self.step = mark.step
            self.step_seconds = max(spent, 0.001)
        elif kind == "save":
            self.saves += 1
        else:
            self.save_seconds = max(spent, 0.001)
        self.is_writing = kind == "save"
        self._last = mark


def _child(
    model: PocketModel,
    config: TrainConfig,
    folder: Path,
    pipe: int,
    file_bytes: int | None,
    nobody: bool,
) -> None:
    """Train in the forked process and leave it; nothing of the parent may run here."""
    code = 3

    def tell(text: str) -> None:
        os.write(pipe, (text + "\n").encode())

    try:
        logging.disable(logging.CRITICAL)
        if file_bytes is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        if nobody and os.geteuid() == 0:
            os.setegid(_NOBODY)
            os.seteuid(_NOBODY)
        _train(model, config, folder, tell)
        code = 0
    except AplError as error:
        tell(str(error))
        code = 1
    except BaseException as error:  # a forked process must not go on as its parent
        tell(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _train(model: PocketModel, config: TrainConfig, folder: Path, tell: Say) -> None:
    class Telling(RunFolder):
        def save_state(self, state: State) -> None:
            tell(f"save {state.numbers['step']}")
            super().save_state(state)
            tell(f"saved {state.numbers['step']}")

    def on_event(event: Event) -> None:
        if isinstance(event, Stepped):
            tell(f"step {event.step}")

    run_folder = Telling(folder)
    if not run_folder.config.exists():
        run_folder.create(config)
    people = training_people(model.world.group("train"))[0]
    source = PocketSource(model, people, "person", config.num_vectors)
    networks = Model(model.encoder, model.denoiser, model.name)
    Trainer(config, networks, source, run_folder, callbacks=[on_event]).run()
