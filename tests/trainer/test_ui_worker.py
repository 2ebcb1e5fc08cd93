"""The worker of the page: a process that outlives whoever started it, and says how it ended."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from slim_checkpoints import pipeline

from apl_core.errors import ConfigError, RunError
from apl_core.formats import read_prefix
from apl_trainer.data.descriptions_csv import read_descriptions
from apl_trainer.run_paths import BUILT_IN
from apl_trainer.ui.controller import Controller
from apl_trainer.ui.launcher import Launcher
from apl_trainer.ui.markup import contact, picture, status
from apl_trainer.ui.model_index import POCKET, ModelIndex
from apl_trainer.ui.review import shown_text
from apl_trainer.ui.run_request import RunRequest
from apl_trainer.ui.run_status import RunStatus, figures, read_run
from apl_trainer.ui.worker_main import run

REAL = "size = 64\nnum_vectors = 4\nnum_suffix_vectors = 2\nsteps = 4\nper_name = 1\n"
REAL += "draw_steps = 2\nbatch_identity = 2\nbatch_things = 1\nbatch_people = 1\n"
SMALL = "steps = 2\nvalidate_every = 0\ntarget_cache = 40\nbatch_identity = 2\nbatch_things = 1\n"


def wait(controller: Controller, name: str, seconds: float = 600) -> RunStatus:
    """The run once nobody works at it any more."""
    deadline = time.monotonic() + seconds
    while (found := controller.look(name)).going:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def test_from_an_order_to_the_report_stopped_and_resumed_on_the_way(tmp_path: Path) -> None:
    controller = Controller(ModelIndex(tmp_path / "runs"), Launcher())
    controller.start(POCKET, "", "quick", SMALL, "one")
    controller.ask("stop", "one")
    first = wait(controller, "one")
    assert first.state == "stopped" and not first.error
    assert not (first.path / "report.html").exists()
    controller.resume("one")
    last = wait(controller, "one")
    assert last.state == "done", last
    assert "Held-out names are recognized" in last.said and last.prefix
    assert "prefix.identity_top1.heldout" in figures(last.path)
    assert (last.path / "report.html").is_file() and (last.path / "sheet.png").is_file()


def test_a_mistake_is_told_in_its_own_sentence(tmp_path: Path) -> None:
    names = ("Nobody Atall", "Not Either", "Nor She", "Nor He")
    RunRequest("pocket", str(BUILT_IN), names, "quick").save(tmp_path, "")
    assert run(tmp_path) == 1
    told = read_run(tmp_path)
    assert told.state == "failed" and "nobody has this name" in told.error
    assert "Traceback" not in told.error and not told.began
    RunRequest("pocket", str(BUILT_IN), None, "quick").save(tmp_path, "stepz = 3\n")
    assert run(tmp_path) == 1
    assert "did you mean steps?" in read_run(tmp_path).error


def test_the_unexpected_says_where_the_log_lies(tmp_path: Path) -> None:
    RunRequest("pocket", str(tmp_path / "no such model"), None, "quick").save(tmp_path, "")
    assert run(tmp_path) == 1
    assert "there is no" in read_run(tmp_path).error and "Fix:" in read_run(tmp_path).error
    (tmp_path / "wanted.toml").unlink()
    os.mkdir(tmp_path / "config.toml")  # nobody reckons with that
    RunRequest("pocket", str(BUILT_IN), None, "quick").save(tmp_path, "")
    assert run(tmp_path) == 1
    assert read_run(tmp_path).state == "failed" and read_run(tmp_path).error


def test_a_checkpoint_is_learned_on_too(tmp_path: Path) -> None:
    pipeline("sd1").save_pretrained(tmp_path / "models" / "slim")  # with its tokenizer
    controller = Controller(ModelIndex(tmp_path / "runs", (tmp_path / "models",)), Launcher())
    names = "Ann Lee\nBo Li\nCy Mo\nDi Nu"
    controller.start("slim", names, "quick", REAL, "real")
    last = wait(controller, "real")
    assert last.state == "done" and "Nothing measured how much of a name is left" in last.said, last
    assert last.prefix and set(read_prefix(last.prefix).vectors) == {"clip_l"}
    assert picture(last.path / "sheet.png") and not figures(last.path)


def test_pictures_are_looked_at_and_descriptions_changed_before_it_learns(tmp_path: Path) -> None:
    pipeline("sd1").save_pretrained(tmp_path / "models" / "slim")
    controller = Controller(ModelIndex(tmp_path / "runs", (tmp_path / "models",)), Launcher())
    names = "Ann Lee\nBo Li\nCy Mo\nDi Nu\nEd Oz"
    controller.start("slim", names, "quick", REAL, "real", look=True)
    first = wait(controller, "real")
    assert first.state == "looking", first
    assert "No face was looked for" in first.said and "waits for you" in status(first)
    assert "data:image/png" in contact(first) and first.prefix is None
    text = shown_text(first.path)
    assert text.split("\n")[0].endswith(": a person") and len(text.split("\n")) == 5
    for bad, why in (
        ("Ann Lee: like Ann Lee", "holds the name"),
        ("Ann Lee", "no colon"),
        ("Somebody: a man", "not one of its names"),
    ):
        with pytest.raises(ConfigError, match=why):
            controller.learn("real", bad)
    assert controller.look("real").state == "looking"
    controller.learn("real", text.replace("Ann Lee: a person", "Ann Lee: an old woman"))
    last = wait(controller, "real")
    assert last.state == "done" and last.prefix, last
    rows = [json.loads(line) for line in (last.path / "data" / "metadata.jsonl").open()]
    said = {row["name"]: row for row in rows if row["name"]}
    assert "an old woman" in said["Ann Lee"]["neutral"]
    assert read_descriptions(last.path / "data")["Ann Lee"] == "an old woman"
    assert "heldout" in {row["split"] for row in said.values()}
    assert 'target = "description"' in (last.path / "config.toml").read_text()
    assert contact(last) == contact(None) and picture(last.path / "sheet.png")
    with pytest.raises(RunError, match="not waiting for a review"):
        controller.learn("real", text)


def test_a_file_that_is_no_checkpoint_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\x00" * 64)
    names = ("Ann Lee", "Bo Li", "Cy Mo", "Di Nu")
    RunRequest("checkpoint", str(tmp_path / "x.safetensors"), names, "quick").save(
        tmp_path / "r", ""
    )
    assert run(tmp_path / "r") == 1
    told = read_run(tmp_path / "r")
    assert told.state == "failed" and "Fix:" in told.error and "unexpected" not in told.error
    (tmp_path / "r" / "wanted.toml").write_text('per_name = "many"')
    assert run(tmp_path / "r") == 1
    assert "set per_name: many is not a number" in read_run(tmp_path / "r").error
    (tmp_path / "r" / "wanted.toml").write_text('quantize = "int3"')
    assert run(tmp_path / "r") == 1
    assert "give one of int8, fp8, nf4" in read_run(tmp_path / "r").error
