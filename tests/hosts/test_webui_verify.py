"""`apl verify` on the real webuis, without their pages: the matrix, and leaks it has to find."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import webui_hosts
from a1111_host import Refused, Webui
from conftest import LOGIN, enforcing, leak_is_told, supplied, verify

from apl_trainer.cli import main

SMALL = ("--side", "32")


@pytest.fixture(scope="module", params=webui_hosts.INSTALLED)
def operated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Webui]:
    """A webui that enforces a bracket and traces."""
    with enforcing(request.param, tmp_path_factory, "--nowebui") as webui:
        yield webui


@pytest.fixture(scope="module")
def reference(operated: Webui, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """The same webui with the same weights, without this extension."""
    data = supplied(tmp_path_factory.mktemp("bare"))
    with webui_hosts.new(operated.name.lower(), data, ("--nowebui",), clones=()) as webui:
        yield webui


def test_no_request_of_the_matrix_gets_past_the_prefix(
    operated: Webui, capsys: pytest.CaptureFixture[str]
) -> None:
    if operated.name == "A1111":
        pytest.skip("test_a1111_verify.py does more")
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


def test_a_picture_says_it_in_one_line(operated: Webui) -> None:
    status = operated.get("/apl/status")
    drawn = operated.draw("a photo of a man who says so")
    assert f"APL: locked {status['hash']}" in drawn.infotext
    assert status["digest"].startswith(status["hash"])


def test_an_open_gate_is_a_leak(operated: Webui, capsys: pytest.CaptureFixture[str]) -> None:
    """An extension that takes the gate off: the trace, which is deeper, shows it."""
    leak_is_told(operated, "ungated", capsys, *SMALL)
    lines = (operated.data / "trace.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["carried"] == {} and json.loads(lines[-1])["words"] > 3
    assert verify(operated, *SMALL, "--only", "plain") == 0


def test_an_open_gate_is_seen_by_pictures_alone(
    operated: Webui, reference: Webui, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = ["--login", LOGIN, "--reference", reference.url, "--only", "plain"]
    operated.probe(trouble="ungated")
    try:
        assert main(["verify", "--host", operated.name.lower(), operated.url, *beside]) == 1
    finally:
        operated.probe()
    assert "comes out as the server's own picture" in capsys.readouterr().err
    assert main(["verify", "--host", operated.name.lower(), operated.url, *beside]) == 0


def test_without_its_trace_file_no_picture_is_made(operated: Webui) -> None:
    log = operated.data / "trace.jsonl"
    hidden = log.rename(log.with_suffix(".hidden"))
    log.mkdir()
    try:
        with pytest.raises(Refused, match="write the trace"):
            operated.draw("a man that nobody has seen yet")
    finally:
        log.rmdir()
        hidden.rename(log)
    assert operated.draw("a man that nobody has seen yet").images
