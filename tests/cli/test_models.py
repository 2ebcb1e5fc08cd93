"""Folders that are given as a model and are none: what they are, and what to give instead."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from slim_checkpoints import pipeline, write_file
from written_files import saved, sd1, written

from apl_core.errors import AplError
from apl_trainer.checkpoints.model_paths import kind_of
from apl_trainer.run_paths import BUILT_IN

Apl = Callable[..., tuple[int, str, str]]
SNAPSHOT = "models--owner--sd/snapshots/0123abc"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder, and the same as one file."""
    root = tmp_path_factory.mktemp("real")
    pipe = pipeline("sd1")
    pipe.save_pretrained(root / "sd1")
    write_file("sd1", pipe, root / "sd1.safetensors")
    return root


def hub(root: Path, real: Path) -> Path:
    """A cache as the hub's client lays it out: snapshots of links to blobs, two of them."""
    model = root / "models--owner--sd"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text("0123abc")
    (model / "blobs").mkdir()
    for number, file in enumerate(p for p in (real / "sd1").rglob("*") if p.is_file()):
        blob = model / f"blobs/{number}"
        shutil.copyfile(file, blob)
        for commit in ("0123abc", "00older"):
            link = model / "snapshots" / commit / file.relative_to(real / "sd1")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
    return root


def webui(root: Path, real: Path) -> Path:
    """The models folder of a webui: checkpoints beside what is none."""
    for name in ("Stable-diffusion/old", "Lora", "VAE"):
        (root / name).mkdir(parents=True)
    for name in ("mine.SAFETENSORS", "old/two.safetensors"):
        (root / "Stable-diffusion" / name).hardlink_to(real / "sd1.safetensors")
    saved(root / "Lora/x.safetensors", lora_up=torch.zeros(2, 2))
    (root / "VAE/broken.safetensors").write_bytes(b"no")
    (root / "Stable-diffusion/a.ckpt").write_bytes(b"\x80")
    return root


def told(path: Path) -> str:
    with pytest.raises(AplError) as caught:
        kind_of(path)
    return str(caught.value)


def test_models_are_told_apart(real: Path, tmp_path: Path) -> None:
    assert kind_of(real / "sd1") == kind_of(real / "sd1.safetensors") == "checkpoint"
    assert kind_of(hub(tmp_path, real) / SNAPSHOT) == "checkpoint"
    assert kind_of(BUILT_IN) == "pocket"


@pytest.mark.parametrize("below", ["", "models--owner--sd", "models--owner--sd/snapshots"])
def test_a_hub_cache_names_the_snapshot_to_give(real: Path, tmp_path: Path, below: str) -> None:
    said = told(hub(tmp_path, real) / below)
    assert "cache folder of the Hugging Face hub" in said
    first = said.partition("give the snapshot folder: ")[2].split(", ")[0]
    assert first == str(tmp_path / SNAPSHOT) and kind_of(Path(first)) == "checkpoint"
    assert "00older" in said


def test_the_home_of_the_hub_is_a_cache_too(real: Path, tmp_path: Path) -> None:
    hub(tmp_path / "hub", real)
    assert str(tmp_path / "hub" / SNAPSHOT) in told(tmp_path)


def test_a_hub_cache_of_something_else_is_told(tmp_path: Path) -> None:
    (tmp_path / "refs").mkdir()
    (tmp_path / "snapshots/0123abc").mkdir(parents=True)
    (tmp_path / "snapshots/0123abc/config.json").write_text("{}")
    assert "none of its snapshots holds a model" in told(tmp_path)


def test_a_folder_of_files_names_the_checkpoints_in_it(real: Path, tmp_path: Path) -> None:
    root = webui(tmp_path, real)
    for folder in (root, root / "Stable-diffusion"):
        said = told(folder)
        assert "give one of these files: " in said
        files = said.partition("give one of these files: ")[2].rstrip(".").split(", ")
        assert sorted(files) == [
            str(root / "Stable-diffusion/mine.SAFETENSORS"),
            str(root / "Stable-diffusion/old/two.safetensors"),
        ]


def test_a_folder_of_pipelines_names_them(real: Path, tmp_path: Path) -> None:
    shutil.copytree(real / "sd1", tmp_path / "diffusers/mine")
    assert f"give the pipeline's folder: {tmp_path}/diffusers/mine." in told(tmp_path)


def test_a_part_of_a_pipeline_names_the_whole(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"give the whole of it: {real / 'sd1'}." in told(real / "sd1/unet")
    monkeypatch.chdir(real / "sd1/unet")
    assert f"give the whole of it: {real / 'sd1'}." in told(Path())


def test_other_folders_are_described(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in told(tmp_path / "empty")
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles/old.ckpt").write_bytes(b"\x80")
    assert "pickles, which could run any code" in told(tmp_path / "pickles")
    (tmp_path / "some").mkdir()
    for number in range(7):
        (tmp_path / f"some/{number}.txt").write_text("")
    said = told(tmp_path / "some")
    assert "it holds 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more" in said
    (tmp_path / "some/loop").symlink_to(tmp_path / "some")
    assert "there is no model in this folder" in told(tmp_path / "some")


VERBS = [
    "generate --prefix P --model M cat",
    "evaluate --prefix P --model M --size 64 --out O",
    "train --model M --out O --size 64",
    "pocket evaluate --prefix P --model M",
    "pocket train --model M --out O",
    "dataset --names builtin --model M --out O",
    "demo --model M --out O",
    "bench kill --model M --out O",
    "bench speed --model M --out O",
    "bench paper --model M --out O",
    "bench negative --model M --out O",
    "pocket card --model M",
    "inspect P --model M",
    "inspect P --checkpoint M",
    "pocket build --seed 0 --from M --out O",
]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_it_and_leaves_the_folder_alone(
    apl: Apl, real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    root = webui(tmp_path / "models", real)
    before = sorted(root.rglob("*"))
    places = {"P": str(written(tmp_path / "p.safetensors", "clip_l")), "M": str(root), "O": "out"}
    code, _, err = apl(*(places.get(word, word) for word in verb.split()))
    assert code == 1 and "give one of these files: " in err and "pocket build" not in err
    assert sorted(root.rglob("*")) == before and not Path("out").exists()


def test_an_unfinished_pocket_model_is_told_how_to_go_on(apl: Apl, tmp_path: Path) -> None:
    shutil.copy(BUILT_IN / "world.json", tmp_path)
    (tmp_path / "build").mkdir()
    code, _, err = apl("pocket", "card", "--model", tmp_path)
    assert code == 1 and "vocab.json, merges.txt" in err and "apl pocket build --out" in err
    shutil.rmtree(tmp_path / "build")
    assert "apl pocket build" not in apl("pocket", "card", "--model", tmp_path)[2]
    assert "no such folder" in apl("pocket", "card", "--model", tmp_path / "none")[2]


def test_a_build_goes_on_from_the_same_world_only(apl: Apl, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, err = apl("pocket", "build", "--seed", 99, "--from", BUILT_IN, "--out", out)
    assert code == 2 and "that is world" in err and not out.exists()


def test_a_lone_text_encoder_still_reads_as_one(apl: Apl, tmp_path: Path) -> None:
    """`inspect` compares with a folder that holds an encoder alone, which is not a model."""
    file, checkpoint = written(tmp_path / "x.safetensors", "clip_l"), sd1(tmp_path / "model")
    assert apl("inspect", file, "--checkpoint", checkpoint)[0] == 0
