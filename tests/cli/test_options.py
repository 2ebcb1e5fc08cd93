"""Options of every verb: what is out of range, cannot be written or would be ignored is exit 2."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from apl_core.errors import ConfigError
from apl_trainer.checkpoints.presets import own_device
from apl_trainer.cli import parser

Apl = Callable[..., tuple[int, str, str]]

GENERATE = "generate --prefix p.safetensors"
EVALUATE = "evaluate --prefix p.safetensors"
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
    (EVALUATE, "--rank", ("0",), ("-1",)),
    (EVALUATE, "--of", ("1",), ("0",)),
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
    (DATASET, "--of", ("2",), ("0",)),
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
    ("bench paper", "--of", ("1",), ("0",)),
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


@pytest.mark.parametrize("model", [[], ["--model", "m.safetensors"]])
@pytest.mark.parametrize("option", ["steps=0", "seed=-1", "learning-rate=nan", "num-vectors=75"])
def test_settings_of_a_training_out_of_range_are_told_before_any_work(
    apl: Apl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: list[str], option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = apl("train", "--out", "o", *model, f"--{option}")
    name = option.partition("=")[0].replace("-", "_")
    assert (code, out) == (2, "") and f"set {name}: " in err
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("device", ["meta", "cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_told(device: str) -> None:
    with pytest.raises(ConfigError, match=f"set device {device}"):
        own_device(device)


def test_a_pocket_model_is_measured_on_some_name_free_prompts(apl: Apl) -> None:
    code, out, err = apl(*EVALUATE.split(), "--free", "0")
    assert (code, out) == (2, "") and "--free 1 or more" in err


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
    (f"{EVALUATE} --steps 4 --weights w --clip-skip 2", "--clip-skip, --steps, --weights"),
    (f"{EVALUATE} --seed 0 --rank 0", "--seed, --rank"),
    (f"{DATASET} --size 64 --half --device cpu --weights w", "--size, --half, --device, --weights"),
    (f"{DATASET} --no-face-filter --tries 40", "--tries"),
    (
        "train --out o --data d --per-name 8 --draw-steps 20 --size 64 --vram 4 --device cpu "
        "--compile --clip-skip 1 --prediction v --tokenizer t",
        "--tokenizer, --clip-skip, --prediction, --per-name, --draw-steps, --data, --vram, --size, "
        "--device, --compile",
    ),
    ("train --out o --model m.safetensors --data d --per-name 8", "--per-name"),
    (f"{EVALUATE} --model m.safetensors --gallery g --gallery-seeds 4", "--gallery-seeds"),
    (f"{VERIFY} --checkpoint c --graph g", "--checkpoint, --graph"),
    (f"{VERIFY} --key k", "--key"),
    (f"{VERIFY} --reference-login a:b", "--reference-login"),
    (f"{GENERATE} cat --guidance 1 --negative blurry", "--negative"),
    (f"{DATASET} --guidance 1 --negative blurry", "--negative"),
    (f"{EVALUATE} --model m.safetensors --guidance 1 --negative blurry", "--negative"),
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
