"""The identity check on facexlib's real networks with random weights."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from apl_comfy.identity import DETECTORS, RECOGNIZER, Comparison, compare, face_reader
from safetensors.torch import save_file

from apl_core.errors import AplError, HostError

facexlib = pytest.mark.skipif(
    not importlib.util.find_spec("facexlib"), reason="facexlib is not installed"
)


def noise(seed: int, height: int = 96, width: int = 64) -> torch.Tensor:
    return torch.rand((height, width, 3), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights of both networks, in which every place looks like a face."""
    from apl_trainer.readers.facexlib import new_networks, weights_of

    torch.manual_seed(0)
    detector, recognizer = new_networks("mobile0.25")
    with torch.no_grad():
        for head in detector.ClassHead:  # type: ignore[union-attr]
            head.conv1x1.bias[1::2] += 8
    folder = tmp_path_factory.mktemp("faces")
    save_file(dict(weights_of(detector)), folder / DETECTORS["mobile0.25"])
    save_file(dict(weights_of(recognizer)), folder / RECOGNIZER)
    return folder


@facexlib
def test_a_face_is_itself_and_not_another(weights: Path) -> None:
    reader = face_reader(weights)
    same, other = compare(reader, noise(1), noise(1)), compare(reader, noise(1), noise(2, 64, 96))
    assert same.similarity == pytest.approx(1, abs=1e-5) and other.similarity < 0.999
    assert same.faces[0] == same.faces[1] > 0 and other.faces[0] == same.faces[0]
    assert f"similarity of the largest two {other.similarity:.3f}" in other.text
    assert compare(reader, torch.cat([noise(1), noise(3)[..., :1]], -1), noise(1)) == same


@facexlib
def test_a_picture_without_a_face_has_no_similarity(weights: Path) -> None:
    reader = face_reader(weights)
    reader.threshold = 1.0
    found = compare(reader, noise(1), noise(2))
    assert math.isnan(found.similarity) and found.faces == (0, 0)
    assert found.text.startswith("0 and 0 faces found: without a face in both")
    assert "nothing can be compared" in Comparison(math.nan, (1, 0)).text


@facexlib
def test_missing_and_foreign_weights_are_named(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=f"no detection_Resnet50.* and no {RECOGNIZER}"):
        face_reader(tmp_path)
    for file in (DETECTORS["mobile0.25"], RECOGNIZER):
        (tmp_path / file).symlink_to(weights / DETECTORS["mobile0.25"])
    with pytest.raises(AplError, match=f"{RECOGNIZER}.*does not hold the weights of Backbone"):
        face_reader(tmp_path)


@pytest.mark.parametrize("there", [True, False])
def test_a_missing_package_is_said_whatever_weights_are_there(
    there: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if there:
        for file in (*DETECTORS.values(), RECOGNIZER):
            (tmp_path / file).touch()
    missing: Any = dict.fromkeys(("facexlib", "facexlib.detection.retinaface"))
    for name, module in missing.items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(HostError, match="facexlib is not installed in ComfyUI's environment"):
        face_reader(tmp_path)
