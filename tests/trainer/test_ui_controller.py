"""The page's controller without a page: what may be named, what is refused, what a folder says."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from apl_core.errors import AplError, ConfigError, LibraryError, RunError
from apl_core.training.callbacks import Finished, Phase, Previewed, Stepped
from apl_trainer.callbacks import StatusFile
from apl_trainer.cli import main
from apl_trainer.report.curves import effect_chart, figure, loss_chart, save_curves
from apl_trainer.ui import markup
from apl_trainer.ui.controller import Controller
from apl_trainer.ui.model_index import POCKET, ModelIndex
from apl_trainer.ui.page import View
from apl_trainer.ui.run_request import RunRequest
from apl_trainer.ui.run_status import QUIET, RunStatus, read_run


class Sleepers:
    """A runner whose processes sleep in place of learning, so that a run can be going on."""

    def __init__(self) -> None:
        self.children: list[subprocess.Popen[bytes]] = []

    def start(self, folder: Path) -> int:
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        self.children.append(subprocess.Popen(command))
        return self.children[-1].pid

    def reap(self) -> None:
        for child in self.children:
            child.poll()

    def kill(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()


@pytest.fixture
def runner() -> object:
    sleepers = Sleepers()
    yield sleepers
    sleepers.kill()


@pytest.fixture
def controller(tmp_path: Path, runner: Sleepers) -> Controller:
    return Controller(
        ModelIndex(tmp_path / "runs", (tmp_path / "models",), tmp_path / "apl"), runner
    )


def begin(controller: Controller, name: str = "one", **other: str) -> str:
    given = {"model": POCKET, "names": "", "preset": "quick", "settings": "", **other}
    return controller.start(
        given["model"], given["names"], given["preset"], given["settings"], name
    )


def ended(controller: Controller, name: str, **status: object) -> Path:
    """A run of the runs folder that is over."""
    folder = controller.index.runs_root / name
    RunRequest("pocket", "m", None, "quick").save(folder, "")
    (folder / "status.json").write_text(json.dumps({"state": "done", **status}))
    return folder


def test_a_folder_that_a_run_has_made_of_files_is_offered_at_once(controller: Controller) -> None:
    view = View(SimpleNamespace(update=dict), controller)

    def offered(sent: dict[str, Any]) -> tuple[object, dict[str, Any]]:
        updates = view.show(None, sent, None)
        return updates[2].get("choices"), updates[-1]

    first, sent = offered({})
    made = controller.index.imports_root / "z-image"
    made.mkdir(parents=True)
    (made / "model_index.json").write_text("{}")
    assert first == [POCKET] and offered(sent)[0] is None
    assert offered({**sent, "at": ("one", "working")})[0] == [POCKET, "z-image"]


def test_models_are_found_below_the_roots_and_nowhere_else(
    controller: Controller, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    for file in (
        "sd/a.safetensors",
        "folder/model_index.json",
        "folder/unet/x.safetensors",
        "w/world.json",
        "w/model.safetensors",
        ".h/b.safetensors",
        "c.ckpt",
    ):
        (models / file).parent.mkdir(parents=True, exist_ok=True)
        (models / file).touch()
    (tmp_path / "secret.safetensors").touch()
    (models / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (models / "loop").symlink_to(models)
    kinds = {title: choice.kind for title, choice in controller.index.models().items()}
    assert kinds == {
        POCKET: "pocket",
        "folder": "checkpoint",
        "sd/a.safetensors": "checkpoint",
        "w": "pocket",
    }
    assert controller.index.model("sd/a.safetensors").path == models / "sd" / "a.safetensors"
    for bad in (
        "link.safetensors",
        "../secret.safetensors",
        str(tmp_path / "secret.safetensors"),
        "https://example.org/a.safetensors",
        "",
        None,
        ["folder"],
    ):
        with pytest.raises(LibraryError):
            controller.index.model(bad)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "CON", "a" * 61, "a b", "-x", "ä", "x\n"])
def test_a_run_has_a_plain_name(controller: Controller, name: str) -> None:
    with pytest.raises(ConfigError, match="plain name"):
        controller.index.new_run(name)
    with pytest.raises(LibraryError, match="not on the list"):
        controller.index.run(name)


def test_starting_leaves_an_order_and_says_it_is_at_work(controller: Controller) -> None:
    assert begin(controller, names="Ann Lee\n# not this\nBo Li\n", settings="steps = 3") == "one"
    folder = controller.index.run("one")
    order = RunRequest.of(folder)
    assert order.names == ("Ann Lee", "Bo Li") and order.kind == "pocket"
    assert (folder / "wanted.toml").read_text() == "steps = 3"
    run = controller.look("one")
    assert run.going and controller.now() == "one" and not run.began


def test_what_is_wrong_is_told_before_anything_is_made(controller: Controller) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        begin(controller, names="Ann\n\x00\n")
    with pytest.raises(ConfigError, match="stands there 2 times"):
        begin(controller, names="Ann\nANN")
    with pytest.raises(LibraryError):
        begin(controller, model="/etc/passwd")
    with pytest.raises(ConfigError, match="preset"):
        begin(controller, preset="huge")
    assert not controller.index.runs_root.exists()


def test_one_run_at_a_time_and_a_second_name_for_the_next(
    controller: Controller, runner: Sleepers
) -> None:
    begin(controller)
    with pytest.raises(RunError, match="one is going on"):
        begin(controller, "two")
    runner.kill()
    (controller.index.run("one") / "config.toml").write_text("steps = 4\n")
    assert begin(controller) == "one-2"
    assert controller.now() == "one-2" and controller.index.runs()[0] == "one-2"


def test_a_run_that_never_began_leaves_its_name_free(
    controller: Controller, runner: Sleepers
) -> None:
    begin(controller)
    runner.kill()
    assert controller.look("one").state == "broken"
    assert begin(controller) == "one"


def test_a_killed_run_tells_its_last_words_and_can_be_resumed(
    controller: Controller, runner: Sleepers
) -> None:
    begin(controller)
    folder = controller.index.run("one")
    (folder / "config.toml").write_text("steps = 4\n")
    (folder / "worker.log").write_text("INFO: well\nMemoryError: <b>no room</b>\n\n")
    (folder / "stop").touch()
    runner.kill()
    run = controller.look("one")
    assert run.state == "broken" and str(folder / "worker.log") in run.error
    assert "MemoryError: <b>no room" in run.error and "&lt;b&gt;no room" in markup.status(run)
    assert controller.resume("one") == "one"
    assert controller.look("one").going and not (folder / "stop").exists()


def test_requests_are_files_and_only_for_a_run_that_is_going_on(
    controller: Controller, runner: Sleepers
) -> None:
    begin(controller)
    folder = controller.index.run("one")
    for what in ("stop", "save", "preview"):
        assert "after the step" in controller.ask(what, "one")
        assert (folder / what).is_file()
    with pytest.raises(AplError):
        controller.ask("../config.toml", "one")
    (folder / "status.json").write_text(
        json.dumps({"state": "working", "doing": "measuring", "process": os.getpid()})
    )
    with pytest.raises(RunError, match="being measured"):
        controller.ask("stop", "one")
    ended(controller, "one")
    with pytest.raises(RunError, match="not going on"):
        controller.ask("stop", "one")


def test_a_silent_process_counts_as_gone(controller: Controller) -> None:
    folder = ended(controller, "one", state="working", process=os.getpid())
    assert read_run(folder).going
    long_ago = time.time() - QUIET - 5
    os.utime(folder / "status.json", (long_ago, long_ago))
    assert read_run(folder).state == "broken"


@pytest.mark.parametrize("text", ["", "[]", '{"state": 3}', '{"state":', "\x00"])
def test_a_status_that_is_no_status(controller: Controller, text: str) -> None:
    folder = ended(controller, "one")
    (folder / "status.json").write_text(text)
    assert read_run(folder).state in ("broken", "stopped")
    markup.status(read_run(folder))


def test_use_copies_and_overwrites_nobody(controller: Controller, tmp_path: Path) -> None:
    import torch

    from apl_core.formats import read_prefix, write_prefix
    from apl_core.prefix import Prefix

    folder = ended(controller, "one")
    with pytest.raises(RunError, match="no prefix yet"):
        controller.use("one")
    write_prefix(Prefix({"pocket": torch.zeros(2, 128)}, 1), folder / "prefix.safetensors")
    assert "one.safetensors" in controller.use("one") and "one.safetensors" in controller.use("one")
    assert [p.name for p in (tmp_path / "apl").iterdir()] == ["one.safetensors"]
    write_prefix(Prefix({"pocket": torch.ones(2, 128)}, 1), folder / "prefix.safetensors")
    assert "choose one-2" in controller.use("one")
    assert float(read_prefix(tmp_path / "apl" / "one.safetensors").vectors["pocket"].max()) == 0
    (folder / "prefix.safetensors").write_bytes(b"nonsense")
    with pytest.raises(AplError):
        controller.use("one")


def test_a_run_of_the_command_line_is_shown_too(controller: Controller) -> None:
    folder = controller.index.runs_root / "demo"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("steps = 2\n")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert controller.look("demo").state == "working"
    os.utime(folder / "metrics.jsonl", (1, 1))
    assert controller.look("demo").state == "stopped"
    (folder / "figures.json").write_text("{}")
    assert controller.look("demo").state == "done"


def test_the_status_file_follows_a_run(tmp_path: Path) -> None:
    with StatusFile(tmp_path) as status:
        assert read_run(tmp_path).going
        status(Phase("teacher predictions", 3, 9))
        deadline = time.monotonic() + 30
        while read_run(tmp_path).doing != "teacher predictions":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (read_run(tmp_path).done, read_run(tmp_path).total) == (3, 9)
        for step in range(1, 1000):  # many events are few writes
            status(Stepped(step, 1000, 0.5, {}, 0.1, 0.1))
        status(Previewed(999, tmp_path))
        status(Finished(1000, "steps"))
        status.end("failed", "too <bad>")
    run = read_run(tmp_path)
    assert (run.state, run.step, run.steps, run.previews) == ("failed", 1000, 1000, 1)
    assert not list(tmp_path.glob(".*tmp"))
    assert "too &lt;bad&gt;" in markup.status(run) and "<bad>" not in markup.status(run)


def test_each_stage_says_how_long_its_rest_will_take(controller: Controller) -> None:
    said = {"state": "working", "doing": "latents", "done": 5, "total": 25, "process": os.getpid()}
    told = markup.status(read_run(ended(controller, "one", **said, pace=2.0)))
    assert "Encoding those pictures · 5 of 25 · about 40 s of this left" in told
    for pace in (0, -1, None, "2", 1e300, True):
        told = markup.status(read_run(ended(controller, "one", **said, pace=pace)))
        assert "5 of 25" in told and "left" not in told


def test_a_stage_is_as_fast_as_it_was(tmp_path: Path) -> None:
    with StatusFile(tmp_path) as status:
        paces: list[float] = []
        for doing, done in (("pictures", 4), ("pictures", 6), ("latents", 1), ("latents", 2)):
            status(Phase(doing, done, 9))
            paces.append(status._said["pace"])  # pyright: ignore[reportPrivateUsage]
            time.sleep(0.01)
    assert [pace > 0 for pace in paces] == [False, True, False, True]


def test_a_run_on_a_checkpoint_promises_figures_at_its_first_check(tmp_path: Path) -> None:
    run = RunStatus(tmp_path, "working")
    RunRequest("checkpoint", str(tmp_path / "model.safetensors"), ("Ada",), "standard").save(
        tmp_path, ""
    )
    said = markup.charts(run)
    assert "measured at the first check" in said and "Nothing was measured yet" not in said
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "score": 0.1, "name_left": 0.5}\n')
    assert "name left 50" in markup.charts(run)


def test_curves_are_sound_svg_whatever_the_rows_hold() -> None:
    metrics = [{"step": i, "loss": 1 / i, "identity": 70 / i} for i in range(1, 1200)]
    metrics += [{"step": i, "score": 1.0, "name_left": 0.5 - i / 4000} for i in (600, 1199)]
    metrics += [{"step": 1200, "loss": None}, {"step": 1201, "score": None, "drift_people": -0.2}]
    effect = figure(effect_chart(metrics, 2000))
    assert effect.count("<circle") == 3 and "name left 20" in effect and "people -20" in effect
    for svg in (
        figure(loss_chart(metrics, 2000)),
        effect,
        figure(loss_chart([], 0)),
        figure(effect_chart([{"step": 1, "score": 0.1, "name_left": 0.0}], 1)),
    ):
        found = ElementTree.fromstring(svg)
        assert found.tag == "figure" and "nan" not in svg
        for text in found.iter("polyline"):
            for point in text.attrib["points"].split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= 460 and 0 <= y <= 210
    assert "1201" not in figure(loss_chart(metrics, 0))


def test_names_of_curves_that_end_together_stand_apart_and_above_the_ticks() -> None:
    rows = [{"step": 9, "score": 1.0, "name_left": 0.5}]
    rows.append({"step": 10, "score": 1.0, "name_left": 0, "drift_people": 0, "drift_things": 1e-4})
    heights = [y for _, y, _, _ in effect_chart(rows, 10).labels]
    assert len(heights) == 3 and heights == sorted(heights) and heights[-1] < 190
    assert all(low - high >= 13 for high, low in itertools.pairwise(heights))


@pytest.mark.parametrize("steps", [0, 1, 1200])
def test_the_curves_of_a_run_folder_are_a_file_of_their_own(tmp_path: Path, steps: int) -> None:
    rows = [{"step": i, "loss": 1 / i} for i in range(1, steps + 1)]
    save_curves([*rows, {"step": steps, "score": 1.0, "name_left": 0.5}], tmp_path / "curves.svg")
    found = ElementTree.parse(tmp_path / "curves.svg").getroot()
    assert found.tag == "{http://www.w3.org/2000/svg}svg" and found.attrib["width"] == "960"
    words = " ".join(found.itertext())
    assert "Loss" in words and "name left 50" in words
    assert ("No step was done yet." in words) == (steps == 0)


def test_everything_that_is_shown_is_escaped(controller: Controller) -> None:
    folder = ended(controller, "one", said="<xi>said")
    (folder / "prefix.safetensors").write_bytes(b"x")
    (folder / "figures.json").write_text('{"base.scene": 0.5, "<xb>": 1}')
    run = controller.look("one")
    shown = markup.status(run) + markup.results(run, None) + markup.notice("<xu>\n\"'&", "bad")
    assert "<x" not in shown
    assert "&lt;xi&gt;said" in shown and "50.0" in shown
    assert markup.preview(run) == '<div class="apl"></div>'


def test_without_gradio_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["ui", "--runs", str(tmp_path)]) == 1
    assert "apl-prefix[ui]" in capsys.readouterr().err
    assert main(["ui", "--models", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_the_page_itself_needs_no_torch() -> None:
    code = "import sys, apl_trainer.ui.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
