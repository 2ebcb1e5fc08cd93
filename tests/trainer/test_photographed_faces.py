"""dlib's weights on real photographs that packages ship: one person, other people, nobody.

The photographs are read where the packages put them: scikit-image's astronaut, insightface's group
of six, scikit-learn's landscape. Nothing of them is kept. They are cut to strips, since the
detector's time goes with the area.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from apl_trainer.evaluation.matches import GalleryFaces, Matches, accepted
from apl_trainer.readers.dlib import SAME, DlibFaces, lacking_dlib
from apl_trainer.readers.protocols import FaceDetector, FaceReader, Faces

pytestmark = pytest.mark.skipif(
    bool(lacking_dlib()), reason="; ".join(found for found, _ in lacking_dlib())
)


def photograph(package: str, file: str) -> Image.Image:
    """A picture in an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    place = Path(spec.submodule_search_locations[0]) / file if spec else None  # type: ignore[index]
    if place is None or not place.is_file():
        pytest.skip(f"{package} with its photograph {file} is not installed")
    return Image.open(place).convert("RGB")


def tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


@pytest.fixture(scope="module")
def reader() -> DlibFaces:
    return DlibFaces()


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    return photograph("skimage", "data/astronaut.png").crop((0, 10, 512, 220))


@pytest.fixture(scope="module")
def landscape() -> Image.Image:
    return photograph("sklearn", "datasets/images/china.jpg").crop((0, 100, 640, 320))


@pytest.fixture(scope="module")
def plain(reader: DlibFaces, astronaut: Image.Image) -> Faces:
    protocol: FaceReader = reader
    return protocol.faces(tensor(astronaut)[None])


@pytest.fixture(scope="module")
def group(reader: DlibFaces) -> Faces:
    """The six faces of insightface's group picture, each cut out with what is around it."""
    picture = tensor(photograph("insightface", "data/images/t1.jpg").crop((0, 0, 1280, 520)))
    size = torch.tensor(picture.shape[:0:-1]).repeat(2)
    places = [(box * size).int().tolist() for box in reader._places(picture)]
    assert len(places) == 6
    boxes = torch.tensor(places) / size
    vectors = torch.stack([reader._descriptor(picture, box) for box in boxes])
    return Faces.of(vectors, torch.ones(6).bool(), boxes)


def test_the_same_face_turned_darkened_scaled_compressed_and_mirrored_is_one_person(
    reader: DlibFaces, astronaut: Image.Image, plain: Faces
) -> None:
    changed = {
        "turned": astronaut.rotate(20, Image.Resampling.BICUBIC),
        "darkened": ImageEnhance.Brightness(astronaut).enhance(0.3),
        "scaled": astronaut.resize((256, 105), Image.Resampling.LANCZOS),
        "compressed": jpeg(astronaut, 20),
        "mirrored": astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }
    assert plain.found.all() and plain.embedding.norm() == pytest.approx(1)
    for how, picture in changed.items():
        seen = reader.faces(tensor(picture)[None])
        distance = float(seen.distances(plain))
        assert 0.01 < distance < 0.35, f"{how}: {distance:.2f}"


def test_the_people_of_a_group_are_others(group: Faces, plain: Faces) -> None:
    """Each other's, and the astronaut's; none of the pairs is accepted wrongly."""
    apart = group.distances(group)[torch.ones(6, 6).triu(1).bool()]
    assert apart.min() > SAME and group.distances(plain).min() > SAME
    names = [f"person {i}" for i in range(6)]
    gallery = GalleryFaces(Faces.join([group, group]), (*names, *names), (Path(),) * 12)
    shares = accepted(gallery, SAME)
    assert shares["gallery.accepted_other_name"].value == 0
    assert shares["gallery.accepted_same_name"].value == 1
    own, wrong = (Matches.of(group, who, gallery) for who in (names, names[1:] + names[:1]))
    assert own.same(SAME).value == 1 and wrong.same(SAME).value == 0
    assert own.nearest.tolist() == list(range(6))


def test_nobody_is_in_a_landscape_and_a_tiny_face_is_told_as_none(
    reader: DlibFaces, astronaut: Image.Image, landscape: Image.Image
) -> None:
    protocol: FaceDetector = reader
    tiny = landscape.copy()
    tiny.paste(astronaut.crop((140, 20, 300, 180)).resize((24, 24)), (300, 100))
    for picture in (landscape, tiny):
        seen = protocol.look(tensor(picture)[None])
        assert seen.counts == (0,) and seen.embeddings is not None and not seen.embeddings.any()


def test_a_face_as_if_turned_away_is_farther_off_and_then_told_as_none(
    reader: DlibFaces, astronaut: Image.Image, plain: Faces
) -> None:
    """Squeezed, since no package ships a profile."""
    head = astronaut.crop((110, 0, 320, 210))
    half = reader.faces(tensor(head.resize((105, 210)))[None])
    assert float(half.distances(plain)) > 0.35
    gone = reader.look(tensor(head.resize((70, 210)))[None])
    assert gone.counts == (0,)


def test_two_faces_are_told_and_the_larger_one_counts(
    reader: DlibFaces, astronaut: Image.Image, plain: Faces
) -> None:
    head = astronaut.crop((110, 0, 320, 210))
    both = Image.new("RGB", (512, 250), "gray")
    both.paste(head.resize((250, 250)), (0, 0))
    both.paste(head.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (290, 20))
    seen, counts = reader._seen(tensor(both)[None])
    assert counts == [2] and seen.boxes is not None and seen.boxes[0, 2] < 0.5
    assert float(seen.distances(plain)) < 0.35
