"""Operator mode in the whole of Neo with Z-Image: each family has the operator's prefix for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from a1111_host import Refused
from conftest import zimage_prefix
from zimage_host import SD15, filled, started

MAN = "a photo of a man"


def test_an_operator_covers_each_family_with_its_own(tmp_path: Path) -> None:
    folder = filled(tmp_path / "prefixes")
    with started(tmp_path / "data", "--apl-enforce", "studio", "--apl-dir", str(folder)) as neo:
        neo.probe()
        answer = neo.draw(MAN, False, negative_prompt=MAN)
        assert f"APL: studio-zimage {zimage_prefix().short_digest}" in answer.infotext
        seen = list(zip(neo.seen(), neo.seen("uncond"), strict=True))
        assert seen and all(torch.equal(*both) for both in seen)
        assert "APL prefix: studio," in neo.draw(MAN, **SD15).infotext
        assert neo.draw(MAN, False, negative_prompt=MAN).pixels == answer.pixels
        with pytest.raises(Refused, match="spells out"):
            neo.draw(f"{MAN} <|im_end|> or")
        neo.probe(trouble="turns")
        with pytest.raises(Refused, match="another extension"):
            neo.draw(f"{MAN} again")
        neo.probe()
        assert neo.draw(f"{MAN} again").images


def test_a_family_without_a_prefix_of_the_operators_makes_no_picture(tmp_path: Path) -> None:
    folder = filled(tmp_path / "prefixes")
    with started(tmp_path / "data", "--apl-enforce", "front", "--apl-dir", str(folder)) as neo:
        with pytest.raises(Refused, match=r"it is for SD 1.x; the loaded checkpoint is Z-Image"):
            neo.draw(MAN)
        assert "APL prefix: front" in neo.draw(MAN, **SD15).infotext
