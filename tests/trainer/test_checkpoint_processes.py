"""Runs on a slim checkpoint from the command line: two processes, Ctrl-C, torch.compile."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from slim_runs import NAMES, arguments, write_root
from torch import Tensor

from apl_core.errors import AplError
from apl_core.formats import read_prefix
from apl_trainer.checkpoints.compiling import compiling
from apl_trainer.cli import main

POSIX = pytest.mark.skipif(os.name == "nt", reason="it needs a POSIX system")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = write_root(tmp_path_factory.mktemp("processes"))
    (place / "names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    return place


def started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A process that writes what it says into `log`."""
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=stream,
            stderr=stream,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def wait_for(ready: Callable[[], bool], child: subprocess.Popen[bytes], log: Path) -> None:
    while not ready():
        assert child.poll() is None, log.read_text(encoding="utf-8")
        time.sleep(0.01)


def vectors(run: Path) -> Tensor:
    return read_prefix(run / "prefix.safetensors").vectors["clip_l"]


def learned_steps(run: Path) -> list[int]:
    """Steps in a run's log so far; a line that is being written is no step yet."""
    path = run / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    rows = [json.loads(line) for line in text.split("\n")[:-1]]
    return [row["step"] for row in rows if "loss" in row]


def go_on(run: Path, before: int, steps: int) -> None:
    """Resume a run with another number of steps; nothing else depends on that."""
    config = run / "config.toml"
    text = config.read_text(encoding="utf-8")
    assert f"steps = {before}\n" in text
    config.write_text(text.replace(f"\nsteps = {before}\n", f"\nsteps = {steps}\n"), "utf-8")
    assert main(["resume", str(run)]) == 0


@POSIX
def test_torchrun_learns_what_one_process_learns(root: Path, tmp_path: Path) -> None:
    """From names: pictures, latents, teacher predictions and steps are shared out.

    Pictures and latents are equal to the bit. The prefix is up to the order in which halves of a
    batch are added: the rate is low, for the optimizer enlarges it.
    """
    rate = 0.1
    more = [
        "--names",
        str(root / "names.txt"),
        "--per-name=1",
        "--draw-steps=1",
        "--steps=4",
        f"--learning-rate={rate}",
        "--set=target_cache=10",
        "--set=weight_contrast=0.1",
    ]
    with socket.socket() as callback:
        callback.bind(("127.0.0.1", 0))
        port = callback.getsockname()[1]
    torchrun = ["torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", "-m"]
    log = tmp_path / "log"
    child = started([*torchrun, "apl_trainer", *arguments(root, tmp_path / "two", *more)], log)
    assert child.wait(500) == 0, log.read_text(encoding="utf-8")
    assert main(arguments(root, tmp_path / "one", *more)) == 0
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / run / "data").rglob("*") if p.is_file()}
        for run in ("one", "two")
    )
    assert one == two and sum(name.endswith(".png") for name in one) == 12
    difference = (vectors(tmp_path / "one") - vectors(tmp_path / "two")).abs()
    assert float(difference.mean()) < 0.001 * 4 * rate
    assert learned_steps(tmp_path / "two") == [1, 2, 3, 4]


def test_a_compiled_u_net_gives_the_same_prefix(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured and differentiated as torch.compile does it, but run by torch's own kernels.

    Building kernels for a whole U-Net takes many minutes: that was done by hand.
    """
    plain = torch.nn.Module.compile
    built: list[torch.nn.Module] = []

    def compile_(self: torch.nn.Module) -> None:
        built.append(self)
        plain(self, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    monkeypatch.setattr("apl_trainer.checkpoints.compiling.check_compiler", lambda device: None)
    monkeypatch.setattr("apl_trainer.checkpoints.train.check_compiler", lambda device: None)
    more = [
        "--data",
        str(root / "data"),
        "--set=batch_things=0",
        "--set=repulsion=0.0",
        "--set=batch_people=0",
    ]
    assert main(arguments(root, tmp_path / "compiled", *more, "--compile")) == 0
    assert len(built) == 1
    assert main(arguments(root, tmp_path / "plain", *more)) == 0
    one, other = (vectors(tmp_path / run) for run in ("compiled", "plain"))
    torch.testing.assert_close(one, other, atol=2e-4, rtol=0)


def test_without_a_compiler_it_is_said_before_the_run_begins(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(function: Any) -> Any:
        def run(*given: Any) -> None:
            raise RuntimeError("No working C++ compiler found in cxx\nand a page of more")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    more = ["--data", str(root / "data"), "--compile"]
    assert main(arguments(root, tmp_path / "run", *more)) == 2
    said = capsys.readouterr().err
    assert "No working C++ compiler" in said and "leave --compile out" in said
    assert "a page of more" not in said and not (tmp_path / "run").exists()


def test_what_fails_to_compile_ends_in_a_sentence() -> None:
    from torch._dynamo.exc import TorchDynamoException

    with pytest.raises(AplError, match="fails on this network"), compiling(True):
        raise TorchDynamoException("no")
    with pytest.raises(TorchDynamoException), compiling(False):
        raise TorchDynamoException("no")


@POSIX
def test_ctrl_c_saves_and_resume_goes_on_exactly(root: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    more = ["--data", str(root / "data")]
    child = started(["apl_trainer", *arguments(root, run, *more, "--steps=5000")], log)
    wait_for(lambda: len(learned_steps(run)) > 1, child, log)
    child.send_signal(signal.SIGINT)
    assert child.wait(100) == 1
    said = log.read_text(encoding="utf-8")
    assert f"Go on with: apl resume {run}" in said and "Traceback" not in said
    step = json.loads((run / "state.json").read_text(encoding="utf-8"))["step"]
    assert learned_steps(run) == list(range(1, step + 1)) and step < 5000
    assert read_prefix(run / "prefix.safetensors").card.steps == step
    go_on(run, 5000, step + 2)
    assert learned_steps(run) == list(range(1, step + 3))
    straight = tmp_path / "straight"
    assert main(arguments(root, straight, *more, f"--steps={step + 2}")) == 0
    assert torch.equal(vectors(run), vectors(straight))


@POSIX
def test_ctrl_c_while_pictures_are_drawn_keeps_them(root: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    more = ["--names", str(root / "names.txt"), "--per-name=3", "--draw-steps=4"]
    child = started(["apl_trainer", *arguments(root, run, *more)], log)
    wait_for(lambda: len(list((run / "data").glob("*.png"))) > 1, child, log)
    child.send_signal(signal.SIGINT)
    assert child.wait(100) == 1
    said = log.read_text(encoding="utf-8")
    assert "Traceback" not in said and "interrupted" in said
    before = {p: p.stat().st_mtime_ns for p in (run / "data").glob("*.png")}
    assert 1 < len(before) < 36 and not list((run / "data").glob("*.part"))
    assert main(["resume", str(run)]) == 0
    after = {p: p.stat().st_mtime_ns for p in (run / "data").glob("*.png")}
    assert before.items() <= after.items() and len(after) == 36
    assert learned_steps(run) == [1, 2]
