"""`apl pocket evaluate` from a prefix file to its page, on the pocket model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apl_core.fit import fingerprint
from apl_core.formats import write_prefix
from apl_core.metadata import PrefixCard
from apl_core.prefix import Prefix
from apl_trainer.cli import main
from apl_trainer.evaluation.conditions import random_rows
from apl_trainer.pocket.model import load_pocket


def test_evaluate_writes_figures_with_intervals_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_pocket()
    rows = random_rows(model.encoder, 4, 2)
    card = PrefixCard(
        base_model=model.name,
        fingerprints={"pocket": fingerprint(model.encoder.token_embedding("pocket"))},
    )
    file, out = tmp_path / "prefix.safetensors", tmp_path / "out"
    write_prefix(Prefix(rows.vectors, rows.behind, card), file)
    given = ["pocket", "evaluate", "--prefix", str(file), "--names=2", "--seeds=2", "--free=4"]
    assert main([*given, "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    flat = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    figures = report["figures"]
    assert printed["intervals"] == figures
    for key in (
        "base.identity_cosine.heldout",
        "prefix.identity_cosine_max.trained",
        "prefix.anonymous.heldout",
        "change.features.prefix",
        "change.kid.reseeded",
    ):
        found = figures[key]
        assert found["value"] is None or found["low"] <= found["value"] <= found["high"]
    for condition in ("base", "prefix"):
        wrong = 1 - figures[f"{condition}.identity_top1.heldout"]["value"]
        assert figures[f"{condition}.anonymous.heldout"]["value"] <= wrong + 1e-9
    assert flat["change.pixels.prefix"] == pytest.approx(flat["drift.change"])
    assert flat["change.pixels.reseeded"] == pytest.approx(flat["drift.change_of_seed"])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Likeness" in page and "Drift" in page and "data:image/png;base64," in page
