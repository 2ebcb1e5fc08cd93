"""`apl verify` on the real A1111 with its page, against a reference: the whole matrix and more."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import webui_hosts
from a1111_host import Webui
from conftest import enforcing, supplied, verify

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
