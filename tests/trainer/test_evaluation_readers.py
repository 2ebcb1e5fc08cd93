"""Who is in a picture: the pocket recognizer for real; facexlib and open_clip at random weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from apl_core.errors import AplError
from apl_trainer.evaluation.distances import feature_change
from apl_trainer.evaluation.identity import identity
from apl_trainer.pocket.model import PocketModel, load_pocket
from apl_trainer.pocket.reader import PocketReader
from apl_trainer.readers.clip import OpenClip
from apl_trainer.readers.facexlib import FacexlibFaces, load_networks, new_networks, weights_of
from apl_trainer.readers.protocols import FaceReader, Faces, FeatureReader, TextMatcher
from benchmarks.pocket_build.dataset import invent

facexlib = pytest.mark.skipif(
    not importlib.util.find_spec("facexlib"), reason="facexlib is not installed"
)
open_clip = pytest.mark.skipif(
    not importlib.util.find_spec("open_clip"), reason="open_clip is not installed"
)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> PocketModel:
    return load_pocket()


@pytest.fixture(scope="module")
def renders(model: PocketModel) -> tuple[list[str], Tensor]:
    """Names and pictures of two dozen people, drawn with a seed that nothing learned from."""
    import numpy as np

    rng = np.random.default_rng(987)
    people = model.world.group("heldout")[:24]
    subjects = invent(model.world, people, (24, 0, 0), rng)
    pictures = torch.from_numpy(subjects.draw(rng, lambda n: n)).float() / 255
    return [p.name for p in people], pictures


def test_the_pocket_reader_knows_people_in_renders(
    model: PocketModel, renders: tuple[list[str], Tensor]
) -> None:
    names, pictures = renders
    reader: FaceReader = PocketReader(model)
    found = identity(reader.faces(pictures), names, PocketReader(model).gallery)
    assert found.top1.value > 0.9 and found.face_found.value > 0.95
    assert found.cosine.value > 0.5


def test_ranks_in_the_gallery_are_those_of_the_recognizers_identity_head(
    model: PocketModel, renders: tuple[list[str], Tensor]
) -> None:
    reader = PocketReader(model)
    faces = reader.faces(renders[1])
    with torch.no_grad():
        scores = model.recognizer(renders[1]).scores["identity"]
    cosines = reader.gallery.cosines(faces)[faces.found]
    assert torch.allclose(cosines * 16, scores[faces.found], atol=1e-4)


def test_noise_has_no_face_and_a_zero_embedding(model: PocketModel) -> None:
    faces = PocketReader(model).faces(noise(0, 8, 3, 32, 32))
    assert not faces.found.any() and faces.embedding.eq(0).all()


def test_pocket_features_and_maps_tell_pictures_apart(
    model: PocketModel, renders: tuple[list[str], Tensor]
) -> None:
    reader: FeatureReader = PocketReader(model)
    features, maps = reader.features(renders[1]), reader.maps(renders[1])
    assert features.shape == (24, 256)
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2]
    with torch.no_grad():
        last = maps[-1].flatten(1)
        again = model.recognizer.body[-1](model.recognizer.body[-2](last))
    assert torch.allclose(features.square().mean(1), torch.ones(24), atol=1e-4)
    assert torch.nn.functional.cosine_similarity(again, features).min() > 0.9999


def test_faces_are_checked_and_joined() -> None:
    with pytest.raises(ValueError, match="embeddings"):
        Faces(torch.zeros(2, 3), torch.zeros(3).bool())
    one = Faces.of(noise(1, 2, 4), torch.tensor([True, False]))
    both = Faces.join([one, one])
    assert len(both) == 4 and torch.equal(both.pick(torch.tensor([2])).embedding, one.embedding[:1])


@facexlib
def test_facexlib_random_weights_no_face_below_the_threshold() -> None:
    torch.manual_seed(0)
    faces = FacexlibFaces(new_networks("mobile0.25"), threshold=0.999, batch=2).faces(
        noise(2, 3, 3, 64, 64)
    )
    assert faces.embedding.shape == (3, 512)
    assert not faces.found.any() and faces.embedding.eq(0).all()


@facexlib
def test_facexlib_random_weights_finds_reads_and_batches_alike() -> None:
    torch.manual_seed(0)
    networks = new_networks("mobile0.25")
    with torch.no_grad():  # every place looks like a face; which one is largest depends on noise
        for head in networks[0].ClassHead:  # type: ignore[union-attr]
            head.conv1x1.bias[1::2] += 8
    pictures = noise(3, 3, 3, 64, 64)
    together: FaceReader = FacexlibFaces(networks, threshold=0.5, batch=3)
    found = together.faces(pictures)
    alone = FacexlibFaces(networks, threshold=0.5, batch=1).faces(pictures)
    assert found.found.all()
    assert torch.allclose(found.embedding.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(found.embedding, alone.embedding, atol=1e-3)
    assert found.boxes is not None and alone.boxes is not None
    assert torch.allclose(found.boxes, alone.boxes, atol=1e-3)
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert not torch.allclose(found.embedding[0], found.embedding[1], atol=1e-3)


@facexlib
def test_facexlib_weights_come_from_files_that_fit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks = new_networks("mobile0.25")
    files = tmp_path / "detector.safetensors", tmp_path / "arcface.safetensors"
    for network, file in zip(networks, files, strict=True):
        save_file(dict(weights_of(network)), file)
    again = load_networks(*files, kind="mobile0.25")
    for one, other in zip(networks, again, strict=True):
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())
    with pytest.raises(AplError, match="arcface"):
        load_networks(files[1], files[0], kind="mobile0.25")


@open_clip
def test_open_clip_random_weights_scores_and_batches_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    clip = OpenClip("ViT-S-32-alt", None, batch=2)
    matcher: TextMatcher = clip
    pictures, texts = noise(4, 3, 3, 40, 56), ["a person", "a red car", "a person"]
    scores = matcher.match(pictures, texts)
    assert scores.shape == (3,) and scores.abs().max() <= 1
    assert torch.allclose(matcher.match(pictures[1:2], texts[1:2]), scores[1:2], atol=1e-4)
    assert torch.allclose(matcher.look(pictures).norm(dim=1), torch.ones(3), atol=1e-5)
    file = tmp_path / "clip.safetensors"
    save_file({k: v.clone().contiguous() for k, v in clip.model.state_dict().items()}, file)
    torch.manual_seed(1)
    again = OpenClip("ViT-S-32-alt", file)
    assert torch.allclose(again.match(pictures, texts), scores, atol=1e-4)
    with pytest.raises(AplError, match="no model of this name"):
        OpenClip("ViT-Z-1", None)


@open_clip
def test_open_clip_features_and_maps_batch_alike_and_tell_pictures_apart() -> None:
    torch.manual_seed(0)
    clip = OpenClip("ViT-S-32-alt", None, batch=2)
    reader: FeatureReader = clip
    pictures = noise(5, 3, 3, 64, 64)
    features, maps = reader.features(pictures), reader.maps(pictures)
    assert torch.allclose(features.square().mean(1), torch.ones(3), atol=1e-4)
    assert [m.shape for m in maps] == [(3, 384, 7, 7)] * 4
    for whole, alone in zip(maps, reader.maps(pictures[1:2]), strict=True):
        assert torch.allclose(whole[1:2], alone, atol=1e-3)
        assert not torch.allclose(whole[0], whole[1], atol=1e-3)
    moved = feature_change(maps, reader.maps(pictures.flip(0)))
    assert moved[1] < 1e-6 < moved[0]
    assert not clip.model.visual.transformer.resblocks[0]._forward_hooks
