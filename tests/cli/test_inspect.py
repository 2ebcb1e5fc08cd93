"""`apl inspect` on real files, good and broken ones, and against checkpoints."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from written_files import LDM_1, cut, saved, sd1, table, written

from apl_core.errors import AplError
from apl_core.limits import FILE_BYTES
from apl_core.prefix import WIDTHS

ROOT = Path(__file__).parents[2]
LDM_2 = "cond_stage_model.model.token_embedding.weight"
XL_L = "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight"
XL_G = "conditioner.embedders.1.model.token_embedding.weight"
REFINER = "conditioner.embedders.0.model.token_embedding.weight"
NETWORK = "model.diffusion_model.input_blocks.0.0.weight"
Apl = Callable[..., tuple[int, str, str]]


def test_a_prefix_is_told_in_plain_words(tmp_path: Path, apl: Apl) -> None:
    facts = {"title": "T", "base_model": "SD 1.5", "figures": {"prefix.face_found": 0.99}}
    file = written(tmp_path / "x.safetensors", "clip_l", behind=2, **facts)
    code, out, err = apl("inspect", file)
    assert (code, err) == (0, "")
    for part in (
        "APL prefix",
        "SD 1.x (clip_l 768)",
        "5 vectors: 3 in front of the text, 2 behind it",
        "Trained on: SD 1.5",
        "Figure prefix.face_found: 0.99",
        "Lengths of its rows, clip_l",
        "Give --checkpoint",
    ):
        assert part in out


CHECKPOINTS: dict[str, tuple[tuple[str, ...], dict[str, dict[str, str]]]] = {
    "sd1": (("clip_l",), {"": {LDM_1: "clip_l"}}),
    "sd1, old merge": (("clip_l",), {"": {LDM_1.replace("text_model.", ""): "clip_l"}}),
    "sd2": (("clip_h",), {"": {LDM_2: "clip_h"}}),
    "sdxl": (("clip_l", "clip_g"), {"": {XL_L: "clip_l", XL_G: "clip_g"}}),
    "diffusers": (
        ("clip_l", "clip_g"),
        {
            "text_encoder/model.safetensors": {LDM_1.partition(".transformer.")[2]: "clip_l"},
            "text_encoder_2/model.fp16.safetensors": {
                "text_model.embeddings.token_embedding.weight": "clip_g"
            },
        },
    ),
    "diffusers, transformers 5": (
        ("clip_h",),
        {"text_encoder/model.safetensors": {"embeddings.token_embedding.weight": "clip_h"}},
    ),
    "pocket": (
        ("pocket",),
        {"model.safetensors": {"text.embeddings.token_embedding.weight": "pocket"}},
    ),
    "pocket, transformers 4": (
        ("pocket",),
        {"model.safetensors": {"text.text_model.embeddings.token_embedding.weight": "pocket"}},
    ),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("half", [False, True])
def test_rows_and_fit_are_compared_with_a_checkpoint(
    tmp_path: Path, apl: Apl, kind: str, half: bool
) -> None:
    keys, files = CHECKPOINTS[kind]
    base = tmp_path / ("model" if "" not in files else "model.safetensors")
    for name, tensors in files.items():
        tables = {n: table(k).half() if half else table(k) for n, k in tensors.items()}
        saved(base / name, **tables, **{NETWORK: torch.zeros(4)})
    file = written(tmp_path / "x.safetensors", *keys)
    option = "--model" if kind.startswith("pocket") else "--checkpoint"
    code, out, _ = apl("inspect", file, option, base, "--json")
    said = json.loads(out)
    assert code == 0 and said["encoders"] == {key: WIDTHS[key] for key in keys}
    assert said["fit"]["fits"] is True and said["fit"]["same_encoder"] is True
    for key in keys:
        lengths = table(key).norm(dim=1)
        norms = said["norms"][key]
        assert norms["longer_than_any_real"] == [4]
        assert norms["rows"][0] == pytest.approx(float(lengths[0]), rel=1e-3)
        assert norms["real"]["min"] == pytest.approx(float(lengths.min()), rel=1e-3)
        assert norms["real"]["median"] == pytest.approx(float(lengths.median()), rel=1e-3)
        assert norms["real"]["max"] == pytest.approx(float(lengths.max()), rel=1e-3)
    code, out, _ = apl("inspect", file, option, base)
    assert code == 0 and f"Longer than any real one, {keys[0]}: row 4\n" in out
    assert "the encoder it was trained on" in out


def test_a_checkpoint_stored_in_eight_bits_is_read(tmp_path: Path, apl: Apl) -> None:
    coarse = {LDM_1: table("clip_l").to(torch.float8_e4m3fn)}
    file = written(tmp_path / "x.safetensors", "clip_l")
    code, out, _ = apl("inspect", file, "--checkpoint", saved(tmp_path / "8.safetensors", **coarse))
    assert code == 0 and "Longer than any real one, clip_l: row 4\n" in out


def test_another_encoder_of_the_family_is_told_and_another_family_fails(
    tmp_path: Path, apl: Apl
) -> None:
    file = written(tmp_path / "x.safetensors", "clip_l")
    code, out, _ = apl("inspect", file, "--checkpoint", sd1(tmp_path, seed=1))
    assert code == 0 and "trained on another text encoder" in out
    sd2 = saved(tmp_path / "sd2.safetensors", **{LDM_2: table("clip_h")})
    code, out, _ = apl("inspect", file, "--checkpoint", sd2)
    assert code == 1 and "SD 1.x (clip_l 768)" in out and "SD 2.x (clip_h 1024)" in out
    code, out, _ = apl("inspect", file, "--checkpoint", sd2, "--json")
    said = json.loads(out)
    assert code == 1 and said["usable"] and said["fit"]["fits"] is False


@pytest.mark.parametrize(
    ("names", "family"),
    [
        ({"emb_params": 768}, "SD 1.x"),
        ({"<token>": 1024}, "SD 2.x"),
        ({"clip_l": 768, "clip_g": 1280}, "SDXL"),
    ],
)
def test_textual_inversions_of_other_programs_are_known(
    tmp_path: Path, apl: Apl, names: dict[str, int], family: str
) -> None:
    tensors = {name: torch.ones(2, width) for name, width in names.items()}
    code, out, _ = apl("inspect", saved(tmp_path / "t.safetensors", **tensors), "--json")
    said = json.loads(out)
    assert code == 0 and said["kind"] == "textual inversion" and said["family"] == family
    assert said["vectors"] == 2 and said["behind"] == 0 and said["fit"] is None


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "empty"),
    "noise": (lambda p: p.write_bytes(bytes(range(256)) * 40), "not a safetensors"),
    "truncated": (lambda p: cut(written(p, "clip_l")), "cut off|does not lie"),
    "oversized": (
        lambda p: saved(p, clip_l=torch.zeros(FILE_BYTES // 4 // 768 + 1, 768)),
        "at most",
    ),
    "NaN": (lambda p: saved(p, clip_l=torch.full((2, 768), torch.nan)), "not finite"),
    "wrong width": (lambda p: saved(p, clip_l=torch.zeros(2, 700)), "700"),
    "wrong key": (lambda p: saved(p, clip_x=torch.zeros(2, 99), b=torch.zeros(1)), "clip_x"),
    "renamed pickle": (lambda p: torch.save({"a": torch.zeros(2)}, p), "pickle"),
    "too many": (lambda p: saved(p, clip_l=torch.zeros(76, 768)), "76 vectors"),
    "half of SDXL": (lambda p: saved(p, clip_g=torch.zeros(1, 1280), x=torch.ones(1)), "clip_g"),
    "missing": (lambda p: None, "no such file"),
    "a folder": (lambda p: p.mkdir(), "regular file|no prefix yet"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_told_by_both_verbs(tmp_path: Path, apl: Apl, kind: str) -> None:
    file, (make, words) = tmp_path / "x.safetensors", BROKEN[kind]
    make(file)
    code, out, err = apl("inspect", file)
    assert code == 1
    assert re.search(words, out + err) and ("Fix:" in out + err or file.is_dir())
    if file.is_file():
        code, out, _ = apl("inspect", file, "--json")
        said = json.loads(out)
        assert code == 1 and said["usable"] is False and re.search(words, said["problem"])
    new = tmp_path / "new.safetensors"
    code, out, err = apl("convert", file, new)
    assert code == 1 and out == "" and "Fix:" in err and not new.exists()


def test_a_folder_is_told_as_hosts_list_it(tmp_path: Path, apl: Apl) -> None:
    for name in ("a", "in/e\u0301te\u0301", "\U0001fae9"):
        (tmp_path / f"{name}.safetensors").parent.mkdir(exist_ok=True)
        written(tmp_path / f"{name}.safetensors", "clip_l")
    code, out, err = apl("inspect", tmp_path)
    assert (code, err) == (0, "") and "a: 5 vectors for SD 1.x" in out and out.count("\n") == 3
    saved(tmp_path / "lora.safetensors", **{"lora_te_x.alpha": torch.ones(1)})
    torch.save({"<x>": torch.ones(1, 768)}, tmp_path / "old.pt")
    code, out, err = apl("inspect", tmp_path)
    assert (code, err) == (1, "") and "old.pt: left out, a pickle" in out
    assert "lora: not usable: this is a LoRA, not a prefix" in out
    code, out, _ = apl("inspect", tmp_path, "--json")
    said = json.loads(out)
    assert code == 1 and [one["usable"] for one in said["prefixes"]] == [True, True, False, True]
    assert said["prefixes"][1]["name"] == "in/e\u0301te\u0301"
    assert [one["file"] for one in said["left_out"]] == ["old.pt"]
    assert apl("inspect", tmp_path, "--checkpoint", sd1(tmp_path))[0] == 2


def test_a_name_that_hosts_leave_out_is_told_with_the_file(tmp_path: Path, apl: Apl) -> None:
    try:
        file = written(tmp_path / "a:b.safetensors", "clip_l")
    except AplError:
        pytest.skip("this system refuses such a name")
    code, out, _ = apl("inspect", file)
    assert code == 0 and "Under this name no host lists it: it holds ':'" in out
    assert "no host lists" not in apl("inspect", written(tmp_path / "c.safetensors", "clip_l"))[1]


def test_a_prefix_with_a_thumbnail_and_a_lora_are_told(tmp_path: Path, apl: Apl) -> None:
    file, long = tmp_path / "x.safetensors", {"modelspec.thumbnail": "data:" + "A" * 3_000_000}
    save_file({"emb_params": torch.ones(2, 768)}, file, long)
    code, out, _ = apl("inspect", file)
    assert code == 0 and "Passed over in its metadata, too long: modelspec.thumbnail" in out
    assert len(out) < 1000 and apl("convert", file, tmp_path / "y.safetensors")[0] == 0
    save_file({"lora_te_x.lora_up.weight": torch.ones(2, 768)}, file, long)
    code, out, _ = apl("inspect", file, "--json")
    said = json.loads(out)
    assert code == 1 and said["kind"] == "LoRA" and "this is a LoRA, not" in said["problem"]


def folder_of(base: Path, *names: str) -> Path:
    for name in names:
        (base / name).mkdir(parents=True)
    return base


UNFIT: dict[str, tuple[Callable[[Path], Path], str]] = {
    "refiner": (lambda d: saved(d / "r.safetensors", **{REFINER: table("clip_g")}), "refiner"),
    "sd3": (
        lambda d: saved(d / "3.safetensors", **{"a.joint_blocks.0.x": torch.ones(1)}),
        "Stable Diffusion 3",
    ),
    "flux": (lambda d: saved(d / "f.safetensors", **{"double_blocks.0": torch.ones(1)}), "Flux"),
    "unknown": (lambda d: saved(d / "u.safetensors", x=torch.ones(1)), "begins with x"),
    "no table": (lambda d: saved(d / "v.safetensors", **{LDM_1: torch.ones(768)}), "no table"),
    "width": (lambda d: saved(d / "w.safetensors", **{LDM_1: torch.ones(9, 5)}), "width 5"),
    "quantized": (
        lambda d: saved(d / "q.safetensors", **{LDM_1: torch.ones(9, 768, dtype=torch.int8)}),
        "no table",
    ),
    "two of a kind": (
        lambda d: saved(d / "k.safetensors", **{LDM_1: table("clip_l"), XL_L: table("clip_l")}),
        "clip_l, clip_l",
    ),
    "NaN": (
        lambda d: saved(d / "n.safetensors", **{LDM_1: table("clip_l") * torch.nan}),
        "not finite",
    ),
    "ckpt": (lambda d: (torch.save({}, d / "m.ckpt"), d / "m.ckpt")[1], "pickle"),
    "truncated": (lambda d: cut(sd1(d)) or d / "sd1.safetensors", "cut off"),
    "missing": (lambda d: d / "none.safetensors", "there is no none.safetensors"),
    "sd3 folder": (lambda d: folder_of(d / "m", "transformer", "text_encoder"), "transformer"),
    "empty folder": (lambda d: folder_of(d / "m", "unet"), "no model in this folder"),
    "only pickles": (lambda d: folder_of(d / "m", "text_encoder"), "text_encoder"),
    "t5": (
        lambda d: saved(d / "m/text_encoder/model.safetensors", x=torch.ones(1)).parents[1],
        "not a CLIP",
    ),
    "refiner folder": (
        lambda d: saved(
            d / "m/text_encoder_2/model.safetensors",
            **{"text_model.embeddings.token_embedding.weight": table("clip_g")},
        ).parents[1],
        "refiner",
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_checkpoints_without_a_usable_encoder_are_told(tmp_path: Path, apl: Apl, kind: str) -> None:
    make, words = UNFIT[kind]
    file = written(tmp_path / "x.safetensors", "clip_l")
    code, out, err = apl("inspect", file, "--checkpoint", make(tmp_path))
    assert code == 1 and out == "" and words in err and "Fix:" in err


def test_bad_usage_is_exit_code_2(tmp_path: Path, apl: Apl) -> None:
    for arguments in (
        ["inspect"],
        ["convert", "a"],
        ["convert", "a", "b", "--to", "pt"],
        ["convert", "a", "b", "--key", "clip_x"],
        ["inspect", "a", "--checkpoint", "b", "--model", "c"],
    ):
        code, out, err = apl(*arguments)
        assert (code, out) == (2, "") and err.count("\n") == 1


def test_the_installed_command_prints_anything_and_loads_no_network_library(tmp_path: Path) -> None:
    file = written(tmp_path / "ü.safetensors", "clip_l", title="Zoë — 名前 \x1b[31m")
    code = (
        "import sys; from apl_trainer.cli import script\n"
        "try: script()\n"
        "finally: print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    )
    arguments = ["inspect", file, "--checkpoint", sd1(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Title: Zo? ? ??" in done.stdout and b"\x1b" not in done.stdout
    assert done.stdout.strip().endswith(b"[]")
