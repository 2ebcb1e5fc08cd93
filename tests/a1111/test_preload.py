"""A start that is told to enforce a prefix while the extension is switched off."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

PRELOAD = Path(__file__).parents[2] / "preload.py"


def run(clone: Path, settings: dict[str, Any]) -> argparse.Namespace:
    """What the webui makes of its options after `preload.py` of this clone has run."""
    clone.mkdir(parents=True)
    shutil.copy(PRELOAD, clone)
    (file := clone.parent / "config.json").write_text(json.dumps(settings))
    parser = argparse.ArgumentParser()
    parser.add_argument("--ui-settings-file", default=str(file))
    parser.add_argument("--disable-all-extensions", action="store_true")
    parser.add_argument("--disable-extra-extensions", action="store_true")
    spec = importlib.util.spec_from_file_location("apl_preload", clone / "preload.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.preload(parser)
    return parser.parse_args()


OFF = [
    ({"disabled_extensions": ["x", "apl"]}, (), "the setting disabled_extensions"),
    ({"disable_all_extensions": "all"}, (), "the setting disable_all_extensions"),
    ({}, ("--disable-all-extensions",), "--disable-all-extensions"),
]
EXTRA = [
    ({"disable_all_extensions": "extra"}, (), "the setting disable_all_extensions"),
    ({}, ("--disable-extra-extensions",), "--disable-extra-extensions"),
]


@pytest.mark.parametrize(("settings", "options", "reason"), [*OFF, *EXTRA])
@pytest.mark.parametrize("home", ["extensions", "extensions-builtin"])
@pytest.mark.parametrize("by", ["option", "environment"])
def test_it_ends_the_start_unless_the_clone_is_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    options: tuple[str, ...],
    reason: str,
    home: str,
    by: str,
) -> None:
    given = ["launch.py", *options, *(("--apl-enforce", "house") if by == "option" else ())]
    monkeypatch.setattr("sys.argv", given)
    if by == "environment":
        monkeypatch.setenv("APL_ENFORCE", "house")
    if home == "extensions-builtin" and (settings, options, reason) in EXTRA:
        assert run(tmp_path / home / "apl", settings).apl_enforce == "house"
        return
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / home / "apl", settings)
    assert f"'house' is enforced and APL Prefix is switched off by {reason}" in str(caught.value)


def test_without_enforcement_nothing_ends_and_other_settings_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APL_ENFORCE", raising=False)
    monkeypatch.setattr("sys.argv", ["launch.py", "--disable-all-extensions"])
    assert run(tmp_path / "a" / "apl", {"disabled_extensions": ["apl"]}).apl_enforce is None
    monkeypatch.setattr("sys.argv", ["launch.py", "--apl-enforce", "house"])
    settings = {"disabled_extensions": ["another"], "disable_all_extensions": "none"}
    assert run(tmp_path / "b" / "apl", settings).apl_enforce == "house"


def test_the_variable_alone_is_called_weak_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["launch.py"])
    monkeypatch.setenv("APL_ENFORCE", "house")
    assert run(tmp_path / "extensions-builtin" / "apl", {}).apl_enforce == "house"
    assert not caplog.records
    assert run(tmp_path / "extensions" / "apl", {}).apl_enforce == "house"
    assert "--apl-enforce house" in caplog.text
