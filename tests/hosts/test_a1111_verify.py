"""`apl verify` on the real A1111: the whole matrix, and a failure that it has to find."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import webui_hosts
from a1111_host import Refused, Webui
from conftest import LOGIN, enforcing, supplied, verify

from apl_trainer.cli import main

SMALL = ("--side", "32")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """A webui that enforces a bracket and traces; it has its page, so that grids have our axes."""
    with enforcing("a1111", tmp_path_factory) as webui:
        yield webui


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """The same webui with the same weights, without this extension."""
    data = supplied(tmp_path_factory.mktemp("bare"))
    with webui_hosts.new("a1111", data, clones=()) as webui:
        yield webui


def test_no_request_of_the_matrix_and_none_made_up_gets_past_the_prefix(
    traced: Webui, reference: Webui, capsys: pytest.CaptureFixture[str]
) -> None:
    before = traced.get("/apl/status")
    code = verify(traced, *SMALL, "--reference", reference.url, "--generate", "12", "--json")
    said = json.loads(capsys.readouterr().out)
    rows = {row["case"]: row for row in said["verdicts"]}
    assert code == 0 and not said["failures"], said
    drawn = {name for name, row in rows.items() if row["result"] == "covered"}
    print("results:", said["counts"])
    assert set(said["counts"]) <= {"covered", "no text acts", "refused", "failed", "traced"}
    assert {"plain", "negative prompt", "styles", "LoRA", "LoRA, hires fix", "refiner"} <= drawn
    assert {"list of prompts", "grid of words", "img2img alternative test"} <= set(rows)
    assert {
        "extension off, kept",
        "LoRA alone",
        "a weight of -1 on nothing, the negative draws",
    } <= set(rows)
    assert rows["8 chunks"]["chunks"] >= 8 and rows["two batches"]["pictures"] == 2
    made = [rows[f"g{number}"] for number in range(12)]
    assert sum(bool(row["bare"]) for row in made) >= 6
    after = traced.get("/apl/status")
    assert after["since"] == before["since"]
    assert after["enforced"] == "locked" and after["usable"] and after["trace"]


def test_a_picture_says_it_in_one_line(traced: Webui) -> None:
    status = traced.get("/apl/status")
    drawn = traced.draw("a photo of a man who says so")
    assert f"APL: locked {status['hash']}" in drawn.infotext
    assert status["digest"].startswith(status["hash"])


def test_an_open_gate_is_a_leak(traced: Webui, capsys: pytest.CaptureFixture[str]) -> None:
    """An extension that takes the gate off: the trace, which is deeper, shows it."""
    traced.probe(trouble="ungated")
    try:
        code = verify(traced, *SMALL, "--only", "plain", "--json")
    finally:
        traced.probe()
    said = json.loads(capsys.readouterr().out)
    assert code == 1 and "without the prefix" in said["failures"][0]
    lines = (traced.data / "trace.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["carried"] == {} and json.loads(lines[-1])["words"] > 3
    assert verify(traced, *SMALL, "--only", "plain") == 0


def test_an_open_gate_is_seen_by_pictures_alone(
    traced: Webui, reference: Webui, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = ["--login", LOGIN, "--reference", reference.url, "--only", "plain"]
    traced.probe(trouble="ungated")
    try:
        assert main(["verify", "--host", "a1111", traced.url, *beside]) == 1
    finally:
        traced.probe()
    assert "comes out as the server's own picture" in capsys.readouterr().err
    assert main(["verify", "--host", "a1111", traced.url, *beside]) == 0


def test_without_its_trace_file_no_picture_is_made(traced: Webui) -> None:
    log = traced.data / "trace.jsonl"
    hidden = log.rename(log.with_suffix(".hidden"))
    log.mkdir()
    try:
        with pytest.raises(Refused, match="write the trace"):
            traced.draw("a man that nobody has seen yet")
    finally:
        log.rmdir()
        hidden.rename(log)
    assert traced.draw("a man that nobody has seen yet").images
