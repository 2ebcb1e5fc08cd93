"""`apl verify` on the real Forge and Neo, without their pages: the whole matrix by its trace."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import webui_hosts
from a1111_host import Webui
from conftest import enforcing, verify


@pytest.fixture(scope="module", params=webui_hosts.FORGES)
def operated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Webui]:
    """A Forge that enforces a bracket and traces."""
    with enforcing(request.param, tmp_path_factory, "--nowebui") as webui:
        yield webui


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
