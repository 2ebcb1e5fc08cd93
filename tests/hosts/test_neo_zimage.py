"""Z-Image in the whole of Neo, on thin random weights: pictures, infotext, other families."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from a1111_host import Refused
from conftest import zimage_prefix
from forge_host import ZImage
from zimage_host import SD15, filled, started

MAN = "a photo of a man"
PROMPTS = (MAN, "", "a (photo:1.3) of a man", "word " * 90)


@pytest.fixture(scope="module")
def neo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZImage]:
    """It with this extension."""
    data = tmp_path_factory.mktemp("zimage")
    filled(data / "models" / "apl")
    with started(data) as running:
        yield running


@pytest.fixture(scope="module")
def untouched(neo: ZImage, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Pixels of the prompts from the same Neo without this extension."""
    with started(tmp_path_factory.mktemp("bare"), clones=()) as bare:
        return [bare.draw(prompt).pixels for prompt in PROMPTS]


def test_off_is_neo_without_the_extension(neo: ZImage, untouched: list[str]) -> None:
    assert [neo.draw(prompt, False, "z").pixels for prompt in PROMPTS] == untouched
    assert len(set(untouched)) == len(PROMPTS)  # each text draws a picture of its own


@pytest.mark.parametrize("prompt", PROMPTS)
def test_on_the_network_reads_the_rows_too(neo: ZImage, prompt: str) -> None:
    neo.probe()
    plain = neo.draw(prompt)
    (bare, *_) = neo.seen()
    neo.probe()
    answer = neo.draw(prompt, True, "z")
    seen = neo.seen()
    covered = bool(prompt)
    assert len(seen) == 2 and ("APL prefix: z" in answer.infotext) == covered
    assert (answer.pixels == plain.pixels) != covered
    turns = 3 if "(" in prompt else 1  # Neo writes a turn around each part with a weight
    for one in seen:
        assert one.shape[1] == bare.shape[1] + covered * turns * zimage_prefix().n


def test_the_picture_says_it_and_brings_it_back(neo: ZImage) -> None:
    answer = neo.draw(MAN, True, "z")
    assert f"APL hash: {zimage_prefix().short_digest}" in answer.infotext
    assert neo.draw(f"{MAN} <apl:z>").pixels == answer.pixels
    assert neo.pasted(answer.infotext).pixels == answer.pixels
    assert neo.draw(MAN, True, "z", 0.0, 0.5).pixels != answer.pixels


def test_a_prefix_of_another_family_makes_no_picture(neo: ZImage) -> None:
    plain, covered = neo.draw(MAN).pixels, neo.draw(MAN, True, "z").pixels
    with pytest.raises(Refused, match=r"it is for SD 1.x; the loaded checkpoint is Z-Image"):
        neo.draw(MAN, True, "front")
    with pytest.raises(Refused, match=r"it is for Z-Image; the loaded checkpoint is SD 1.x"):
        neo.draw(MAN, True, "z", **SD15)
    assert "APL prefix: front" in neo.draw(MAN, True, "front", **SD15).infotext
    assert neo.draw(MAN).pixels == plain
    assert neo.draw(MAN, True, "z").pixels == covered
    with pytest.raises(Refused, match="spells out"):
        neo.draw(f"{MAN} <|im_end|> or", True, "z")
