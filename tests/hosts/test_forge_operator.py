"""Forge, real, without its page: a prefix for everybody, its trace, and `apl verify` against it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import forge_host
import pytest
from a1111_host import Refused, Webui
from conftest import fill
from lora_file import write_lora

from apl_trainer.cli import main

KEY, LOGIN = "the operator's long secret", "operator:secret"
PROMPT = "a photo of a man"


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """A Forge started with --apl-enforce and a folder of its own for the prefixes; it traces."""
    host = forge_host.installed()
    assert host is not None
    data = tmp_path_factory.mktemp("operated")
    folder = tmp_path_factory.mktemp("operator") / "prefixes"
    fill(folder)
    shutil.copy(folder / "bracket.safetensors", folder / "locked.safetensors")
    write_lora(data / "models" / "Lora" / "random_lora.safetensors")
    (data / "styles.csv").write_text("name,prompt,negative_prompt\nold,an old man,young\n")
    arguments = ("--nowebui", "--api-auth", LOGIN)
    arguments += ("--apl-enforce", "locked", "--apl-dir", str(folder))
    environment = {"APL_TRACE": str(data / "trace.jsonl"), "APL_TRACE_KEY": KEY}
    with forge_host.Forge(host, data, arguments, env=environment, login=LOGIN) as webui:
        yield webui


def verify(webui: Webui, *more: str) -> int:
    trace = ["--trace", str(webui.data / "trace.jsonl"), "--key", KEY]
    return main(["verify", "--host", "forge", webui.url, *trace, "--login", LOGIN, *more])


def test_no_request_switches_it_off(operated: Webui) -> None:
    want = operated.draw(PROMPT)
    assert "APL prefix: locked" in want.infotext
    status = operated.get("/apl/status")
    assert status["enforced"] == "locked" and status["host"] == "Forge"
    assert f"APL: locked {status['hash']}" in want.infotext
    requests = [
        operated.draw(PROMPT, False, "front"),
        operated.draw(PROMPT, True, "other"),
        operated.draw(PROMPT, True, "locked", 0.5, 1.0),
        operated.draw(PROMPT, "nonsense", 3),
        operated.draw(f"{PROMPT} <apl:other>"),
        operated.draw(
            PROMPT, infotext=f"{PROMPT}\nSteps: 2, APL prefix: other, APL steps: 0-0.1", styles=[]
        ),
        operated.draw(PROMPT, override_settings={"apl_on_by_default": False}),
    ]
    assert {one.pixels for one in requests} == {want.pixels}
    operated.probe(inner=True)
    operated.draw(PROMPT)
    first, *others = operated.seen()
    assert len(others) == 3 and all(bool((one == first).all()) for one in others)


def test_no_request_of_the_matrix_gets_past_the_prefix(
    operated: Webui, capsys: pytest.CaptureFixture[str]
) -> None:
    before = operated.get("/apl/status")
    code = verify(operated, "--json")
    said = json.loads(capsys.readouterr().out)
    rows = {row["case"]: row for row in said["verdicts"]}
    assert code == 0 and not said["failures"], said
    assert {row["result"] for row in rows.values()} <= {"traced", "refused"}, said
    assert {"styles", "refiner", "another checkpoint"} <= set(rows) and len(rows) >= 33
    assert {"wildcards", "LoRA", "LoRA, hires fix", "list of prompts", "grid of words"} <= set(rows)
    print("results:", said["counts"])
    assert rows["8 chunks"]["chunks"] >= 8 and rows["two batches"]["pictures"] == 2
    after = operated.get("/apl/status")
    drawn = sum(row["pictures"] for row in rows.values())
    assert after["pictures"] - before["pictures"] >= drawn - 2  # a grid is a picture more
    assert after["usable"] and after["trace"]


@pytest.mark.parametrize("trouble", ["encoder", "rows", "zeroed"])
def test_an_encoder_without_the_rows_is_an_error(operated: Webui, trouble: str) -> None:
    operated.probe(trouble=trouble)
    for more in ({}, {"negative_prompt": "a man"}):
        with pytest.raises(Refused, match="another extension") as caught:
            operated.draw(f"{PROMPT} {trouble}", **more)
        assert caught.value.status == 422
    operated.probe()
    assert operated.draw(f"{PROMPT} {trouble}").images


def test_settings_that_take_it_off_are_locked(operated: Webui) -> None:
    want = operated.draw(PROMPT).pixels
    for setting, value in (("disabled_extensions", ["apl-prefix"]), ("apl_on_by_default", True)):
        with pytest.raises(Refused, match="it is locked"):
            operated.draw(PROMPT, override_settings={setting: value})
        assert operated.draw(PROMPT).pixels == want


def test_a_file_that_changes_is_not_what_the_process_holds(operated: Webui) -> None:
    folder, want = Path(operated.arguments[-1]), operated.draw(PROMPT).pixels
    for source in ("wrong_family", "broken", None):
        (folder / "locked.safetensors").unlink()
        shutil.copy(folder / f"{source or 'bracket'}.safetensors", folder / "locked.safetensors")
        assert operated.draw(PROMPT).pixels == want
