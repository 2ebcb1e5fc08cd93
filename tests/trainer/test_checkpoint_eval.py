"""A prefix measured on slim checkpoints, with face readers of our own or random weights.

Nothing here says how good a figure is: that pictures, groups and readers come together rightly.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from slim_checkpoints import pipeline
from slim_evaluation import (
    PLAN,
    ByNoise,
    evaluated,
    evaluator,
    read_report,
    times,
    write_evaluation_root,
)
from slim_runs import NAMES, load, silent
from torch import Tensor

from apl_core.errors import ConfigError, RunError
from apl_core.prefix import Prefix
from apl_trainer.checkpoints.load import CheckpointModel, load_checkpoint
from apl_trainer.evaluation.checkpoint_eval import Readers
from apl_trainer.evaluation.checkpoint_report import flat_figures, notes, tables, write_report
from apl_trainer.evaluation.conditions import random_rows
from apl_trainer.evaluation.gallery import People, pictures_of_people, read_people
from apl_trainer.readers.protocols import Faces
from apl_trainer.statistics import Mean


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluation_root(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def model(root: Path) -> CheckpointModel:
    return load(root)


class NoFaces(ByNoise):
    """Sees no face anywhere."""

    def faces(self, pictures: Tensor) -> Faces:
        seen = super().faces(pictures)
        return Faces.of(seen.embedding, torch.zeros(len(pictures)).bool())


@pytest.fixture(scope="module")
def drawn(model: CheckpointModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything has been drawn."""
    place = tmp_path_factory.mktemp("drawn")
    evaluated(model, place, Readers(ByNoise()))
    return place


def test_conditions_ask_the_same_and_galleries_other_seeds(
    model: CheckpointModel, drawn: Path
) -> None:
    made = evaluator(model, drawn, Readers(ByNoise()))
    image_sets = made.image_sets
    assert list(made.conditions) == ["none", "prefix", "random", "description", "negative", "floor"]
    assert [len(image_sets[n]) for n in made.conditions] == [18, 18, 10, 4, 4, 4]
    asked = {n: image_set.requests for n, image_set in image_sets.items()}
    assert asked["prefix"] == asked["none"]
    assert asked["negative"][0].negative == f"{NAMES[0]}, blurry"
    assert all(
        r.negative.endswith("blurry")
        for image_set in image_sets.values()
        for r in image_set.requests
    )
    for name in ("floor", "description"):
        assert not any(who in r.prompt for r in asked[name] for who in NAMES)
    in_turn = [asked["none"][i].seed for i in (0, 4, 6, 10)]  # three pictures a name in "none"
    assert [r.seed for r in asked["floor"]] == in_turn
    free = asked["none"][12:]
    assert [r.prompt for r in asked["reseeded"]] == [r.prompt for r in free]
    measured = {
        r.seed for n, image_set in image_sets.items() if n != "gallery" for r in image_set.requests
    }
    assert not measured & {r.seed for r in asked["gallery"]} and len(asked["gallery"]) == 8


def test_figures_are_those_of_the_pictures(model: CheckpointModel, drawn: Path) -> None:
    """Identity by hand on the files; a picture without a face is never anonymous."""
    found = evaluated(model, drawn, Readers(ByNoise()))
    gallery = People.of(
        Faces.join([ByNoise().faces(part) for part in found.image_sets["gallery"]]),
        [name for name in NAMES for _ in range(2)],
    ).gallery
    assert gallery is not None
    pictures = torch.cat(list(found.image_sets["prefix"].cut(0, 6)))
    cosines = gallery.cosines(ByNoise().faces(pictures))
    own = cosines[torch.arange(6), torch.tensor([0, 0, 0, 1, 1, 1])]
    figures = found.figures
    assert figures["prefix.identity_cosine.trained"].value == pytest.approx(float(own.mean()))
    best = float(own.reshape(2, 3).max(1).values.mean())
    assert figures["prefix.identity_cosine_max.trained"].value == pytest.approx(best, abs=1e-6)
    first = (cosines.argmax(1) == torch.tensor([0, 0, 0, 1, 1, 1])).float().mean()
    assert figures["prefix.identity_top1.trained"].value == pytest.approx(float(first))
    assert not any("top5" in key for key in figures)  # four people
    plain, other = (torch.cat(list(found.image_sets[n].cut(12))) for n in ("none", "prefix"))
    moved = float((plain - other).square().mean())
    assert moved > 0
    assert figures["change.pixels.prefix"].value == pytest.approx(moved, rel=1e-4)
    assert flat_figures(found)["change.share_of_a_seed"] > 0
    assert [t.title for t in tables(found)] == [
        "Identity, trained names",
        "Identity, held-out names",
        "Drift",
    ]


def test_pictures_without_a_face_are_not_anonymous(model: CheckpointModel, drawn: Path) -> None:
    found = evaluated(model, drawn, Readers(ByNoise(blind=3)))
    for condition in ("base", "prefix"):
        for group in ("trained", "heldout"):
            get = {
                k: found.figures[f"{condition}.{k}.{group}"]
                for k in ("anonymous", "face_found", "identity_top1")
            }
            assert get["face_found"].value < 1
            named = get["identity_top1"].value * get["face_found"].value
            assert get["anonymous"].value == pytest.approx(get["face_found"].value - named)


def test_no_face_anywhere_is_said_and_claims_nothing(
    model: CheckpointModel, drawn: Path, tmp_path: Path
) -> None:
    found = evaluated(model, drawn, Readers(NoFaces()))
    assert found.people is not None and found.people.gallery is None
    assert not any("anonymous" in key or "identity" in key for key in found.figures)
    assert found.figures["prefix.face_found.heldout"].value == 0
    write_report(tmp_path, found, {"Model": "a slim one"})
    report = read_report(tmp_path)
    assert report["without_face"] == list(NAMES) and report["gallery"] == []
    assert any("nothing is said about identity" in line for line in report["notes"])
    assert "nothing is said about identity" in (tmp_path / "report.html").read_text("utf-8")


def test_faces_in_the_gallery_alone_leave_no_number(model: CheckpointModel, drawn: Path) -> None:
    class Late(ByNoise):
        """Sees faces in the gallery's eight pictures, which are read first."""

        def faces(self, pictures: Tensor) -> Faces:
            seen = super().faces(pictures)
            return Faces.of(seen.embedding, torch.tensor([self.seen <= 8] * len(pictures)))

    found = evaluated(model, drawn, Readers(Late()))
    assert found.figures["prefix.identity_top1.trained"].count == 0
    assert found.figures["prefix.anonymous.trained"].value == 0
    assert "prefix.identity_top1.trained" not in flat_figures(found)
    cells = [cell for row in tables(found)[0].rows for cell in row]
    assert "no face found" in cells and not any("nan" in cell for cell in cells)


def test_killed_or_damaged_only_what_is_missing_is_drawn(
    model: CheckpointModel, tmp_path: Path
) -> None:
    class Stopped(Exception):
        """Stands for a kill."""

    def stop(name: str, done: int, total: int) -> None:
        if done >= 9:
            raise Stopped

    readers = Readers(ByNoise())
    with pytest.raises(Stopped):
        evaluator(model, tmp_path, readers).draw(stop)
    before = times(tmp_path)
    assert 9 <= len(before) < 20
    evaluator(model, tmp_path, readers).draw(silent)
    after = times(tmp_path)
    assert before.items() <= after.items() and len(after) == 72
    broken = sorted(after)[5]
    broken.write_bytes(broken.read_bytes()[:-30])
    evaluator(model, tmp_path, readers).draw(silent)
    changed = {path for path, when in times(tmp_path).items() if when != after[path]}
    assert changed == {broken}
    with Image.open(broken) as image:
        image.load()
    other = random_rows(model.encoder, 4, 2, seed=6)
    evaluator(model, tmp_path, readers, Prefix(other.vectors, other.behind)).draw(silent)
    new = times(tmp_path).keys() - after.keys()
    assert len(new) == 18 and {path.parent.name for path in new} == {"prefix"}


def test_shares_draw_what_one_process_draws(
    model: CheckpointModel, drawn: Path, tmp_path: Path
) -> None:
    readers = Readers(ByNoise())
    assert evaluator(model, tmp_path, readers).draw(silent, 1, 2) == 36
    assert evaluator(model, tmp_path, readers).draw(silent, 0, 2) == 0
    here, there = ({p.relative_to(f) for p in f.rglob("*.png")} for f in (tmp_path, drawn))
    assert here == there


def test_a_device_that_is_full_draws_fewer_at_once(
    model: CheckpointModel, drawn: Path, tmp_path: Path
) -> None:
    made = evaluator(
        model, tmp_path, Readers(ByNoise()), plan=replace(PLAN, free=0, seeds=1, gallery=1)
    )
    inner = made.room.painter

    class Small:
        """Has memory for one picture."""

        def draw(self, requests: Sequence[Any], rows: Any) -> Tensor:
            if len(requests) > 1:
                raise torch.cuda.OutOfMemoryError
            return inner.draw(requests, rows)

    made.room.painter = Small()
    assert made.draw(silent) == 0 and made.room.batch == 1
    assert not any(key.startswith("change.") for key in made.measure(silent).figures)


def test_a_folder_of_pictures_is_a_gallery(
    model: CheckpointModel, drawn: Path, tmp_path: Path
) -> None:
    for number, label in enumerate(
        (
            "Anna_Brill/a",
            "bero danta/b",
            "cuno gral",
            "dita fommel",
            "somebody else/c",
            "dita fommel/again",
        )
    ):
        file = tmp_path / f"{label}.png"
        file.parent.mkdir(exist_ok=True)
        noise = torch.rand(30, 41 + number, 3, generator=torch.Generator().manual_seed(number))
        Image.fromarray((noise * 255).byte().numpy()).save(file)
    found = evaluated(model, drawn, Readers(ByNoise()), gallery=tmp_path)
    assert found.people is not None and found.people.gallery is not None
    assert set(found.people.gallery.names) == {*NAMES, "somebody else"}
    assert "gallery" not in found.image_sets and "base.identity_top1.heldout" in found.figures
    with pytest.raises(ConfigError) as caught:
        pictures_of_people(tmp_path, [*NAMES, "Ann Lee", "Bo Ray"])
    assert len(caught.value.problems) == 2 and "Ann Lee" in str(caught.value)
    (tmp_path / "cuno gral.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"cuno gral\.png is not a readable picture"):
        read_people(ByNoise(), [f for _, f in pictures_of_people(tmp_path, NAMES)])


def test_names_without_a_gallery_face_are_left_out_and_told(
    model: CheckpointModel, drawn: Path
) -> None:
    class But(ByNoise):
        """Sees no face in the first two pictures: those of the first name's gallery."""

        def faces(self, pictures: Tensor) -> Faces:
            first = self.seen
            seen = super().faces(pictures)
            return Faces.of(seen.embedding, torch.arange(first, self.seen) >= 2)

    found = evaluated(model, drawn, Readers(But()))
    assert found.people is not None and found.people.faceless == (NAMES[0],)
    assert found.figures["base.identity_cosine.trained"].count == 3
    assert found.figures["base.face_found.trained"].count == 6
    assert any(NAMES[0] in line for line in notes(found))


def test_two_text_encoders_and_v_prediction_are_measured_too(tmp_path: Path) -> None:
    """And another model's pictures are not taken for this one's."""
    plan = replace(PLAN, heldout=(), seeds=1, free=1, gallery=1)
    files: set[str] = set()
    for number, v in ((0, False), (1, False), (0, True)):
        folder = tmp_path / f"{number}{v}"
        pipeline("sdxl", v, seed=number).save_pretrained(folder)
        model = load_checkpoint(folder)
        found = evaluated(model, tmp_path / "out", Readers(ByNoise()), plan=plan)
        assert "prefix.identity_cosine.trained" in found.figures
        mine = {file.name for image_set in found.image_sets.values() for file in image_set.files}
        assert len(mine) == 22 and not mine & files
        files |= mine


def test_a_full_disk_is_told(
    model: CheckpointModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="disk is full"):
        evaluator(model, tmp_path, Readers()).draw(silent)
    assert not list(tmp_path.rglob("*.*"))


facexlib = pytest.mark.skipif(
    not importlib.util.find_spec("facexlib"), reason="facexlib is not installed"
)
open_clip = pytest.mark.skipif(
    not importlib.util.find_spec("open_clip"), reason="open_clip is not installed"
)


@facexlib
@open_clip
def test_real_readers_with_random_weights_measure_everything(
    model: CheckpointModel, drawn: Path, tmp_path: Path
) -> None:
    """RetinaFace, ArcFace and a small CLIP of the real builds; what they see means nothing."""
    from apl_trainer.readers.clip import OpenClip
    from apl_trainer.readers.facexlib import FacexlibFaces, new_networks

    torch.manual_seed(0)
    networks = new_networks("mobile0.25")
    with torch.no_grad():
        for head in networks[0].ClassHead:  # type: ignore[union-attr]
            head.conv1x1.bias[1::2] += 8
    readers = Readers(FacexlibFaces(networks, 0.5), OpenClip("ViT-S-32-alt", None))
    found = evaluated(model, drawn, readers, plan=replace(PLAN, seeds=2, gallery=1, free=2))
    for key in (
        "prefix.identity_top1.heldout",
        "prefix.clip_score.trained",
        "base.face_found",
        "random.clip_score.things",
        "change.features.prefix",
        "change.meaning.reseeded",
        "change.fid.random",
        "change.kid.prefix",
        "prefix.face_found.people",
    ):
        assert found.figures[key].count > 0, key
    write_report(tmp_path, found, {"Model": "a slim one", "Faces": "random weights"})
    report = read_report(tmp_path)
    again = {key: Mean.of(value).plain() for key, value in report["figures"].items()}
    assert again == {key: value.plain() for key, value in found.figures.items()}
    assert report["numbers"] == json.loads((tmp_path / "figures.json").read_text("utf-8"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("Identity", "Text fit", "Drift"))
    blind = Readers(FacexlibFaces(new_networks("mobile0.25"), 0.999), None)
    found = evaluated(model, drawn, blind, plan=replace(PLAN, seeds=2, gallery=1, free=2))
    assert found.figures["prefix.face_found"].value == 0
    assert not any("anonymous" in key for key in found.figures)
