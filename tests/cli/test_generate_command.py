"""`apl generate` and `apl dataset` on the built-in pocket model, whole."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from apl_core.fit import fingerprint
from apl_core.formats import write_prefix
from apl_core.metadata import PrefixCard
from apl_core.prefix import Prefix
from apl_trainer.evaluation.conditions import random_rows
from apl_trainer.pocket.model import load_pocket

Apl = Callable[..., tuple[int, str, str]]
MARK = "<|endoftext|>"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load_pocket()
    rows = random_rows(model.encoder, 4, 2)
    key = {"pocket": fingerprint(model.encoder.token_embedding("pocket"))}
    file = tmp_path_factory.mktemp("prefix") / "prefix.safetensors"
    write_prefix(Prefix(rows.vectors, rows.behind, PrefixCard(fingerprints=key)), file)
    return file


def test_generate_draws_into_a_new_folder(apl: Apl, prefix: Path, tmp_path: Path) -> None:
    out = tmp_path / "new/deep/x.png"
    seed = 2**63 - 1
    small = ["--count", 2, "--seed", seed, "--steps", 1, "--guidance", 1]
    code, told, err = apl("generate", "--prefix", prefix, *small, "--out", out, "a red house")
    assert (code, told, err) == (0, f"{out}\n", "")
    with Image.open(out) as image:
        image.load()
        assert image.format == "PNG"
    assert os.listdir(out.parent) == ["x.png"]


@pytest.mark.parametrize(
    ("prompt", "negative"), [(f"a photo {MARK}", ""), ("a photo", f"blurry {MARK}")]
)
def test_generate_refuses_a_text_that_spells_a_mark(
    apl: Apl, prefix: Path, tmp_path: Path, prompt: str, negative: str
) -> None:
    code, out, err = apl(
        "generate",
        "--prefix",
        prefix,
        "--out",
        tmp_path / "x.png",
        "--negative",
        negative,
        "a photo of a red house",
        prompt,
    )
    assert (code, out) == (1, "") and "spells out the token" in err
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("where", ["names", "negative"])
def test_a_data_set_refuses_a_text_that_spells_a_mark(apl: Apl, tmp_path: Path, where: str) -> None:
    names = tmp_path / "names.txt"
    names.write_text("Ann\nBo\nCy\n" + (f"Andy {MARK}\n" if where == "names" else ""))
    more = ["--negative", MARK] if where == "negative" else []
    code, out, err = apl(
        "dataset",
        "--names",
        names,
        "--out",
        tmp_path / "out",
        "--count",
        1,
        "--things",
        1,
        "--people",
        1,
        *more,
    )
    assert (code, out) == (1, "") and "spells out the token" in err
    assert os.listdir(tmp_path) == ["names.txt"]
