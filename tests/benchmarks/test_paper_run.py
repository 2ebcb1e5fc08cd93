"""The whole benchmark in its tiny plan: every part for real, the report read back by its schema."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from apl_core.errors import RunError
from apl_trainer.cli import main
from apl_trainer.pocket.model import PocketModel, load_pocket
from apl_trainer.statistics import Mean
from benchmarks.paper.artifacts import names_of
from benchmarks.paper.experiment import Result
from benchmarks.paper.parts_models import needs, parts_of
from benchmarks.paper.plan import FULL, QUICK, TINY
from benchmarks.paper.report import schema
from benchmarks.paper.run import Share, missing_parts, run_paper
from benchmarks.paper.targets import TARGETS
from benchmarks.results import write_sections

PLAN = replace(TINY, ablations=("names=4",))
KEYS = (
    "identity.heldout.worst_variation",
    "face_found.worst",
    "fidelity.objects.drop",
    "fidelity.people.drop",
    "transfer.heldout.worst",
    "personalized.before",
    "personalized.after",
    "chunks.every",
    "chunks.first_only",
)


@pytest.fixture(scope="module")
def model() -> PocketModel:
    return load_pocket()


@pytest.fixture(scope="module")
def out(model: PocketModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmark's folder: the first of two shares did its parts, then one run did the rest."""
    folder = tmp_path_factory.mktemp("paper") / "bench"
    first = run_paper(model, folder, PLAN, None, 0, Share(0, 2), "apl bench paper")
    assert first is None and missing_parts(folder, PLAN) == list(parts_of(PLAN))[1::2]
    assert not (folder / "report.json").exists()
    assert run_paper(model, folder, PLAN, None, 0, Share(), "apl bench paper") is not None
    return folder


def test_the_report_fits_its_schema_and_the_schema_is_one(out: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, schema())
    del report["targets"][0]["met"]
    with pytest.raises(jsonschema.ValidationError, match="met"):
        jsonschema.validate(report, schema())


def test_figures_json_is_flat_and_has_the_public_keys(out: Path) -> None:
    figures = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    assert set(KEYS) <= set(figures)
    assert all(v is None or isinstance(v, int | float) for v in figures.values())
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert {t["key"] for t in report["targets"]} <= set(figures)
    assert report["figures"]["chunks.every"]["value"] == figures["chunks.every"]


def test_the_page_and_the_tables_hold_every_experiment_and_say_what_is_missed(out: Path) -> None:
    tables = (out / "tables.md").read_text(encoding="utf-8")
    page = (out / "report.html").read_text(encoding="utf-8")
    for title in (
        "1. Identity",
        "1b. ",
        "2. ",
        "3. Transfer",
        "4. People",
        "5. ",
        "weights edited",
    ):
        assert title in tables and title in page
    assert "goals are reached. Not reached:" in page
    sheets = sorted(p.name for p in (out / "sheets").iterdir())
    assert page.count("data:image/png;base64,") == len(sheets) == 9


def test_the_page_of_results_has_every_goal(out: Path, tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("<!-- results: paper -->\n<!-- /results: paper -->\n")
    write_sections(page, {"paper": out})
    lines = page.read_text().splitlines()
    figures = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    for goal in TARGETS:
        row = next(line for line in lines if line.startswith(f"| {goal.text} |"))
        assert row.endswith("| yes |" if goal.met(figures) else "| **no** |")


def test_a_second_run_draws_nothing_again(model: PocketModel, out: Path) -> None:
    parts = {p: p.stat().st_mtime_ns for p in (out / "parts").iterdir()}
    before = (out / "figures.json").read_text(encoding="utf-8")
    flat = run_paper(model, out, PLAN, None, 0, Share(), "apl bench paper")
    assert flat is not None and {p: p.stat().st_mtime_ns for p in parts} == parts
    again = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    again["seconds.this_run"] = json.loads(before)["seconds.this_run"]
    assert again == json.loads(before)


def test_the_bar_counts_what_is_learned_as_well_as_what_is_measured(
    model: PocketModel, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "parts" / "transfer-ink.json").unlink()
    run_paper(model, out, PLAN, None, 0, Share(), "apl bench paper")
    assert needs("transfer-ink") == ["prefix", "variant-ink"]
    assert "3/3 [" in capsys.readouterr().err


def test_a_folder_of_another_plan_or_prefix_is_refused(model: PocketModel, out: Path) -> None:
    with pytest.raises(RunError, match="another plan"):
        run_paper(model, out, replace(PLAN, names=3), None, 0, Share(), "apl bench paper")
    prefix = out / "made" / "prefix" / "prefix.safetensors"
    with pytest.raises(RunError, match="another prefix"):
        run_paper(model, out, PLAN, prefix, 0, Share(), "apl bench paper")


def test_the_command_refuses_a_share_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "paper", "--shard", "2", "--num-shards", "2"]) == 2
    assert "--shard 2 of --num-shards 2" in capsys.readouterr().err


@pytest.mark.parametrize("plan", [FULL, QUICK, TINY])
def test_shares_cover_all_parts_once_and_every_making_is_wanted(plan: object) -> None:
    assert isinstance(plan, type(TINY))
    names = list(parts_of(plan))
    shared = [p for rank in range(3) for p in Share(rank, 3).parts(names)]
    assert sorted(shared) == sorted(names)
    assert {m for p in names for m in needs(p)} == set(names_of(plan))


def test_a_result_goes_through_its_file(tmp_path: Path) -> None:
    nan = float("nan")
    result = Result(
        {"a": Mean(0.5, 0.4, 0.6, 3), "b": Mean(nan, nan, nan, 0)}, {"s": 1.5}, {"x": "y"}
    )
    result.save(tmp_path / "parts" / "a.json")
    again = Result.load(tmp_path / "parts" / "a.json")
    assert again.figures["a"] == result.figures["a"] and again.numbers == result.numbers
    assert again.figures["b"].count == 0 and again.sheets == result.sheets
