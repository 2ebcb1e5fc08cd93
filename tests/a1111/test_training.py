"""What a run in the webui learns from, and what it refuses before it begins."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from apl_a1111.hosts import A1111
from apl_a1111.training import job
from apl_a1111.training.job import TrainPlan
from apl_a1111.training.loaded import OnLoaded
from apl_a1111.training.material import make_latents, sample
from apl_a1111.training.ports import refuse_unfit
from slim_checkpoints import pipeline, write_file
from torch import Tensor

from apl_core.errors import AplError, ConfigError, HostError, RunError
from apl_core.ports import Conditioning
from apl_core.prefix import Rows
from apl_core.schedule import Schedule
from apl_core.training.config import PER_NAME, PICTURE_STEPS, PRESETS, TrainConfig, preset
from apl_core.training.folder import RunFolder
from apl_core.training.material import pictures_to_draw
from apl_core.training.people import ListedPerson
from apl_trainer.cli import main
from apl_trainer.ui.run_request import RunRequest
from apl_trainer.ui.run_status import read_run

SHAPE = (4, 2, 2)


class OneEncoder(A1111):
    """A host whose models have one engine, given by its key."""

    def engines(self, model: Any) -> list[str]:
        return [model.encoder]

    def key(self, engine: str) -> str:
        return engine

    def table(self, engine: str) -> Tensor:
        return torch.zeros(1, 8)


HOST = OneEncoder()


class Encoder:
    """Texts become their length."""

    def encode(self, texts: list[str], rows: object) -> Conditioning:
        return Conditioning(torch.tensor([float(len(text)) for text in texts])[:, None, None])


class Denoiser:
    """Predicts a share of what it sees that depends on the text."""

    def __init__(self) -> None:
        self.schedule = Schedule.scaled_linear()
        self.device = torch.device("cpu")
        self.calls = 0

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.calls += 1
        return x_t * (0.5 + conditioning.cross[..., None] / 1000)


def test_latents_are_made_once(tmp_path: Path) -> None:
    people = [ListedPerson(name) for name in ("Ada", "Bob", "Cyd", "Dee")]
    shown, denoiser = pictures_to_draw(people, 1, 0), Denoiser()
    told: list[tuple[int, int]] = []
    encoder: Any = Encoder()

    def make() -> Tensor:
        path = tmp_path / "latents.safetensors"
        return make_latents(
            path, encoder, denoiser, shown, SHAPE, 0, lambda *at: told.append(at), 20
        )

    latents = make()
    assert latents.shape == (len(shown), *SHAPE) and bool(latents.isfinite().all())
    assert told[-1] == (len(shown), len(shown))
    calls = denoiser.calls
    assert torch.equal(make(), latents) and denoiser.calls == calls
    with pytest.raises(RunError, match="start a new run"):  # of another list of names
        make_latents(
            tmp_path / "latents.safetensors", encoder, denoiser, shown[1:], SHAPE, 0, print, 20
        )


def test_a_prompt_is_drawn_with_its_negative_and_tells_each_step() -> None:
    read: list[tuple[str, object]] = []

    class Reader(Encoder):
        def encode(self, texts: list[str], rows: object) -> Conditioning:
            read.append((texts[0], rows))
            return super().encode(texts, rows)

    encoder: Any = Reader()
    told: list[tuple[int, int]] = []

    def draw(rows: Rows | None, negative: str) -> Tensor:
        told.clear()
        given = encoder, Denoiser(), ["a photo of ada"], SHAPE, 7, rows, 3
        return sample(*given, negative=negative, tell=lambda *at: told.append(at))

    some = Rows({"clip_l": torch.zeros(1, 8)})
    far, near = draw(None, "a very long negative prompt"), draw(some, "")
    assert told == [(1, 3), (2, 3), (3, 3)] and not torch.equal(far, near)
    draw(replace(some, everywhere=True), "hat")
    assert [(text, rows is not None) for text, rows in read] == [
        ("a photo of ada", False),
        ("a very long negative prompt", False),
        ("a photo of ada", True),
        ("", False),
        ("a photo of ada", True),
        ("hat", True),
    ]


def loaded(
    path: Path, lowvram: bool = False, key: str = "crossattn", encoder: str = "clip_l"
) -> SimpleNamespace:
    """A checkpoint as the webui would have it loaded."""
    info = SimpleNamespace(filename=str(path), name_for_extra=path.stem)
    network = SimpleNamespace(conditioning_key=key)
    return SimpleNamespace(lowvram=lowvram, model=network, sd_checkpoint_info=info, encoder=encoder)


@pytest.fixture(autouse=True)
def webui(monkeypatch: pytest.MonkeyPatch) -> None:
    from apl_a1111.training import ports

    fake = {"lowvram": SimpleNamespace(is_enabled=lambda model: model.lowvram)}
    monkeypatch.setattr(ports, "module", fake.__getitem__)


def ordered(folder: Path, settings: str = "", preset: str = "standard") -> Path:
    """A run's folder as the page leaves it before a run begins."""
    RunRequest("checkpoint", str(folder / "first.safetensors"), ("Zoë", "李雷"), preset).save(
        folder / "run", settings
    )
    return folder / "run"


def test_a_plan_is_the_preset_and_what_was_typed(tmp_path: Path) -> None:
    model = loaded(tmp_path / "first.safetensors")
    plan = TrainPlan.of(ordered(tmp_path), HOST, model)
    assert plan.people == (ListedPerson("Zoë"), ListedPerson("李雷"))
    assert (plan.size, plan.per_name, plan.draw_steps) == (512, PER_NAME, PICTURE_STEPS)
    assert plan.config == replace(preset("standard"), micro_batch=1)
    typed = "size = 64\nnum_vectors = 4\nnum_suffix_vectors = 1\nper_name = 1\ndraw_steps = 2"
    plan = TrainPlan.of(ordered(tmp_path, typed, "quick"), HOST, model)
    assert (plan.size, plan.per_name, plan.draw_steps) == (64, 1, 2)
    fitted = replace(preset("quick"), micro_batch=1, num_vectors=4, num_suffix_vectors=1)
    assert plan.config == fitted
    assert TrainPlan.of(ordered(tmp_path, "steps = 7", "thorough"), HOST, model).config.steps == 7


def test_webui_page_and_command_line_have_one_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only memory decides otherwise. ComfyUI's own checks ask the same of its node."""
    model, names = tmp_path / "first.safetensors", tmp_path / "names.txt"
    write_file("sd1", pipeline("sd1"), model)
    names.write_text("Ann Lee\nBo Li\nCy Mo\nDi Nu\n")
    where = ("--model", str(model), "--names", str(names), "--device=cpu", "--size=64")

    def printed(*words: str) -> TrainConfig:
        assert main([*words, "--dry-run"]) == 0
        lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
        pairs = (line.partition(" = ") for line in lines)
        return TrainConfig.from_mapping({name: json.loads(value) for name, _, value in pairs})

    for key in PRESETS:
        folder = ordered(tmp_path, preset=key)
        found = [
            TrainPlan.of(folder, HOST, loaded(model)).config,
            printed("train", *where, f"--preset={key}"),
            printed("pocket", "train", f"--preset={key}"),
        ]
        assert {replace(one, micro_batch=0) for one in found} == {preset(key)}


def test_a_run_that_began_keeps_its_settings(tmp_path: Path) -> None:
    folder, model = ordered(tmp_path, "size = 64"), loaded(tmp_path / "first.safetensors")
    RunFolder(folder).create(TrainConfig(steps=3))
    plan = TrainPlan.of(folder, HOST, model)
    assert plan.config == TrainConfig(steps=3) and plan.size == 64


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("size = 65", "multiple of 64"),
        ("per_name = 0", "per_name and draw_steps are 0 and 20"),
        ('draw_steps = "two"', "draw_steps are 4 and 'two'"),
        ("min_timestep = 0", "setting of the former learner"),
        ("num_vectors = 0", "num_vectors"),
        ("step = 4", "did you mean steps"),
        ("steps", "TOML"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, settings: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TrainPlan.of(ordered(tmp_path, settings), HOST, loaded(tmp_path / "first.safetensors"))


def test_a_run_of_the_former_learner_is_refused(tmp_path: Path) -> None:
    folder = ordered(tmp_path)
    (folder / "config.toml").write_text("min_timestep = 0\nsteps = 3\n")
    with pytest.raises(ConfigError, match="start a new run: what the old one has learned is in"):
        TrainPlan.of(folder, HOST, loaded(tmp_path / "first.safetensors"))


def test_another_checkpoint_than_the_run_began_on(tmp_path: Path) -> None:
    with pytest.raises(AplError, match=r"first.safetensors, and second.safetensors is loaded"):
        TrainPlan.of(ordered(tmp_path), HOST, loaded(tmp_path / "second.safetensors"))


def test_a_checkpoint_that_is_a_link_is_the_one_that_the_run_began_on(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "real.safetensors").touch()
    (tmp_path / "first.safetensors").symlink_to(tmp_path / "shared" / "real.safetensors")
    plan = TrainPlan.of(ordered(tmp_path), HOST, loaded(tmp_path / "first.safetensors"))
    assert plan.people


def test_models_that_cannot_be_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "first.safetensors"
    refuse_unfit(HOST, loaded(path))
    for unfit in (
        None,
        loaded(path, lowvram=True),
        loaded(path, key="hybrid"),
        loaded(path, encoder="clip_g"),
    ):
        with pytest.raises(HostError):
            refuse_unfit(HOST, unfit)
    with pytest.raises(AplError, match="lowvram"):
        TrainPlan.of(ordered(tmp_path), HOST, loaded(path, lowvram=True))


def test_a_run_in_the_webui_tells_of_itself_in_its_folder(tmp_path: Path) -> None:
    """Whatever happens in the thread, the folder says it."""

    def broken(folder: Path, status: object) -> None:
        raise HostError("learn", "nothing", "do something else")

    runner: Any = OnLoaded(SimpleNamespace())  # type: ignore[arg-type]
    runner._run(tmp_path, broken)
    found = read_run(tmp_path)
    assert found.state == "failed" and "do something else" in found.error
    assert "do something else" in (tmp_path / "worker.log").read_text(encoding="utf-8")
    assert not any(
        isinstance(one, logging.FileHandler) for one in logging.getLogger("apl").handlers
    )


def test_the_process_of_an_own_copy_runs_this_clone(tmp_path: Path) -> None:
    script = Path(job.__file__).with_name("child.py")
    code = f"""
import runpy, sys
sys.argv = ["child.py", {str(tmp_path)!r}]
sys.path.insert(0, {str(script.parent)!r})
try:
    runpy.run_path({str(script)!r}, run_name="__main__")
except SystemExit as end:
    import apl_trainer, apl_core
    print(end.code, apl_trainer.__file__, apl_core.__file__)
    print([name for name in ("trainer", "tests", "job", "scripts") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    said, claimed = done.stdout.splitlines()
    root = script.parents[2]
    expected = f"1 {root / 'trainer' / '__init__.py'} {root / 'apl_core' / '__init__.py'}"
    assert said == expected and claimed == "[]"
    assert read_run(tmp_path).state == "failed"
