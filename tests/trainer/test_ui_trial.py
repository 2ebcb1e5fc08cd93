"""Pictures of the user's own prompt, without and with a run's prefix, while it learns and after."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from slim_checkpoints import pipeline

from apl_core.errors import ConfigError, PromptError, RunError
from apl_core.formats import write_prefix
from apl_core.prefix import Prefix
from apl_core.training.callbacks import Control, Stepped
from apl_trainer.cli import main
from apl_trainer.report.sheet import sheet
from apl_trainer.run_paths import BUILT_IN
from apl_trainer.ui import markup, run_job
from apl_trainer.ui.controller import Controller
from apl_trainer.ui.launcher import Launcher
from apl_trainer.ui.model_index import POCKET, ModelIndex
from apl_trainer.ui.reported import reported
from apl_trainer.ui.run_request import RunRequest
from apl_trainer.ui.run_status import RunStatus
from apl_trainer.ui.trial import PICTURES, TRIED, TRY, Trial, tried
from apl_trainer.ui.trial_job import draw_trial
from apl_trainer.ui.worker_main import run

NAMES = ("Ann Lee", "Bo Li", "Cy Mo", "Di Nu")
REAL = "size = 64\nnum_vectors = 4\nnum_suffix_vectors = 2\nsteps = 4\nper_name = 1\n"
REAL += "draw_steps = 2\nbatch_identity = 2\nbatch_things = 1\nbatch_people = 1\n"
SMALL = "steps = 2\nvalidate_every = 0\ntarget_cache = 40\nbatch_identity = 2\nbatch_things = 1\n"
PROMPT, NEGATIVE = "a photo of ann lee, smiling", "hat"


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run on a slim checkpoint that is over; no page was there."""
    place = tmp_path_factory.mktemp("trial")
    pipeline("sd1").save_pretrained(place / "slim")
    RunRequest("checkpoint", str(place / "slim"), NAMES, "quick").save(place / "runs" / "r", REAL)
    assert run(place / "runs" / "r") == 0
    return place / "runs" / "r"


def wait(controller: Controller, name: str) -> RunStatus:
    deadline = time.monotonic() + 600
    while True:
        found = tried(controller.look(name))
        if found is not None and not found.going:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def sheet_of(folder: Path, prompt: str, enlarged: int = 1, scale: int = 1) -> Any:
    """The sheet that `apl generate` would make of a trial's pictures."""
    rows = []
    for name in PICTURES:
        pixels = np.asarray(Image.open(folder / name).convert("RGB"))[::enlarged, ::enlarged]
        rows.append(torch.tensor(pixels / 255).permute(2, 0, 1)[None])
    assert not torch.equal(*rows)
    labels = [f"{prompt}\n\n{label}" for label in ("no prefix", "with prefix")]
    return np.asarray(sheet(rows, labels, scale=scale))


def test_a_trial_is_what_the_command_line_draws(learned: Path, tmp_path: Path) -> None:
    controller = Controller(ModelIndex(learned.parent), Launcher())
    assert "is loaded" in controller.attempt("r", PROMPT, NEGATIVE, " 7 ")
    with pytest.raises(RunError, match="drawing already"):
        controller.attempt("r", PROMPT, "", "0")
    with pytest.raises(RunError, match="pictures are being drawn in r"):
        controller.start(POCKET, "", "quick", SMALL, "two")
    last = wait(controller, "r")
    assert last.state == "done", last
    shown = markup.trial(controller.look("r"))
    assert shown.count("data:image/png") == 2 and "seed 7" in shown and "negative: hat" in shown
    out = tmp_path / "sheet.png"
    words = ["generate", "--model", str(learned.parents[1] / "slim"), "--steps=2", "--size=64"]
    prefix = ["--prefix", str(learned / "prefix.safetensors")]
    asked = ["--count=1", "--seed=7", "--negative", NEGATIVE, "--out", str(out), PROMPT]
    assert main([*words, *prefix, *asked]) == 0
    assert np.array_equal(sheet_of(learned / TRIED, PROMPT), np.asarray(Image.open(out)))
    assert f"--prefix {learned / 'prefix.safetensors'}" in last.said and "--seed 7" in last.said


def test_so_it_is_on_the_pocket_model(tmp_path: Path) -> None:
    RunRequest("pocket", str(BUILT_IN), None, "quick").save(tmp_path / "p", "")
    vectors = torch.randn(3, 128, generator=torch.Generator().manual_seed(0)) * 0.1
    write_prefix(Prefix({"pocket": vectors}, 1), tmp_path / "p" / "prefix.safetensors")
    prompt, out = "a photo of a woman with a red hat", tmp_path / "sheet.png"
    folder = Trial(prompt, 3).save(tmp_path / "p")
    assert run(folder) == 0
    given = ["--seed=3", "--count=1", "--out", str(out), prompt]
    assert main(["generate", "--prefix", str(tmp_path / "p" / "prefix.safetensors"), *given]) == 0
    assert np.array_equal(sheet_of(folder, prompt, 8, 3), np.asarray(Image.open(out)))


def test_a_run_at_work_draws_between_two_steps(
    learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And learns what it would have learned: nothing is disturbed, a prompt that fails neither."""
    order = RunRequest("checkpoint", str(learned.parents[1] / "slim"), NAMES, "quick")
    order.save(tmp_path / "r", REAL)
    seen: dict[int, RunStatus | None] = {}
    asked = {1: Trial(PROMPT, 7), 2: Trial("a photo <|endoftext|> of ann lee", 7)}

    def watch(event: object) -> None:
        if isinstance(event, Stepped):
            seen[event.step] = tried(RunStatus(tmp_path / "r", "working"))
            if event.step in asked:
                asked[event.step].save(tmp_path / "r")
                (tmp_path / "r" / TRY).touch()
            if event.step == 2:
                seen[0] = tried(RunStatus(tmp_path / "r", "stopped"))

    def learn(folder: Path, status: object) -> str | None:
        return run_job.learn_checkpoint(folder, RunRequest.of(folder), Control(), watch)

    assert reported(tmp_path / "r", learn) == 0
    assert seen[1] is None and seen[0] is not None and "ended before" in seen[0].error
    assert seen[2] is not None and seen[2].state == "done" and "at that step" in seen[2].said
    assert seen[3] is not None and seen[3].state == "failed"
    assert "<|endoftext|>" in seen[3].error and "Fix:" in seen[3].error
    assert not (tmp_path / "r" / TRY).exists()
    prefixes = [(one / "prefix.safetensors").read_bytes() for one in (learned, tmp_path / "r")]
    assert prefixes[0] == prefixes[1]


def test_what_cannot_be_drawn_is_told_before_the_model_is_loaded(
    learned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apl_trainer.checkpoints import load

    monkeypatch.setattr(load, "load_detected", lambda *_: pytest.fail("it was loaded"))
    folder = Trial("a photo <|endoftext|> of ann lee").save(learned)
    with pytest.raises(PromptError):
        draw_trial(folder, status=Silent())
    assert run(folder) == 1
    found = tried(RunStatus(learned, "done"))
    assert found is not None and "&lt;|endoftext|&gt;" in markup.trial(RunStatus(learned, "done"))
    (folder / "asked.json").write_text('{"prompt": "a", "seed": -1, "negative": ""}')
    assert run(folder) == 1 and markup.trial(RunStatus(learned, "done"))


class Silent:
    def say(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("", "", "0"), "it is empty"),
        ((" \n", "", "0"), "it is empty"),
        (("a", "", "-1"), "not a whole number"),
        (("a", "", "1.5"), "not a whole number"),
        (("a", "", "9" * 30), "not a whole number"),
        (("a", "", "²"), "not a whole number"),
        (("a" * 2001, "", "0"), "2,001 characters"),
        (("a", "b" * 2001, "0"), "negative prompt"),
    ],
)
def test_what_makes_no_sense_is_refused(given: tuple[str, str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Trial.asked(*given)


def test_a_run_without_a_prefix_and_one_that_is_measured(tmp_path: Path) -> None:
    controller = Controller(ModelIndex(tmp_path), Launcher())
    RunRequest("pocket", str(BUILT_IN), None, "quick").save(tmp_path / "one", "")
    (tmp_path / "one" / "status.json").write_text('{"state": "stopped"}')
    with pytest.raises(RunError, match="no prefix yet"):
        controller.attempt("one", "a photo", "", "")
    (tmp_path / "one" / "status.json").write_text('{"state": "working", "doing": "measuring"}')
    with pytest.raises(RunError, match="being measured"):
        controller.attempt("one", "a photo", "", "")
    (tmp_path / "one" / "status.json").write_text('{"state": "working", "doing": "pictures"}')
    assert "between two steps" in controller.attempt("one", "a photo", "", "")
    assert "step" in markup.trial(controller.look("one"))
    with pytest.raises(RunError, match="drawing already"):
        controller.attempt("one", "a photo", "", "")
