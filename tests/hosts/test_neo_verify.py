"""`apl verify` on the real Neo with its page, against a reference, and on a language model."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import webui_hosts
from a1111_host import Webui
from conftest import KEY, enforcing, leak_is_told, supplied, verify, zimage_prefix
from forge_host import Neo, ZImage

from apl_core.trace import TraceReader

MAN = "a photo of a man"
SMALL = ("--side", "32")
COVERED = {
    *("plain", "negative prompt", "emphasis", "schedule", "guidance of 0, the negative draws"),
    *("hires fix, own prompts", "img2img", "styles", "grid of words", "list of prompts"),
    *("tag of few steps", "switched off", "another prefix", "grid of [APL] Anonymize"),
    *("grid of [APL] Steps", "refiner", "another checkpoint"),
    *("extension off, kept", "nearly a tag: <apl>"),
}
TURNS = {f"a turn or an end of {whose}" for whose in ("Qwen", "Gemma", "T5")}
MADE = 6


@pytest.fixture(scope="module", params=[Neo, ZImage], ids=["sd", "zimage"])
def traced(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Webui]:
    """A Neo that enforces a prefix and traces; it has its page, so that grids have our axes."""
    kind = ZImage if request.param is ZImage else None
    with enforcing("neo", tmp_path_factory, kind=kind) as webui:
        yield webui


@pytest.fixture(scope="module")
def reference(traced: Webui, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """The same Neo with the same weights, without this extension."""
    data = supplied(tmp_path_factory.mktemp("bare"))
    with type(traced)(webui_hosts.INSTALLED["neo"], data, clones=()) as webui:
        yield webui


def test_requests_of_the_matrix_and_made_up_ones_are_covered_or_refused(
    traced: Webui, reference: Webui, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [f"g{number}" for number in range(MADE)]
    only = [f"--only={one}" for one in [*sorted(COVERED | TURNS), *made]]
    beside = ("--reference", reference.url, "--generate", str(MADE), "--json")
    code = verify(traced, *SMALL, *beside, *only)
    told = capsys.readouterr()
    assert told.out, told.err
    said = json.loads(told.out)
    rows = {row["case"]: row["result"] for row in said["verdicts"]}
    print("results:", said["counts"], rows)
    assert code == 0 and not said["failures"], said
    assert {case for case in COVERED if rows[case] != "covered"} == set(), rows
    if isinstance(traced, ZImage):
        assert rows["a turn or an end of Qwen"] == "refused", rows
    assert {rows[one] for one in TURNS} <= {"covered", "refused"}, rows
    assert sum(rows[one] == "covered" for one in made) > 0, rows


@pytest.fixture(scope="module")
def zimage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """A Neo with Z-Image that enforces and traces, without its page."""
    with enforcing("neo", tmp_path_factory, "--nowebui", kind=ZImage) as webui:
        yield webui


def test_a_traced_text_says_its_family_and_where_the_rows_stand(zimage: Webui) -> None:
    trace = TraceReader(zimage.data / "trace.jsonl", KEY.encode())
    trace.new()
    zimage.draw(f"{MAN} who is (seen:1.2) here", negative_prompt="")
    lines = [one for one in trace.new() if one["kind"] == "chunk"]
    digest, n = zimage_prefix().digest, zimage_prefix().n
    assert len(lines) == 4 and min(one["words"] for one in lines) == 0
    for one in lines:
        assert (one["family"], one["encoder"]) == ("Z-Image", "qwen3_4b")
        places = one["carried"][digest]
        assert places[n - 2] == places[0] + n - 2 + one["words"]


def test_an_open_gate_is_a_leak(zimage: Webui, capsys: pytest.CaptureFixture[str]) -> None:
    leak_is_told(zimage, "open turns", capsys, *SMALL)
    assert verify(zimage, *SMALL, "--only", "plain") == 0
