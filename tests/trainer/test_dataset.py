"""Datasets made on the pocket model for real: killed, shared, damaged, grown, changed by hand."""

import csv
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from slim_checkpoints import pipeline

from apl_core.errors import ConfigError, RunError
from apl_core.training.config import TrainConfig
from apl_trainer.checkpoints.training_data import read_data
from apl_trainer.cli import main
from apl_trainer.data import generate
from apl_trainer.data.captioned_folder import given_tasks
from apl_trainer.data.finish import DatasetSummary, finish
from apl_trainer.data.generate import GenerationTools, make
from apl_trainer.data.plan import Amounts, Task, general_tasks, name_tasks, split_names
from apl_trainer.json_log import open_log
from apl_trainer.metadata_jsonl import read_metadata
from apl_trainer.pocket.dataset_tools import pocket_tools
from apl_trainer.pocket.model import load_pocket
from apl_trainer.sampling import Request

MODEL = load_pocket()
NAMES = tuple(person.name for person in MODEL.world.people[:3])
AMOUNTS = Amounts(count=3, tries=6, things=3, people=2, heldout_share=0.34)
FLAGS = (
    "--count=3",
    "--tries=6",
    "--things=3",
    "--people=2",
    "--heldout-share=0.34",
    "--steps=2",
    "--batch=2",
)


def tools(**changes: Any) -> GenerationTools:
    torch.set_num_threads(1)
    given: dict[str, Any] = {"seed": 0, "steps": 2, "guidance": 3.0, "batch": 2}
    return pocket_tools(MODEL, **(given | changes))


def tasks(names: tuple[str, ...] = NAMES, amounts: Amounts = AMOUNTS) -> list[Task]:
    splits = split_names(names, None, amounts.heldout_share, 0)
    return name_tasks(splits, amounts, True) + general_tasks(amounts, 2, 0)


def made(
    folder: Path,
    work: list[Task] | None = None,
    gender: bool = True,
    settings: GenerationTools | None = None,
    amounts: Amounts = AMOUNTS,
) -> DatasetSummary:
    used = settings or tools()
    used.settings.remember(folder)
    make(used, work or tasks(), folder)
    return finish(used, work or tasks(), amounts, folder, gender)


def written(folder: Path) -> dict[str, bytes]:
    """Everything that a dataset consists of, by name; the logs are not part of it."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.parent.name != "parts")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    assert made(folder).complete
    return folder


def test_every_picture_is_in_the_metadata_and_every_file_in_the_manifest(straight: Path) -> None:
    entries = read_metadata(straight)
    kinds = [entry.kind for entry in entries]
    assert kinds.count("things") == 3 and kinds.count("people") == 2
    assert {entry.name for entry in entries if entry.name} == set(NAMES)
    for entry in entries:
        with Image.open(straight / entry.file_name) as image:
            assert image.size == (32, 32)
        if entry.kind == "identity":
            assert entry.name in entry.text and entry.name not in entry.neutral
            before, after = entry.text.split(entry.name)
            assert entry.neutral.startswith(before) and entry.neutral.endswith(after)
    held = {e.name for e in entries if e.split == "heldout" and e.name}
    assert len(held) == 1
    manifest = json.loads((straight / "manifest.json").read_text(encoding="utf-8"))
    hashes = {k: hashlib.sha256(v).hexdigest() for k, v in written(straight).items()}
    assert manifest["files"] == {k: v for k, v in hashes.items() if k != "manifest.json"}
    assert manifest["counts"]["names"] == {"train": 2, "heldout": 1}
    assert manifest["model"] == MODEL.name and manifest["fingerprints"]["pocket"]
    assert {entry.file_name for entry in entries} <= manifest["files"].keys()


def test_kept_pictures_show_one_face_and_are_what_the_seed_draws(straight: Path) -> None:
    used = tools()
    for task in tasks():
        rows, missing = generate.GeneratedIndex(straight).of(task)
        assert missing is None
        if task.kind == "identity":
            drawn = used.painter.draw(
                [task.request(used.settings, used.book, i) for i in (0, 1)], None
            )
            seen = used.faces.look(drawn).counts if used.faces else ()
            assert [row.index for row in rows if row.index < 2] == [i for i in (0, 1) if seen[i]]
            if seen[0]:
                with Image.open(straight / task.file(0)) as image:
                    kept = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
                assert torch.equal(kept, (drawn[0].clamp(0, 1) * 255).round().to(torch.uint8))


def test_shares_give_the_same_as_one_process(straight: Path, tmp_path: Path) -> None:
    used = tools()
    used.settings.remember(tmp_path)
    make(used, tasks(), tmp_path, rank=1, of=2)
    part = finish(used, tasks(), AMOUNTS, tmp_path)
    assert not part.complete and not (tmp_path / "metadata.jsonl").exists()
    make(used, tasks(), tmp_path, rank=0, of=2)
    assert finish(used, tasks(), AMOUNTS, tmp_path).complete
    assert written(tmp_path) == written(straight)


def command(folder: Path, names: Path, *more: str) -> list[str]:
    return ["dataset", "--names", str(names), "--out", str(folder), *FLAGS, *more]


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_killed_twice_and_resumed_it_is_the_same(straight: Path, tmp_path: Path) -> None:
    names, folder = tmp_path / "names.txt", tmp_path / "out"
    names.write_text("\n".join(NAMES), encoding="utf-8")
    code = "import sys; from apl_trainer.cli import main; sys.exit(main(sys.argv[1:]))"
    for pictures in (2, 7):
        child = subprocess.Popen(
            [sys.executable, "-c", code, *command(folder, names)],
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        while len(list(folder.glob("images/*/*/*.png"))) < pictures:
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        child.kill()
        assert child.wait(60) == -signal.SIGKILL
        assert not (folder / "manifest.json").exists()
    before = {p: p.stat().st_mtime_ns for p in folder.glob("images/*/*/*.png")}
    assert main(command(folder, names)) == 0
    again = [p for p, when in before.items() if p.stat().st_mtime_ns != when]
    assert len(again) <= 1, "what was finished is not drawn again"
    assert written(folder) == written(straight)


def test_a_full_disk_is_told_and_loses_nothing(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the disk says that it is full: in a picture, in the log, in the tables."""
    real, left = os.fsync, [0]

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    for room in (1, 6, 9):
        left[0] = room
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(RunError, match=r"disk is full.*free some space"):
                made(tmp_path)
    assert made(tmp_path).complete
    assert written(tmp_path) == written(straight)


def test_what_was_damaged_or_deleted_is_made_again(straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    pictures = sorted(tmp_path.glob("images/*/*/*.png"))
    pictures[0].unlink()
    pictures[1].write_bytes(b"no picture")
    log = tmp_path / "parts" / "pictures-0.jsonl"
    log.write_bytes(log.read_bytes()[:-9])
    assert made(tmp_path).complete
    assert written(tmp_path) == written(straight)


def test_more_names_and_pictures_are_added_to_what_is_there(straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    more = Amounts(count=3, tries=6, things=5, people=2, heldout_share=0.34)
    names = (*NAMES, MODEL.world.people[9].name)
    outcome = made(tmp_path, tasks(names, more), amounts=more)
    assert {e.name for e in outcome.entries if e.name} == set(names)
    assert sum(e.kind == "things" for e in outcome.entries) == 5
    before = {k: v for k, v in written(straight).items() if k.startswith("images/")}
    assert before.items() <= written(tmp_path).items()


def test_other_settings_need_another_folder(straight: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        tools(seed=1, steps=3).settings.remember(straight)
    assert "seed was '0', now it is '1'" in str(caught.value)
    assert len(caught.value.problems) == 2 and "another --out" in str(caught.value)


def test_two_processes_do_not_draw_the_same_share(straight: Path, tmp_path: Path) -> None:
    with open_log(tmp_path, 0), pytest.raises(RunError, match="own --shard"):
        make(tools(), tasks(), tmp_path)


def edit(folder: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    path = folder / "descriptions.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    change(rows)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_overrides_win_and_stay(straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    before = {e.name: e.neutral for e in read_metadata(tmp_path)}
    edit(tmp_path, lambda rows: rows[0].update(override="somebody in a hat", hair_color="green"))
    for _ in range(2):
        made(tmp_path)
        said = {e.name: e.neutral for e in read_metadata(tmp_path)}
        assert "somebody in a hat" in said[NAMES[0]]
        assert {name: said[name] for name in NAMES[1:]} == {n: before[n] for n in NAMES[1:]}
        assert "green" not in (tmp_path / "descriptions.csv").read_text(encoding="utf-8")
    edit(tmp_path, lambda rows: rows[0].update(override=f"that is {NAMES[0]}"))
    with pytest.raises(ConfigError, match="holds the name"):
        made(tmp_path)
    edit(tmp_path, lambda rows: rows[0].update(override=""))
    made(tmp_path)
    assert written(tmp_path) == written(straight)


def test_pictures_described_by_an_older_version_keep_their_votes(
    straight: Path, tmp_path: Path
) -> None:
    """Their log says `hair_colour`."""
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    log = tmp_path / "parts" / "pictures-0.jsonl"
    text = log.read_text(encoding="utf-8")
    assert "hair_color" in text
    log.write_text(text.replace("hair_color", "hair_colour"), encoding="utf-8")
    assert made(tmp_path).complete
    assert written(tmp_path) == written(straight)


def test_a_name_that_means_nothing_is_reported(tmp_path: Path) -> None:
    amounts = Amounts(count=8, tries=24, things=0, people=0, heldout_share=0)
    names = (*NAMES, "somebody")
    used = tools(steps=8)  # in fewer, pictures of nobody in particular are alike
    work = name_tasks(split_names(names, None, 0, 0), amounts, True)
    outcome = made(tmp_path, work, settings=used, amounts=amounts)
    assert outcome.unknown == ("somebody",)


def test_given_pictures_with_captions_are_taken(tmp_path: Path) -> None:
    given = tmp_path / "given"
    (given / "people").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, caption in (
        ("people/a.png", "somebody"),
        ("b.jpg", "a red car\n"),
        ("c.webp", "an old woman"),
    ):
        Image.fromarray(random.integers(0, 255, (40, 50, 3), np.uint8)).save(given / name)
        (given / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
    work = tasks()[:2] + given_tasks(given, AMOUNTS, 0, NAMES)
    outcome = made(tmp_path / "out", work)
    found = {e.text: e for e in outcome.entries if e.kind != "identity"}
    assert {p: e.kind for p, e in found.items()} == {
        "somebody": "people",
        "a red car": "things",
        "an old woman": "people",
    }
    assert all(e.seed is None for e in found.values())
    with Image.open(tmp_path / "out" / found["a red car"].file_name) as image:
        assert image.size == (32, 32)
    (given / "b.txt").write_text("a blue car", encoding="utf-8")
    again = made(tmp_path / "out", tasks()[:2] + given_tasks(given, AMOUNTS, 0, NAMES))
    assert "a blue car" in {e.text for e in again.entries}


def test_the_command_tells_what_is_odd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.txt"
    names.write_text(f"{NAMES[0]}\n{NAMES[1]}\n", encoding="utf-8")
    flags = ["--things=0", "--people=0", "--count=1", "--steps=2", "--no-gender", "--json"]
    run = ["dataset", "--names", str(names), "--out", str(tmp_path / "out"), *flags]
    assert main([*run, "--no-face-filter", "--descriptions=person"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {
        "complete": True,
        "pictures": {"identity": 2},
        "unknown": [],
        "without_face": [],
        "with_few_faces": [],
    }
    assert "names to learn from are few" in told.err
    for entry in read_metadata(tmp_path / "out"):
        assert entry.neutral == entry.text.replace(entry.name, "a person")


@pytest.mark.parametrize(
    ("lines", "flags", "told"),
    [
        ("Ann Lee\n", [], "only one name"),
        ("Ann Lee\nBo Ray\n", ["--heldout", "names.txt"], "in both lists"),
        ("Ann\nBo\n", ["--steps=0"], "--steps: 0 is not within 1 to 1000"),
        ("Ann\nBo\n", ["--shard=3", "--num-shards=2"], "--shard 3 of --num-shards 2"),
        ("Ann\nBo\n", ["--count=0"], "--count"),
        ("Ann\nBo\n", ["--tries=2"], "--tries 2 is less"),
        ("Ann\nBo\n", ["--guidance=0"], "--guidance: 0 is not within 1 to 100"),
        ("Ann\nBo\n", ["--size=64"], "32x32"),
        ("Ann\nBo\n", ["--weights=w", "--device=cpu"], "--device, --weights"),
        ("Ann\nBo\n", ["--no-face-filter", "--tries=60"], "without the face filter"),
        ("Ann\nBo\n", ["--templates", "names.txt"], "own words"),
        ("Ann\nBo\n", ["--general", "nowhere"], "no such folder"),
    ],
)
def test_bad_usage_is_told_before_anything_is_drawn(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    lines: str,
    flags: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text(lines, encoding="utf-8")
    assert main(["dataset", "--names", "names.txt", "--out", "out", *flags]) == 2
    assert told in capsys.readouterr().err
    assert not Path("out").exists()


def test_no_face_at_all_ends_in_words(tmp_path: Path) -> None:
    class Blind:
        """A face reader for a model that draws no faces: a picture of things shows none."""

        name = "counts faces in a picture of a house"

        def look(self, pictures: torch.Tensor) -> Any:
            house = MODEL.sampler(4).draw([Request("a photo of a red house", 0)], None)
            seen = used.faces.look(house) if used.faces else None
            assert seen is not None
            return type(seen)(seen.counts * len(pictures), None)

    used = tools()
    blind = GenerationTools(used.settings, used.painter, used.book, Blind(), used.attributes)
    with pytest.raises(RunError, match="exactly one face"):
        made(tmp_path, tasks()[:2], settings=blind)


def test_a_real_checkpoint_draws_the_built_in_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random-weights SD 1.x pipeline with thin networks, from its folder."""
    checkpoint, names = tmp_path / "slim", tmp_path / "names.txt"
    pipeline("sd1").save_pretrained(checkpoint)
    names.write_text("Ann Lee\nBo Ray\n", encoding="utf-8")
    run = [
        "dataset",
        "--model",
        str(checkpoint),
        "--names",
        str(names),
        "--size=64",
        "--steps=2",
        "--count=2",
        "--things=1",
        "--people=1",
        "--batch=2",
        "--device=cpu",
        "--out",
        str(tmp_path / "out"),
        "--weights",
        str(tmp_path),
    ]
    assert main([*run, "--faces=facexlib"]) == 1
    told = capsys.readouterr().err
    assert "apl fetch face-detection" in told and "apl fetch clip-b32" in told
    assert not (tmp_path / "out").exists()
    without = [*run, "--no-face-filter", "--descriptions=person", "--heldout-share=0"]
    assert main(without) == 0
    entries = read_metadata(tmp_path / "out")
    assert [e.kind for e in entries] == ["identity"] * 4 + ["things", "people"]
    with Image.open(tmp_path / "out" / entries[0].file_name) as image:
        assert image.size == (64, 64)
    rows = read_data(tmp_path / "out", TrainConfig.from_mapping({"target": "description"}))
    assert len(rows) == 6
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["fingerprints"].keys() == {"clip_l"}
    assert "predicts eps" in manifest["settings"]["reading"]
    assert main([*without, "--device=nothing"]) == 2
    assert "set device nothing" in capsys.readouterr().err
    assert main([*without, "--prediction=v"]) == 2
    assert "reading was" in capsys.readouterr().err


def test_a_full_device_and_broken_pictures_end_in_words(tmp_path: Path) -> None:
    class Failing:
        """Draws what a checkpoint in float16 may: no numbers, or nothing for lack of memory."""

        def draw(self, requests: Any, rows: Any) -> torch.Tensor:
            if len(requests) > 1:
                raise torch.cuda.OutOfMemoryError
            return torch.full((1, 3, 32, 32), torch.nan)

    used = tools()
    failing = GenerationTools(used.settings, Failing(), used.book, used.faces, used.attributes)
    with pytest.raises(RunError, match=r"memory of the device is full.*--batch"):
        made(tmp_path, tasks()[:1], settings=failing)
    with pytest.raises(RunError, match="not numbers"):
        made(tmp_path, [Task("things", "0", 1, 1, "train")], settings=failing)
    assert not list(tmp_path.rglob("*.png"))
