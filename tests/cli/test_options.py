"""Options of every verb: what is out of range, cannot be written or would be ignored is exit 2."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from apl_core.errors import ConfigError
from apl_trainer.checkpoints.presets import own_device
from apl_trainer.cli import parser
from apl_trainer.run_paths import BUILT_IN

Apl = Callable[..., tuple[int, str, str]]

GENERATE = "generate --prefix p.safetensors"
EVALUATE = "evaluate --model m.safetensors --prefix p.safetensors"
POCKET = "pocket evaluate --prefix p.safetensors"
DATASET = "dataset --names builtin --out o"
VERIFY = "verify --host a1111 http://127.0.0.1:9"

NUMBERS = [
    (GENERATE, "--count", ("1", "256"), ("0", "-1", "257", "two")),
    (GENERATE, "--steps", ("1", "1000"), ("0", "5000", "2.5", "")),
    (GENERATE, "--seed", ("0", str(2**63 - 1)), ("-1", "1" + 20 * "0", "9" * 5000)),
    (GENERATE, "--size", ("64", "1024"), ("7", "0", "100", "-64", "8192")),
    (GENERATE, "--guidance", ("1", "7.5"), ("nan", "inf", "0", "-7", "1e400")),
    (GENERATE, "--clip-skip", ("1", "2"), ("0", "-1", "1000")),
    (EVALUATE, "--seeds", ("1",), ("0", "-4")),
    (EVALUATE, "--free", ("0", "128"), ("-1",)),
    (EVALUATE, "--guidance", ("1",), ("nan", "0.5")),
    (EVALUATE, "--steps", ("20",), ("0", "1001")),
    (EVALUATE, "--size", ("512",), ("520", "0")),
    (EVALUATE, "--seed", ("3",), ("-3",)),
    (EVALUATE, "--batch", ("1",), ("0",)),
    (EVALUATE, "--gallery-seeds", ("1",), ("0",)),
    (EVALUATE, "--shard", ("0",), ("-1",)),
    (EVALUATE, "--num-shards", ("1",), ("0",)),
    (POCKET, "--seeds", ("1",), ("0", "-4")),
    (POCKET, "--free", ("1", "128"), ("0", "-1")),
    (POCKET, "--names", ("1", "64"), ("0", "names.txt", "builtin")),
    (DATASET, "--count", ("1",), ("0", "100001")),
    (DATASET, "--tries", ("12",), ("0",)),
    (DATASET, "--things", ("0",), ("-1",)),
    (DATASET, "--people", ("0",), ("-1",)),
    (DATASET, "--heldout-share", ("0", "0.9"), ("nan", "-0.1", "1")),
    (DATASET, "--seed", ("0",), ("-1", "1" + 20 * "0")),
    (DATASET, "--steps", ("1",), ("0", "5000")),
    (DATASET, "--guidance", ("1",), ("nan", "0")),
    (DATASET, "--size", ("64",), ("7", "72")),
    (DATASET, "--batch", ("1",), ("0", "257")),
    (DATASET, "--num-shards", ("2",), ("0",)),
    ("train --out o", "--size", ("64",), ("7",)),
    ("train --out o", "--per-name", ("1",), ("0", "-1")),
    ("train --out o", "--draw-steps", ("1",), ("0", "1001")),
    ("train --out o", "--clip-skip", ("1",), ("0",)),
    ("demo", "--seed", ("0", str(2**31 - 1)), ("-1", str(2**31))),
    ("ui", "--port", ("1", "65535"), ("0", "65536", "-1")),
    (VERIFY, "--side", ("64",), ("0", "7", "100")),
    (VERIFY, "--steps", ("1",), ("0", "5000")),
    ("bench speed", "--minutes", ("0.5",), ("nan", "inf", "0", "-1")),
    ("bench train", "--side", ("16",), ("0", "7", "-8")),
    ("bench train", "--batch", ("4",), ("0",)),
    ("bench train", "--rounds", ("1",), ("0",)),
    ("bench fuzz", "--files", ("1",), ("0", "-1")),
    ("bench fuzz", "--seed", ("0",), ("-1",)),
    ("bench kill", "--kills", ("1",), ("0",)),
    ("bench kill", "--seed", ("0",), ("-1",)),
    ("bench negative", "--seeds", ("0", "0,3"), ("", "-1", "0,x", str(2**31))),
    ("bench negative", "--guidance", ("1", "3,7.5"), ("0.5", "3,nan", "")),
    ("bench negative", "--names", ("1", "64"), ("0", "65")),
    ("bench negative", "--free", ("1",), ("0",)),
    ("bench negative", "--workers", ("1",), ("0",)),
    ("bench paper", "--workers", ("1",), ("0", "-1")),
    ("bench paper", "--num-shards", ("1",), ("0",)),
    ("pocket build --seed 1 --out o", "--minutes", ("0.002",), ("nan", "0", "-1")),
    ("pocket build --out o", "--seed", ("1",), ("-1", "1" + 20 * "0")),
]


@pytest.mark.parametrize(("verb", "option", "sound", "wrong"), NUMBERS)
def test_a_number_out_of_range_is_told_before_any_work(
    apl: Apl,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    option: str,
    sound: tuple[str, ...],
    wrong: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt = ["a cat"] if verb == GENERATE else []
    for value in sound:
        parser().parse_args([*verb.split(), f"{option}={value}", *prompt])
    for value in wrong:
        code, out, err = apl(*verb.split(), f"{option}={value}", *prompt)
        assert (code, out) == (2, "") and err.count("\n") == 1 and f"argument {option}: " in err
    assert not os.listdir(tmp_path)


FILES = [(GENERATE, "--out", ".png"), ("convert in.pt", "", ".safetensors")]
FOLDERS = [
    (EVALUATE, "--out"),
    (POCKET, "--out"),
    ("pocket train", "--out"),
    ("dataset --names builtin", "--out"),
    ("train", "--out"),
    ("demo", "--out"),
    ("bench speed", "--out"),
    ("bench host a1111", "--out"),
    ("bench train", "--out"),
    ("bench fuzz", "--out"),
    ("bench kill", "--out"),
    ("bench paper", "--out"),
    ("bench negative", "--out"),
    ("pocket build --seed 1", "--out"),
    ("ui", "--runs"),
    ("ui", "--apl-dir"),
    ("fetch face-detection", "--weights"),
]


@pytest.mark.parametrize("verb", ["pocket train", "train --model m.safetensors"])
@pytest.mark.parametrize("option", ["steps=-1", "seed=-1", "learning-rate=nan", "num-vectors=75"])
def test_settings_of_a_training_out_of_range_are_told_before_any_work(
    apl: Apl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = apl(*verb.split(), "--out", "o", f"--{option}")
    name = option.partition("=")[0].replace("-", "_")
    assert (code, out) == (2, "") and f"set {name}: " in err
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("device", ["meta", "cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_told(device: str) -> None:
    with pytest.raises(ConfigError, match=f"set device {device}"):
        own_device(device)


OTHERS = [
    ("train", "--out runs/mine --steps 9 --set 'a b=1'", "--model is missing"),
    ("train", f"--model {BUILT_IN} --names n.txt", "it is a pocket model"),
    ("evaluate", "--prefix p.safetensors --seeds 2", "--model is missing"),
    ("evaluate", f"--prefix p.safetensors --model {BUILT_IN}", "it is a pocket model"),
]


@pytest.mark.parametrize(("verb", "options", "found"), OTHERS)
def test_a_verb_of_checkpoints_names_the_command_for_a_pocket_model(
    apl: Apl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, options: str, found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = apl(verb, *shlex.split(options))
    assert (code, out) == (2, "") and found in err
    assert err.rstrip(".\n").endswith(f": apl pocket {verb} {options}")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("verb", "options"),
    [("train", "--out o --dry-run"), ("train", "--out o"), ("evaluate", "--prefix p --seeds 2")],
)
def test_a_verb_of_pocket_models_names_the_command_for_a_checkpoint(
    apl: Apl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, options: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.safetensors").write_bytes(b"some checkpoint")
    code, out, err = apl("pocket", verb, "--model", "m.safetensors", *options.split())
    assert (code, out) == (2, "") and "it is not a pocket model" in err
    assert f"run: apl {verb} --model m.safetensors {options}" in err
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_a_seed_is_not_taken_for_a_number_of_pictures() -> None:
    with pytest.raises(ConfigError, match="unrecognized arguments: --seed"):
        parser().parse_args([*POCKET.split(), "--seed", "3"])


@pytest.mark.parametrize(("verb", "option", "ending"), FILES)
def test_a_file_that_cannot_be_written_is_told_before_any_work(
    apl: Apl, tmp_path: Path, verb: str, option: str, ending: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / f"folder{ending}").mkdir()
    given = [verb.split(), ["a cat"] if verb == GENERATE else [], [option] if option else []]
    line = [part for parts in given for part in parts]
    wrong = [
        tmp_path / "x",
        tmp_path,
        tmp_path / f"folder{ending}",
        tmp_path / f"file/x{ending}",
        tmp_path / f"file/below/x{ending}",
        tmp_path / (300 * "x" + ending),
        "",
        ending,
        f"/proc/x{ending}",
    ]
    for path in wrong:
        code, out, err = apl(*line, path)
        assert (code, out) == (2, "") and err.count("\n") == 1, path
    parser().parse_args([*line, str(tmp_path / f"new/deep/x{ending}")])
    parser().parse_args([*line, str(tmp_path / f"x{ending.upper()}")])
    assert sorted(os.listdir(tmp_path)) == ["file", f"folder{ending}"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("verb", "option"), FOLDERS)
def test_a_folder_that_cannot_be_written_to_is_told_before_any_work(
    apl: Apl, tmp_path: Path, verb: str, option: str
) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file/x", tmp_path / (300 * "x"), "", "/proc/x"):
        code, out, err = apl(*verb.split(), option, path)
        assert (code, out) == (2, "") and err.count("\n") == 1 and f"argument {option}: " in err
    parser().parse_args([*verb.split(), option, str(tmp_path / "new/deep")])
    parser().parse_args([*verb.split(), option, str(tmp_path)])
    assert os.listdir(tmp_path) == ["file"]


def test_a_default_place_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/proc")
    with pytest.raises(ConfigError, match=r"generated\.png cannot be written"):
        parser().parse_args([*GENERATE.split(), "a cat"])


IGNORED = [
    (
        f"{GENERATE} cat --size 64 --clip-skip 1 --prediction v --tokenizer t",
        "--tokenizer, --clip-skip, --prediction, --size",
    ),
    (f"{DATASET} --size 64 --half --device cpu --weights w", "--size, --half, --device, --weights"),
    (f"{DATASET} --no-face-filter --tries 40", "--tries"),
    (
        "train --out o --model m.safetensors --data d --per-name 8 --draw-steps 20",
        "--per-name, --draw-steps",
    ),
    (f"{EVALUATE} --gallery g --gallery-seeds 4", "--gallery-seeds"),
    (f"{VERIFY} --checkpoint c --graph g", "--checkpoint, --graph"),
    (f"{VERIFY} --key k", "--key"),
    (f"{VERIFY} --reference-login a:b", "--reference-login"),
    (f"{GENERATE} cat --guidance 1 --negative blurry", "--negative"),
    (f"{DATASET} --guidance 1 --negative blurry", "--negative"),
    (f"{EVALUATE} --guidance 1 --negative blurry", "--negative"),
    ("fetch --from f --sha256 " + 64 * "a", "--from, --sha256"),
]


@pytest.mark.parametrize(("line", "told"), IGNORED)
def test_an_option_that_nothing_would_use_is_refused(
    apl: Apl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = apl(*line.split())
    assert (code, out) == (2, "") and err.startswith(f"apl: use {told}: ")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("verb", [EVALUATE, DATASET, "bench paper"])
def test_shares_under_their_names_of_before(verb: str) -> None:
    old = parser().parse_args([*verb.split(), "--rank", "2", "--of", "3"])
    assert (old.shard, old.num_shards) == (2, 3)
    usual = parser().parse_args(verb.split())
    assert (usual.shard, usual.num_shards) == (0, 1)


def test_libraries_that_diffusers_imports_do_not_chatter() -> None:
    """With what --quantize needs installed, they warn of kernels that nobody asked for."""
    code = "from apl_trainer.cli import main; main(['doctor']); import diffusers.pipelines.flux"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not re.search("torchao|kernels|pytree", done.stderr), done.stderr
