"""What `apl verify` makes of answers and trace lines; the hosts themselves are in tests/hosts."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from apl_core.errors import ConfigError, HostError
from apl_trainer.cli import main
from apl_trainer.verify.a1111 import WebuiServer
from apl_trainer.verify.http import Client, Reply
from apl_trainer.verify.proof import Answer, Case, Verdict, holes, judge, table, verify

DIGEST = "d" * 64
CASE = Case("plain", ({},))


def line(request: str = "r", side: str = "positive", words: int = 5, **more: Any) -> dict[str, Any]:
    carried = {DIGEST: [1, 2]} if more.pop("prefix", True) else {}
    facts = {"kind": "chunk", "request": request, "side": side, "words": words}
    return {**facts, "encoder": "clip_l", "carried": carried, **more}


BARE = {"prefix": False}
PROVEN: dict[str, tuple[list[dict[str, Any]], str]] = {
    "all carried": ([line(), line(side="negative", **BARE), line(words=0, **BARE)], "covered"),
    "one bare": ([line(), line(**BARE)], "HOLE"),
    "unknown side": ([line(), line(side="unknown", **BARE)], "HOLE"),
    "no request": ([line(), line(request="", **BARE)], "HOLE"),
    "somebody else's": ([line(), line(request="other", **BARE)], "covered"),
    "nothing traced": ([], "HOLE"),
    "only negative": ([line(side="negative")], "HOLE"),
    "only empty": ([line(words=0)], "HOLE"),
    "another prefix": ([line(carried={"e" * 64: [1]})], "HOLE"),
}


@pytest.mark.parametrize("name", PROVEN)
def test_a_picture_is_covered_only_by_its_own_whole_trace(name: str) -> None:
    lines, wanted = PROVEN[name]
    verdict = judge(CASE, [Answer("r", 1)], lines, DIGEST)
    assert verdict.result == wanted
    assert bool(holes([verdict])) == (wanted == "HOLE")


def test_no_picture_is_no_hole_and_no_proof() -> None:
    verdict = judge(CASE, [Answer("r", 0, refusal="no")], [line(**BARE)], DIGEST)
    assert (verdict.result, verdict.detail) == ("refused", "no")
    assert "not one picture" in holes([verdict])[0]
    assert not holes([verdict, Verdict("x", "covered", 1, 1)])


def test_one_of_two_users_without_it_is_a_hole() -> None:
    answers = [Answer("a", 1), Answer("b", 1)]
    assert judge(CASE, answers, [line("a"), line("b")], DIGEST).result == "covered"
    assert judge(CASE, answers, [line("a"), line("b", **BARE)], DIGEST).result == "HOLE"
    assert judge(CASE, answers, [line("a")], DIGEST).result == "HOLE"


def test_a_picture_has_to_say_it_and_words_alone_prove_nothing() -> None:
    assert judge(CASE, [Answer("r", 1, says=False)], [line()], DIGEST).result == "HOLE"
    assert judge(CASE, [Answer("r", 1)], None, DIGEST).result == "not proven"


def test_the_table_has_a_line_for_every_request() -> None:
    said = table([Verdict("a", "covered", 1, 2), Verdict("b\x1b[2J", "HOLE", 1, 2, "why\x07")])
    assert len(said.splitlines()) == 3 and "\x07" not in said


class Said:
    """A server that answers what it is told to."""

    def __init__(self, **status: Any) -> None:
        self._status = status

    def status(self) -> Mapping[str, Any]:
        return self._status

    def cases(self) -> Sequence[Case]:
        return [CASE]

    def send(self, case: Case) -> Sequence[Answer]:
        return [Answer("r", 1)]


def test_a_server_that_enforces_nothing_is_an_error() -> None:
    for status in ({}, {"enforced": None, "digest": None}, {"enforced": "x", "digest": None}):
        with pytest.raises(HostError, match="verify the server"):
            list(verify(Said(**status), None))
    assert [v.result for v in verify(Said(enforced="x", digest=DIGEST), None)] == ["not proven"]
    with pytest.raises(ConfigError, match="choose from: plain"):
        list(verify(Said(enforced="x", digest=DIGEST), None, ["plan"]))


def test_every_request_of_the_matrix_is_new_and_has_an_id_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = WebuiServer(Client("http://127.0.0.1:9"))
    monkeypatch.setattr(WebuiServer, "_of_this_server", lambda self: {})
    bodies = [body for _ in range(2) for case in server.cases() for body in case.bodies]
    assert len({body["force_task_id"] for body in bodies}) == len(bodies)
    assert len({body["prompt"] for body in bodies}) == len(bodies)
    json.dumps(bodies)


class StickyWebui(Client):
    """Keeps every overridden setting, as a webui does with one that was never saved."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9")
        axes = ["Nothing", "Prompt S/R", "[APL] Anonymize"]
        grid = [{"label": "X type", "value": "Nothing", "choices": axes}]
        grid += [{"label": "X values", "value": ""}, {"label": "Margins", "value": 4}]
        lines = [{"label": "Iterate", "value": False}, {"label": "List of prompt inputs"}]
        scripts = {"x/y/z plot": grid, "prompts from file or textbox": lines}
        self.pages: dict[str, Any] = {
            "/sdapi/v1/options": {"CLIP_stop_at_last_layers": 1, "kept": 5},
            "/sdapi/v1/loras": [{"name": "thin"}],
            "/sdapi/v1/script-info": [
                {"name": name, "is_img2img": False, "args": args} for name, args in scripts.items()
            ],
        }

    def get(self, path: str, default: Any = None) -> Any:
        return copy.deepcopy(self.pages.get(path, default))

    def ask(self, path: str, body: Any = None) -> Reply:
        self.pages["/sdapi/v1/options"] |= body.get("override_settings", {})
        return Reply(200, {"images": ["picture"], "info": json.dumps({"infotexts": [""]})})


def test_settings_that_a_case_changed_are_put_back() -> None:
    webui = StickyWebui()
    before = webui.get("/sdapi/v1/options")
    body = {"override_settings": {"CLIP_stop_at_last_layers": 2}, "force_task_id": "task(1)"}
    (answer,) = WebuiServer(webui).send(Case("clip skip", (body,)))
    assert answer.pictures == 1 and webui.get("/sdapi/v1/options") == before


def test_a_webuis_own_scripts_are_asked_by_the_labels_of_their_arguments() -> None:
    cases = {case.name: case.bodies[0] for case in WebuiServer(StickyWebui()).cases()}
    assert "<lora:thin:0.5>" in cases["LoRA"]["prompt"]
    assert cases["grid that switches it off"]["script_args"] == [2, "off, on", 4]
    assert "grid of words" in cases and "grid of few steps" not in cases
    iterate, lines = cases["list of prompts"]["script_args"]
    assert iterate is False and lines.count("\n") == 1


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
    assert main(["verify", "--host", "a1111", here]) == 1
    assert "ask http://127.0.0.1:9" in capsys.readouterr().err
