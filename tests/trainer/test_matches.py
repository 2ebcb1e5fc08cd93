"""Faces called one person's, and the sheet on which a person can look at them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from slim_evaluation import ByNoise, evaluated, read_report, write_evaluation_root
from slim_runs import load
from torch import Tensor

from apl_trainer.evaluation.checkpoint_eval import Readers
from apl_trainer.evaluation.checkpoint_report import write_report
from apl_trainer.evaluation.faces_sheet import save_faces
from apl_trainer.evaluation.matches import GalleryFaces, Matches, Sightings, accepted
from apl_trainer.readers.protocols import Faces


def faces(*vectors: tuple[float, float], found: tuple[bool, ...] | None = None) -> Faces:
    there = torch.tensor(found or (True,) * len(vectors))
    return Faces.of(torch.tensor(vectors), there)


def test_distances_are_those_of_the_vectors_as_they_were() -> None:
    one, two = faces((3, 0), (0, 4), found=(True, False)), faces((0, 4), (3, 1))
    apart = one.distances(two)
    assert apart[0].tolist() == pytest.approx([5, 1]) and apart[1].isnan().all()
    both = Faces.join([one, two])
    assert torch.equal(both.pick(torch.tensor([2, 3])).distances(two), two.distances(two))
    assert one.embedding.norm(dim=1).tolist() == [1, 0]


def test_the_nearest_picture_of_the_person_named_decides_and_pairs_tell_what_is_wrong() -> None:
    names = ("Ada", "Ada", "Bo")
    gallery = GalleryFaces(faces((0, 0.1), (2, 0), (2.2, 0)), names, (Path("a"),) * 3)
    seen = faces((2.1, 0), (1, 0), (9, 9), (0, 0), found=(True, True, True, False))
    found = Matches.of(seen, ("Ada", "Bo", "Bo", "Ada"), (Path("b"),) * 4, gallery)
    assert found.nearest[:3].tolist() == [1, 2, 2]
    assert found.distances[:2].tolist() == pytest.approx([0.1, 1.2])
    assert found.distances[3].isnan()
    assert found.same(0.6).value == pytest.approx(1 / 3) and found.same(0.6).count == 3
    shares = accepted(gallery, 0.6)
    assert shares["gallery.accepted_other_name"].value == 0.5  # Bo is taken for one of two Adas
    assert shares["gallery.accepted_same_name"].value == 0
    alone = replace(gallery, faces=gallery.faces.pick(torch.tensor([0, 1])), names=("Ada", "Bo"))
    assert set(accepted(alone, 0.6)) == {"gallery.accepted_other_name"}


class InTheMiddle(ByNoise):
    """Says that the face is the middle of each picture."""

    def faces(self, pictures: Tensor) -> Faces:
        seen = super().faces(pictures)
        return replace(seen, boxes=torch.tensor([[0.25, 0.25, 0.75, 0.75]]).repeat(len(seen), 1))


def test_the_report_tells_the_threshold_what_it_accepts_and_shows_the_faces(tmp_path: Path) -> None:
    model = load(write_evaluation_root(tmp_path))
    readers = Readers(InTheMiddle(), None, (), 1e9, "one who sees middles")
    found = evaluated(model, tmp_path, readers)
    for key in ("base.identity_same.trained", "prefix.identity_same.heldout"):
        assert found.figures[key].value == 1  # everybody is nearer than 1e9
    assert found.figures["gallery.accepted_other_name"].value == 1
    write_report(tmp_path, found, {"Faces": readers.faces_name})
    told = " ".join(read_report(tmp_path)["notes"])
    assert "the recognizer's authors publish" in told and "100.0 % of the 24 pairs" in told
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2 and "same person" in page
    with Image.open(tmp_path / "faces.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(1 << 20) or []) > 99
    assert found.sightings is not None
    nobody = Sightings(found.sightings.gallery, {}, None)
    assert not save_faces(tmp_path / "none.png", nobody)
    assert not (tmp_path / "none.png").exists()
