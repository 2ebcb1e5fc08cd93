"""A1111, real, without its page: a prefix that the operator has switched on for everybody."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator

import a1111_host
import pytest
from a1111_host import Refused, Webui
from conftest import fill

PROMPT = "a photo of a man"


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """A webui started with --apl-enforce and a folder of its own for the prefixes."""
    host = a1111_host.installed()
    assert host is not None
    data = tmp_path_factory.mktemp("operated")
    folder = tmp_path_factory.mktemp("operator") / "prefixes"
    fill(folder)
    shutil.copy(folder / "front.safetensors", folder / "locked.safetensors")
    arguments = ("--nowebui", "--apl-enforce", "locked", "--apl-dir", str(folder))
    login = "operator:secret"
    with Webui(host, data, ("--api-auth", login, *arguments), login=login) as webui:
        yield webui


def test_no_request_switches_it_off(operated: Webui) -> None:
    want = operated.draw(PROMPT)
    assert "APL prefix: locked" in want.infotext
    requests = [
        operated.draw(PROMPT, False, "front"),
        operated.draw(PROMPT, True, "other"),
        operated.draw(PROMPT, True, "locked", 0.5, 1.0),
        operated.draw(PROMPT, "nonsense", 3),
        operated.draw(f"{PROMPT} <apl:other>"),
        operated.draw(f"{PROMPT} <apl:nothing>"),
        operated.draw(PROMPT, infotext=f"{PROMPT}\nSteps: 2, APL prefix: other, APL steps: 0-0.1"),
        operated.draw(PROMPT, override_settings={"apl_on_by_default": False}),
    ]
    assert {one.pixels for one in requests} == {want.pixels}
    operated.probe(inner=True)
    operated.draw(PROMPT)
    first, *others = operated.seen()
    assert len(others) == 3 and all(bool((one == first).all()) for one in others)


def test_the_page_and_the_status_say_so(operated: Webui) -> None:
    assert operated.get("/apl/status")["enforced"] == "locked"
    mine = next(one for one in operated.get("/sdapi/v1/script-info") if one["name"] == "apl")
    assert mine["args"][0]["label"] == "Anonymize faces (locked on by the operator: locked)"


def test_our_routes_ask_for_the_login_of_the_api(operated: Webui) -> None:
    stranger = dataclasses.replace(operated, login="operator:guess")
    for path in ("/apl/status", "/apl/prefixes"):
        with pytest.raises(Refused) as caught:
            stranger.get(path)
        assert caught.value.status == 401


@pytest.mark.parametrize("trouble", ["encoder", "rows", "conditioning"])
def test_another_extension_in_the_way_is_an_error(operated: Webui, trouble: str) -> None:
    operated.probe(trouble=trouble)
    with pytest.raises(Refused, match="another extension") as caught:
        operated.draw(f"{PROMPT} {trouble}")
    assert caught.value.status == 422
    operated.probe()


def test_a_prefix_that_does_not_fit_refuses_every_image(operated: Webui) -> None:
    folder = operated.arguments[-1]
    for source, said in (("wrong_family", "SD 2.x"), ("broken", "no safetensors"), (None, "none")):
        if source is None:
            (a1111_host.Path(folder) / "locked.safetensors").unlink()
        else:
            shutil.copy(f"{folder}/{source}.safetensors", f"{folder}/locked.safetensors")
        for args in ((), (False, "front"), (True, "front")):
            with pytest.raises(Refused, match=said) as caught:
                operated.draw(PROMPT, *args)
            assert caught.value.status == 422
