"""Settings on the command line: each has a flag that its declaration makes."""

import argparse
import html
from dataclasses import replace
from pathlib import Path

import pytest

from apl_core.errors import ConfigError
from apl_core.training.config import PRESETS, SETTINGS, TrainConfig, allowed, preset
from apl_trainer.cli import parser
from apl_trainer.cli.setting_flags import add_settings, settings_from
from apl_trainer.ui.markup import settings_help
from benchmarks.settings import settings_table


def given(*words: str) -> dict[str, object]:
    verb = argparse.ArgumentParser()
    add_settings(verb)
    return settings_from(verb.parse_args(words))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_flag(name: str) -> None:
    default = SETTINGS[name].default
    flag = f"--{name.replace('_', '-')}"
    assert given(f"{flag}={default}") == {name: default}
    wanted = replace(TrainConfig(), max_steps=0) if name == "steps" else TrainConfig()
    assert TrainConfig.from_mapping(given(f"{flag}={default}")) == wanted


def test_the_help_shows_all_of_them_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, declared in SETTINGS.items():
        about = declared.metadata
        assert f"settings: {about['group']}:" in shown
        assert f"--{name.replace('_', '-')} " in shown
        assert about["help"][1:] in shown
        assert (",".join(about["choices"]) or f"({allowed(declared)}; ") in shown
        assert f"default: {declared.default})" in shown
    assert "default: None" not in shown


def test_flags_win_over_pairs_and_these_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("seed = 1\nsteps = 1\npatience = 1\n")
    words = ("--config", str(file), "--set", "seed=2", "--set", "steps=2", "--seed", "3")
    assert given(*words) == {"seed": 3, "steps": 2, "patience": 1}
    assert given("--micro-batch=auto") == {"micro_batch": "auto"}


def test_a_preset_gives_way_to_file_pairs_and_flags(tmp_path: Path) -> None:
    file, quick = tmp_path / "settings.toml", PRESETS["quick"].settings
    file.write_text("steps = 9")
    words = ["--preset=quick"]
    assert given(*words) == quick and quick["steps"] > 9
    for more, steps in ((f"--config={file}", 9), ("--set=steps=8", 8), ("--steps=7", 7)):
        words.append(more)
        assert given(*words) == {**quick, "steps": steps}
        assert given(*reversed(words)) == {**quick, "steps": steps}
    assert TrainConfig.from_mapping(given("--preset=quick")) == preset("quick")
    assert given("--preset=standard") == given() == {}
    seven = TrainConfig.from_mapping(given("--steps=7"))
    assert (seven.steps, seven.max_steps) == (7, 0), "so many, and no more"


@pytest.mark.parametrize(
    "words", [["--rate", "0.5"], ["--set=rate=0.5"], ["--set", "rate=9", "--learning-rate=0.5"]]
)
def test_names_of_before_do(words: list[str]) -> None:
    assert given(*words) == {"learning_rate": 0.5}


def test_a_flag_under_both_names_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"set num_vectors: .*vectors too"):
        given("--vectors=3", "--num-vectors=4")


def test_the_documented_table_is_current() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    marked = f"<!-- settings -->\n{settings_table()}<!-- /settings -->"
    assert marked in page, f"run `apl bench settings`, which writes\n{settings_table()}"


def test_the_page_lists_every_setting() -> None:
    page = html.unescape(settings_help())
    for name, declared in SETTINGS.items():
        row = (f"<code>{name}</code>", allowed(declared), declared.metadata["help"])
        assert "</td><td>".join(row) in page
