"""A1111, Forge and Neo, real, without their pages: a prefix for everybody stays on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import webui_hosts
from a1111_host import Refused, Webui
from conftest import enforcing

PROMPT = "a photo of a man"


@pytest.fixture(scope="module", params=webui_hosts.INSTALLED)
def operated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Webui]:
    """A webui started with --apl-enforce and a folder of its own for the prefixes."""
    with enforcing(request.param, tmp_path_factory, "--nowebui") as webui:
        yield webui


def test_no_argument_switches_it_off(operated: Webui) -> None:
    want = operated.draw(PROMPT)
    assert "APL prefix: locked" in want.infotext
    status = operated.get("/apl/status")
    assert status["enforced"] == "locked" and status["host"] == operated.name
    assert f"APL: locked {status['hash']}" in want.infotext
    pasted = f"{PROMPT}\nSteps: 2, Schedule type: Automatic, APL prefix: other, APL steps: 0-0.1, "
    pasted += "APL: other 0000000000"
    requests = [
        operated.draw(PROMPT, False, "front"),
        operated.draw(PROMPT, True, "other"),
        operated.draw(PROMPT, True, "locked", 0.5, 1.0),
        operated.draw(PROMPT, "nonsense", 3),
        operated.draw(f"{PROMPT} <apl:other>"),
        operated.draw(f"{PROMPT}<apl:nothing>"),
        operated.draw(PROMPT, infotext=pasted, **operated.pasting),
        operated.draw(PROMPT, override_settings={"apl_on_by_default": False}),
    ]
    assert {one.pixels for one in requests} == {want.pixels}
    said = {
        one.infotext[one.infotext.index("APL prefix") :].split("Version")[0] for one in requests
    }
    assert len(said) == 1 and "other" not in said.pop()
    operated.probe(inner=True)
    operated.draw(PROMPT)
    first, *others = operated.seen()
    assert len(others) == 3 and all(bool((one == first).all()) for one in others)


@pytest.mark.parametrize("trouble", ["encoder", "rows", "zeroed"])
def test_an_encoder_without_the_rows_is_an_error(operated: Webui, trouble: str) -> None:
    before = operated.get("/apl/status")["refused"]
    operated.probe(trouble=trouble)
    for more in ({}, {"negative_prompt": "a man"}):
        with pytest.raises(Refused, match="another extension") as caught:
            operated.draw(f"{PROMPT} {trouble}", **more)
        assert caught.value.status == 422
    operated.probe()
    assert operated.get("/apl/status")["refused"] == before + 2
    assert operated.draw(f"{PROMPT} {trouble}").images


def test_settings_that_take_it_off_are_locked(operated: Webui) -> None:
    want = operated.draw(PROMPT).pixels
    for setting, value in (("disabled_extensions", ["apl-prefix"]), ("apl_on_by_default", True)):
        with pytest.raises(Refused, match="it is locked"):
            operated.draw(PROMPT, override_settings={setting: value})
        assert operated.draw(PROMPT).pixels == want


def test_a_file_that_changes_is_not_what_the_process_holds(operated: Webui) -> None:
    folder = Path(operated.arguments[-1])
    want, status = operated.draw(PROMPT), operated.get("/apl/status")
    for source in ("other", "wrong_family", "broken", None):
        (folder / "locked.safetensors").unlink(missing_ok=True)
        if source:
            shutil.copy(folder / f"{source}.safetensors", folder / "locked.safetensors")
        drawn = operated.draw(f"{PROMPT}")
        assert drawn.pixels == want.pixels
        assert f"APL: locked {status['hash']}" in drawn.infotext
    shutil.copy(folder / "bracket.safetensors", folder / "locked.safetensors")
    assert operated.get("/apl/status")["digest"] == status["digest"]
