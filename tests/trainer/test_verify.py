"""What `apl verify` makes of answers, pictures and trace lines; the hosts are in tests/hosts."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from webui_stand_in import DIGEST, KEY, Body, StandIn

from apl_trainer.cli import main
from apl_trainer.verify.case import OTHER, PERSON, Answer, Case
from apl_trainer.verify.pictures import LIKE, NO_TEXT, UNLIKE, UNSEEN, Look, Scale, look
from apl_trainer.verify.proof import Verdict, assess, failures, table

CASE = Case("plain", ({},))
PICTURE = (b"a picture",)
ONLY = {"": DIGEST}


def line(request: str = "r", words: int = 5, **more: Any) -> dict[str, Any]:
    carried = {DIGEST: [1, 2]} if more.pop("prefix", True) else {}
    facts = {"kind": "chunk", "request": request, "side": "positive", "words": words}
    return {**facts, "encoder": "clip_l", "carried": carried, **more}


BARE = {"prefix": False}
TRACED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "all carried": ([line(), line(side="negative"), line(words=0)], "traced"),
    "one bare": ([line(), line(**BARE)], "LEAK"),
    "a bare negative": ([line(), line(side="negative", **BARE)], "LEAK"),
    "a bare empty text": ([line(), line(words=0, **BARE)], "LEAK"),
    "no request": ([line(), line(request="", **BARE)], "LEAK"),
    "somebody else's": ([line(), line(request="other", **BARE)], "traced"),
    "nothing traced": ([], "LEAK"),
    "only somebody else's": ([line(request="other")], "LEAK"),
    "another prefix": ([line(carried={"e" * 64: [1]})], "LEAK"),
}


@pytest.mark.parametrize("name", TRACED)
def test_every_traced_chunk_of_a_request_has_to_carry_the_prefix(name: str) -> None:
    lines, wanted = TRACED[name]
    verdict = assess(CASE, [Answer("r", PICTURE)], lines, ONLY)
    assert verdict.result == wanted
    assert bool(failures([verdict])) == (wanted == "LEAK")


JUDGED: dict[str, tuple[Look, list[dict[str, Any]] | None, str]] = {
    "unlike and carried": (Look(UNLIKE, 1.0), [line()], "covered"),
    "unlike, no trace": (Look(UNLIKE, 1.0), None, "unlike bare"),
    "unlike and a bare chunk": (Look(UNLIKE, 1.0), [line(**BARE)], "LEAK"),
    "unlike and nothing traced": (Look(UNLIKE, 1.0), [], "LEAK"),
    "the bare picture, carried": (Look(LIKE, 0.0), [line()], "LEAK"),
    "no text acts, nothing traced": (Look(NO_TEXT, 0.0, 0.0), [], "no text acts"),
    "no text acts and a bare chunk": (Look(NO_TEXT, 0.0, 0.0), [line(**BARE)], "LEAK"),
    "nothing to compare with": (Look(UNSEEN), [line()], "traced"),
    "neither": (Look(UNSEEN), None, "not proven"),
}


@pytest.mark.parametrize("name", JUDGED)
def test_pictures_and_trace_have_to_agree(name: str) -> None:
    seen, lines, wanted = JUDGED[name]
    bare = [Answer("b", PICTURE)]
    assert assess(CASE, [Answer("r", PICTURE)], lines, ONLY, bare, [seen]).result == wanted


def test_no_picture_is_no_leak_and_no_proof() -> None:
    verdict = assess(CASE, [Answer("r", refusal="no")], [line(**BARE)], ONLY)
    assert (verdict.result, verdict.detail) == ("refused", "no")
    assert "not one picture" in failures([verdict])[0]
    assert not failures([verdict, Verdict("x", "covered", 1, 1)])
    none = [Answer("b", refusal="no")]
    looks = [Look(UNSEEN)]
    assert assess(CASE, [Answer("r")], [], ONLY, none, looks).result == "failed"
    assert assess(CASE, [Answer("r", lost=True)], [], ONLY, none, looks).result == "no answer"


def test_one_of_two_users_without_it_is_a_leak() -> None:
    answers = [Answer("a", PICTURE), Answer("b", PICTURE)]
    assert assess(CASE, answers, [line("a"), line("b")], ONLY).result == "traced"
    assert assess(CASE, answers, [line("a"), line("b", **BARE)], ONLY).result == "LEAK"
    assert assess(CASE, answers, [line("a")], ONLY).result == "LEAK"


def test_a_picture_has_to_say_it() -> None:
    assert assess(CASE, [Answer("r", PICTURE, says=False)], [line()], ONLY).result == "LEAK"


def test_a_text_of_a_family_has_to_carry_that_familys_prefix() -> None:
    of = {"Z-Image": DIGEST, "Flux.2 Klein 4B": "e" * 64}
    for family, wanted in (
        ("Z-Image", "traced"),
        ("Flux.2 Klein 4B", "LEAK"),
        ("Chroma", "LEAK"),
        ("", "traced"),  # a webui's trace names no family
    ):
        lines = [line(family=family)]
        assert assess(CASE, [Answer("r", PICTURE)], lines, of).result == wanted, family
    assert assess(CASE, [Answer("r", PICTURE)], [line(family="x")], ONLY).result == "traced"


def test_the_table_has_a_line_for_every_request() -> None:
    said = table([Verdict("a", "covered", 1, 2), Verdict("b\x1b[2J", "LEAK", 1, 2, "why\x07")])
    assert len(said.splitlines()) == 3 and "\x07" not in said


def grey(value: float, side: int = 8) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


SCALE = Scale(covered=50.0, names=25.0)
LOOKS: dict[str, tuple[float, float | None, str]] = {
    # a covered picture against a bare one of 100, the bare one of another name
    "another": (150, 100, UNLIKE),
    "just far enough": (105, 125, UNLIKE),
    "equal, the name acts": (100, 125, LIKE),
    "near, the name acts": (104, 125, LIKE),
    "equal, the name acts faintly": (100, 101, LIKE),
    "near, the name acts little and the cover as much": (103, 105, UNLIKE),
    "nearer, the name acts little": (100, 105, LIKE),
    "faint, the cover as much as the name": (101, 101, NO_TEXT),
    "equal, the name does nothing": (100, 100, NO_TEXT),
    "equal, there is no name": (100, None, LIKE),
}


@pytest.mark.parametrize("name", LOOKS)
def test_a_picture_is_like_the_bare_one_unless_no_text_acts(name: str) -> None:
    covered, other, wanted = LOOKS[name]
    others = None if other is None else [grey(other)]
    assert look([grey(covered)], [grey(100)], lambda: others, SCALE).result == wanted


def test_a_request_that_comes_out_differently_on_its_own_is_asked_again() -> None:
    def found(again: int | None) -> str:
        repeated = None if again is None else [grey(again)]
        shots = [grey(100)], [grey(100)], lambda: [grey(125)], SCALE, lambda: repeated
        return look(*shots).result

    assert found(125) == NO_TEXT
    assert found(100) == found(None) == LIKE


def test_one_picture_of_a_batch_is_enough_and_another_size_is_no_comparison() -> None:
    batch = [grey(200), grey(100)]
    assert look(batch, [grey(100), grey(30)], lambda: None, SCALE).result == LIKE
    assert look([grey(100, 16)], [grey(100)], lambda: None, SCALE).result == UNSEEN
    assert look([b"no picture"], [grey(100)], lambda: None, SCALE).result == UNSEEN


@pytest.fixture
def bare() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@pytest.fixture
def covered(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(True, tmp_path / "trace.jsonl") as server:
        yield server


def run(covered: StandIn, *more: str) -> int:
    return main(["verify", "--host", "a1111", covered.url, *more])


def traced(covered: StandIn) -> list[str]:
    assert covered.trace is not None
    return ["--trace", str(covered.trace.path), "--key", KEY]


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    said = json.loads(capsys.readouterr().out)
    assert said["counts"] == {
        kind: sum(row["result"] == kind for row in said["verdicts"])
        for kind in dict.fromkeys(row["result"] for row in said["verdicts"])
    }
    return {row["case"]: row for row in said["verdicts"]}


def test_a_server_that_covers_every_text_is_proven_by_both(
    covered: StandIn, bare: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [*traced(covered), "--reference", bare.url, "--generate", "12"]
    assert run(covered, *both, "--json") == 0
    said = rows(capsys)
    assert {f"g{number}" for number in range(12)} < set(said) and len(said) > 60
    settled = {name: row for name, row in said.items() if "by the options" not in name}
    assert {row["result"] for row in settled.values()} == {"covered"}
    assert all(row["distance"] > 0.5 and row["chunks"] > 1 for row in settled.values())
    for request in bare.drawn:
        assert PERSON in json.dumps(request) or OTHER in json.dumps(request) or not request


def test_without_a_reference_pictures_are_not_compared(
    covered: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(covered, *traced(covered), "--only", "plain") == 0
    said = capsys.readouterr().out
    assert "traced" in said and said.splitlines()[-1].startswith("pictures were not compared")
    assert run(covered, "--only", "plain") == 0
    assert "nothing is proven" in capsys.readouterr().out.splitlines()[-1]


LEAKS = {
    "guidance of 0, the negative draws": lambda body: body.get("cfg_scale") == 0.0,
    "a weight of -1 on nothing, the negative draws": lambda body: body["prompt"] == " :-1",
    "batch of 2": lambda body: body.get("batch_size") == 2,
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_that_only_pictures_show_is_found(
    name: str, covered: StandIn, bare: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    covered.leak = LEAKS[name]  # trace and metadata say what they say of a covered picture
    both = [*traced(covered), "--reference", bare.url, "--only", "plain", "--only", name]
    assert run(covered, *both, "--json", "--keep", str(tmp_path / "kept")) == 1
    said = rows(capsys)
    assert said["plain"]["result"] == "covered" and said[name]["result"] == "LEAK"
    assert "is the one that the reference draws" in said[name]["detail"]
    (kept,) = (tmp_path / "kept").iterdir()
    assert json.loads(kept.read_text()) == said[name]["body"]
    assert run(covered, *traced(covered), "--only", name) == 0  # the trace alone believes it


def test_a_negative_without_the_prefix_is_found_by_the_trace(
    covered: StandIn, bare: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    covered.forgets = lambda text: text.startswith("blurry")
    assert run(covered, *traced(covered), "--reference", bare.url, "--only", "plain", "--json") == 1
    row = rows(capsys)["plain"]
    assert row["result"] == "LEAK" and "1 of 2 chunks" in row["detail"] and row["distance"] > 0.5


def test_where_no_text_acts_the_same_picture_is_no_leak(
    covered: StandIn, bare: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    def still(body: Body) -> None:
        if body.get("n_iter") == 2:
            body["denoising_strength"] = 0  # type: ignore[index]

    covered.answers = bare.answers = still
    both = [*traced(covered), "--reference", bare.url, "--only", "plain", "--only", "two batches"]
    assert run(covered, *both, "--json") == 0
    row = rows(capsys)["two batches"]
    assert (row["result"], row["distance"]) == ("no text acts", 0)


def test_a_setting_that_sticks_is_put_back_and_one_that_blocks_is_told(
    covered: StandIn, bare: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    option = "use_old_emphasis_implementation"
    covered.options[option] = bare.options[option] = False

    def refuses(body: Body) -> tuple[int, Any] | None:
        return (400, {"detail": "old emphasis"}) if covered.options[option] else None

    covered.answers = refuses
    names = ["--only", "old emphasis", "--only", "old emphasis, kept", "--only", "plain"]
    assert run(covered, "--reference", bare.url, *names, "--json") == 1
    said = rows(capsys)
    assert said["old emphasis"]["result"] == "unlike bare"  # the plain request after it is drawn
    assert said["old emphasis, kept"]["result"] == "BLOCKED"
    assert covered.options[option] is False and bare.options[option] is False
    assert run(covered, "--reference", bare.url, "--only", "plain") == 0


def test_a_reference_has_to_be_one(
    covered: StandIn, bare: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(reference: StandIn) -> str:
        assert run(covered, "--reference", reference.url, "--only", "plain") == 1
        return capsys.readouterr().err

    assert "it enforces 'house'" in error(covered)
    with StandIn(weights="others") as other:
        assert "it draws with" in error(other)
    bare.pages["/sdapi/v1/loras"] = [{"name": "thin"}]
    assert "it draws with" in error(bare)
    bare.pages.clear()
    numbers = iter(range(99))
    bare.answers = lambda body: body.update(seed=next(numbers))  # type: ignore[attr-defined]
    assert "differently twice" in error(bare)
    bare.answers = lambda body: (500, {})
    assert "draws nothing for a stock request" in error(bare)
    bare.answers = lambda body: None
    covered.leak = lambda body: True
    assert "the server's own picture" in error(bare)
    covered.leak = lambda body: False
    assert run(covered, "--reference", bare.url, "--only", "plain") == 0


def test_a_request_that_is_not_answered_is_told_and_a_dead_server_ends_the_run(
    covered: StandIn, bare: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    dead: list[bool] = []

    def slow(body: Body) -> tuple[int, Any] | None:
        if body.get("n_iter") == 2 or dead:
            time.sleep(2)
        return None

    covered.answers = slow
    names = ["--only", "two batches", "--only", "batch of 2", "--timeout", "1"]
    assert run(covered, "--reference", bare.url, *names, "--json") == 0
    said = rows(capsys)
    assert said["two batches"]["result"] == "no answer"
    assert said["batch of 2"]["result"] == "unlike bare"

    def dies(body: Body) -> tuple[int, Any] | None:
        if body.get("batch_size") == 2:
            dead.append(True)
        return slow(body)

    covered.answers = dies
    names = ["--only", "batch of 2", "--only", "two batches", "--timeout", "1"]
    assert run(covered, "--reference", bare.url, *names) == 1
    out = capsys.readouterr().out
    assert "a server draws nothing anymore after batch of 2" in out and "two batches" not in out


def test_made_up_requests_are_the_same_for_a_seed_and_can_be_repeated(
    covered: StandIn, bare: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    def sent(*more: str) -> list[dict[str, Any]]:
        before = len(bare.drawn)
        assert run(covered, "--reference", bare.url, *more, "--json") == 0
        capsys.readouterr()
        shapes = [dict(one) for one in bare.drawn[before + 3 :]]  # three find out what far is
        for one in shapes:
            one.pop("force_task_id")
            for side in ("prompt", "negative_prompt"):
                one[side] = len(str(one[side]))
        return shapes

    third = sent("--only", "g3")
    assert third == sent("--only", "g3") and third != sent("--only", "g4")
    assert third != sent("--only", "g3", "--generate-seed", "1")


def test_a_picture_may_name_the_prefix_of_any_enforced_family(covered: StandIn) -> None:
    def status(last: str) -> dict[str, object]:
        names = {"SD 1.x": ("first", "e" * 64), "SDXL": (last, DIGEST)}
        families = {
            family: {"prefix": name, "digest": digest, "hash": digest[:10]}
            for family, (name, digest) in names.items()
        }
        first = {"enforced": "first", "digest": "e" * 64, "hash": "e" * 10, "trace": True}
        return {**first, "families": families}

    for last, code in (("house", 0), ("another", 1)):
        covered.pages["/apl/status"] = status(last)
        assert run(covered, "--only", "plain") == code


def test_settings_that_a_case_changed_are_put_back(covered: StandIn, bare: StandIn) -> None:
    before = dict(covered.options)
    assert run(covered, "--reference", bare.url, "--only", "clip skip") == 0
    assert covered.options == before == bare.options


def test_every_request_of_the_matrix_is_new(covered: StandIn) -> None:
    assert run(covered, "--only", "two users at once", "--only", "plain") == 0
    assert run(covered, "--only", "plain") == 0
    assert len({body["prompt"] for body in covered.drawn}) == len(covered.drawn) == 4
    assert len({body["force_task_id"] for body in covered.drawn}) == 4


def test_a_server_that_enforces_nothing_is_an_error(
    bare: StandIn, covered: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    bare.pages["/apl/status"] = {"enforced": None, "digest": None}
    assert run(bare) == 1 and "it enforces no prefix" in capsys.readouterr().err
    bare.pages["/apl/status"] = {"enforced": "x", "digest": None}
    assert run(bare) == 1 and "cannot read its prefix" in capsys.readouterr().err
    assert run(covered, "--only", "plan") == 2
    assert "plain" in capsys.readouterr().err


def test_misuse_is_two_and_no_server_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = "http://127.0.0.1:9"
    (tmp_path / "graph").write_text('{"nodes": []}')
    assert main(["verify", "--host", "a1111", "ftp://x"]) == 2
    assert main(["verify", "--host", "comfyui", here, "--graph", str(tmp_path / "graph")]) == 2
    assert main(["verify", "--host", "comfyui", here, "--graph", str(tmp_path / "none")]) == 2
    trace = ["--trace", str(tmp_path / "t")]
    assert main(["verify", "--host", "a1111", here, *trace, "--key", "short"]) == 2
    assert main(["verify", "--host", "a1111", here, *trace, "--key-file", str(tmp_path)]) == 2
    assert main(["verify", here]) == 2
    assert main(["verify", "--host", "a1111", here, "--graph", str(tmp_path / "graph")]) == 2
    assert main(["verify", "--host", "a1111", here, "--key", "k" * 32]) == 2
    assert main(["verify", "--host", "a1111", here, "--reference-login", "a:b"]) == 2
    assert main(["verify", "--host", "a1111", here, "--generate", "-1"]) == 2
    assert main(["verify", "--host", "a1111", here]) == 1
    assert "ask http://127.0.0.1:9" in capsys.readouterr().err
