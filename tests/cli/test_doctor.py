"""`apl doctor`: says what is there, and what to do about what is not."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from apl_trainer import doctor
from apl_trainer.pocket import model
from apl_trainer.run_paths import BUILT_IN

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
Apl = Callable[..., tuple[int, str, str]]


def test_it_tells_whether_the_demo_works(apl: Apl) -> None:
    code, out, _ = apl("doctor", "--json")
    said = json.loads(out)
    found = {one["name"]: one for one in said["findings"]}
    assert said["demo_works"] is (code == 0)
    assert code == int(not all(one["ok"] for one in found.values() if one["needed"]))
    assert found["torch"]["ok"] and "cpu" in found["device"]["found"]
    assert found["pocket model"]["ok"] is (BUILT_IN / "model.safetensors").is_file()
    assert not found["gradio"]["needed"] and not found["hosts"]["needed"]
    for one in found.values():
        assert one["ok"] or (one["without"] and one["fix"])


def test_without_the_pocket_model_it_fails_and_says_how_to_mend_it(
    apl: Apl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "BUILT_IN", tmp_path)
    code, out, err = apl("doctor")
    assert code == 1 and "Traceback" not in out + err
    assert re.search("MISSING +pocket model +.*model.safetensors", out)
    assert "git checkout -- trainer/pocket/weights" in out and "does not work yet" in out


def test_packages_that_are_absent_old_or_broken(
    apl: Apl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apl_broken.py").write_text("print('chatter')\nraise RuntimeError('no operator')")
    info = tmp_path / "apl_broken-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: apl-broken\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    packages = (
        doctor.Package("numpy", "numpy", "99.1"),
        doctor.Package("apl-broken", "apl_broken", without="the rest", needed=False),
        doctor.Package("apl-none", "apl_none", "3"),
    )
    monkeypatch.setattr(doctor, "PACKAGES", packages)
    code, out, _ = apl("doctor", "--json")
    old, broken, none = json.loads(out)["findings"][1:4]
    assert code == 1 and not (old["ok"] or broken["ok"] or none["ok"])
    assert "older than 99.1" in old["found"] and "numpy>=99.1" in old["fix"]
    assert "1.2, which cannot be imported (no operator)" in broken["found"]
    assert none["found"] == "not installed" and none["fix"].endswith('"apl-none>=3"')
    assert not doctor.demo_works([doctor.Finding(**none)])
    assert doctor.demo_works([doctor.Finding(**broken)])


def test_a_full_disk_and_a_folder_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ())
    assert "cannot be written to" in doctor.examine(tmp_path / "none")[-2].found
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
    finding = doctor.examine(tmp_path)[-2]
    assert not finding.ok and "0 MiB are free" in finding.found


def test_what_a_host_leaves_out_of_its_list_is_told(
    apl: Apl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "PACKAGES", ())
    monkeypatch.setattr(doctor, "_CLONE", tmp_path / "custom_nodes" / "apl")
    assert "prefixes" not in apl("doctor")[1]
    folder = tmp_path / "models" / "apl"
    folder.mkdir(parents=True)
    (folder / "a.safetensors").touch()
    assert re.search("ok +prefixes +1 in ", apl("doctor")[1])
    (folder / "b.pt").touch()
    monkeypatch.chdir(folder)  # found from the clone's place in the host as well
    out = apl("doctor")[1]
    assert re.search(r"absent +prefixes +1 in .*; left out: 'b.pt' \(a pickle", out)
    assert "rename or convert" in out and "`apl demo` works." in out


def test_it_asks_for_what_the_project_asks_for() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    asked = {line.partition(";")[0] for line in tomllib.loads(text)["project"]["dependencies"]}
    told = {f"{one.distribution}>={one.least}" for one in doctor.PACKAGES if one.needed}
    assert told == asked
