"""`apl dataset`, `apl evaluate` and `apl generate` as typed, on a language model and on a T5."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from slim_evaluation import read_report
from slim_pipelines import pipeline

from apl_core.formats import write_prefix
from apl_core.metadata import PrefixCard
from apl_core.prefix import WIDTHS, Prefix
from apl_trainer.cli import main

NAMES, OTHERS = ("anna brill", "bero danta"), ("cuno gral",)
FAMILIES = {"Z-Image": ("qwen3_4b",), "Chroma": ("t5xxl",)}
SMALL = ["--size=64", "--steps=1", "--device=cpu"]


@pytest.fixture(scope="module", params=FAMILIES)
def place(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a thin pipeline, lists of names, and a prefix of random rows for it."""
    place = tmp_path_factory.mktemp("family")
    pipeline(request.param).save_pretrained(place / "model")
    for file, names in (("names.txt", NAMES), ("others.txt", OTHERS)):
        (place / file).write_text("\n".join(names), encoding="utf-8")
    random = torch.Generator().manual_seed(0)
    rows = {k: torch.randn(3, WIDTHS[k], generator=random) / 20 for k in FAMILIES[request.param]}
    card = PrefixCard(family=request.param)
    write_prefix(Prefix(rows, 1, card), place / "prefix.safetensors")
    yield place
    shutil.rmtree(place)  # disks of CI machines are small


def test_from_names_over_a_dataset_to_the_report(place: Path, capsys: Any) -> None:
    model = ["--model", str(place / "model")]
    prefix = ["--prefix", str(place / "prefix.safetensors")]
    names = ["--names", str(place / "names.txt"), "--heldout", str(place / "others.txt")]
    few = ["--count=1", "--things=1", "--people=1", "--no-face-filter", "--descriptions=person"]
    data, out = place / "data", place / "measured"
    assert main(["dataset", *model, *names, *few, *SMALL, "--out", str(data), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["complete"] and made["pictures"] == {"identity": 3, "things": 1, "people": 1}
    counted = ["--seeds=1", "--free=1", "--weights", str(place / "none"), "--out", str(out)]
    run = ["evaluate", *model, *prefix, "--data", str(data), *SMALL, *counted, "--json"]
    assert main(run) == 0
    said = capsys.readouterr()
    assert "not measured" in said.err
    printed = json.loads(said.out)
    assert printed["change.pixels.prefix"] > 0 and not any("identity" in key for key in printed)
    report = read_report(out)
    assert place.name not in json.dumps(report["not_measured"]) and report["not_measured"]
    assert "Not measured" in (out / "report.html").read_text(encoding="utf-8")
    sheet = place / "sheet.png"
    drawn = ["generate", *model, *prefix, "--count=1", "--size=64", "--steps=1"]
    assert main([*drawn, "--out", str(sheet), "a photo of anna brill"]) == 0 and sheet.is_file()


def test_what_does_not_belong_is_refused(place: Path, capsys: Any) -> None:
    wrong = place / "wrong.safetensors"
    write_prefix(Prefix({"clip_l": torch.ones(3, 768)}, 1), wrong)
    model, names = ["--model", str(place / "model")], ["--names", str(place / "names.txt")]
    out = ["--out", str(place / "refused")]
    told = ["evaluate", *model, "--prefix", str(wrong), *names, *out, *SMALL, "--seeds=1"]
    assert main(told) == 1
    assert "Fix:" in capsys.readouterr().err and not (place / "refused" / "pictures").exists()
    (place / "names.txt").write_text("anna <|im_end|> </s> brill\nbero danta", encoding="utf-8")
    few = ["--count=1", "--things=1", "--people=1", "--no-face-filter", "--descriptions=person"]
    assert main(["dataset", *model, *names, *few, *SMALL, *out]) == 1
    assert "spells out a token" in capsys.readouterr().err
    assert not list(place.glob("refused/*.png"))
