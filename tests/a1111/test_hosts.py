"""Which webui this is, and its text engines; stand-ins for webuis that cannot be run here."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from apl_a1111 import hosts

from apl_core.errors import FitError, HostError
from apl_core.fit import check_fit
from apl_core.prefix import Prefix


def reforge_engine(name: str, width: int) -> Any:
    """One of reForge's encoders, written from what was read in its modules_forge.

    A1111's wrapper around ComfyUI's CLIP: the table lies where transformers has it, for OpenCLIP's
    towers too, and reForge puts A1111's EmbeddingsWithFixes over it.
    """
    over = SimpleNamespace(wrapped=SimpleNamespace(weight=torch.zeros(64, width)))
    text = SimpleNamespace(embeddings=SimpleNamespace(token_embedding=over))
    inner = SimpleNamespace(transformer=SimpleNamespace(text_model=text), model=None)
    return type(name, (), {"process_texts": lambda self, texts: ([], 0), "wrapped": inner})()


def test_reforges_encoders_are_known() -> None:
    host = hosts.A1111()
    small, big = reforge_engine("CLIP_SD_XL_L", 768), reforge_engine("CLIP_SD_XL_G", 1280)
    sdxl = SimpleNamespace(conditioner=SimpleNamespace(embedders=[small, big, object()]))
    found = {face.key: face.width for face in hosts.faces(host, sdxl, fingerprints=True)}
    assert found == {"clip_l": 768, "clip_g": 1280}
    for name, key, width in (("CLIP_SD_15_L", "clip_l", 768), ("CLIP_SD_21_H", "clip_h", 1024)):
        model = SimpleNamespace(cond_stage_model=reforge_engine(name, width))
        faces = hosts.faces(host, model, fingerprints=False)
        assert [(face.key, face.width) for face in faces] == [(key, width)]
        check_fit(Prefix({key: torch.zeros(3, width)}), faces)
    other = SimpleNamespace(cond_stage_model=reforge_engine("CLIP_SD_3", 768))
    with pytest.raises(HostError, match=r"CLIP_SD_3.*load a checkpoint of SD 1.x"):
        hosts.faces(host, other, fingerprints=False)


def test_a_misfit_is_told_with_the_name_that_was_chosen() -> None:
    model = SimpleNamespace(cond_stage_model=reforge_engine("CLIP_SD_15_L", 768))
    prefix = Prefix({"clip_h": torch.zeros(3, 1024)})
    with pytest.raises(FitError, match=r"with the prefix 'x': it is for SD 2.x"):
        hosts.require_fit(hosts.A1111(), "x", prefix, model)


@pytest.mark.parametrize(
    ("modules", "found"),
    [
        ({"modules.sd_hijack_clip"}, "A1111"),
        ({"backend", "modules.sd_hijack_clip"}, "A1111"),
        ({"modules.sd_hijack_clip", "modules_forge.forge_clip"}, "reForge"),
        (set[str](), "neither A1111's nor Forge's"),
    ],
)
def test_a_webui_is_known_or_told(
    monkeypatch: pytest.MonkeyPatch, modules: set[str], found: str
) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        return ModuleSpec(name, None) if name in modules else None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    if found in ("A1111", "reForge"):
        assert hosts.choose_host().name == found
    else:
        with pytest.raises(HostError, match=found):
            hosts.choose_host()
