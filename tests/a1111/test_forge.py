"""Forge Neo's engines are found by what they can do, on a stand-in that is marked as such."""

from __future__ import annotations

from typing import Any

import neo_stub
import pytest
import torch
from apl_a1111 import hosts
from apl_a1111.insertion import Run, emphasised, prefixed_chunks
from neo_stub import ClipEngine, Encoder, Layer, T5XXLEngine, checkpoint, vars_of
from stub_engine import run

from apl_core.errors import HostError
from apl_core.prefix import Prefix


def clip(key: str = "clip_l", width: int = 768) -> ClipEngine:
    return ClipEngine(Encoder(width), key)


def test_renamed_engines_are_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    neo_stub.install(monkeypatch)
    host = hosts.choose_host()
    assert host.name == "Neo"
    assert (host.engine_class(), host.embedding_class()) == (ClipEngine, Layer)
    sdxl = checkpoint("StableDiffusionXL", {"l": clip(), "g": clip("clip_g", 1280)})
    found = {face.key: face.width for face in hosts.faces(host, sdxl, fingerprints=True)}
    assert found == {"clip_l": 768, "clip_g": 1280}
    sd15 = checkpoint("StableDiffusion", {"text_processing_engine": clip()})
    engine = sd15.text_processing_engine
    assert host.engines(sd15) == [engine] and isinstance(host.layer(engine), Layer)


def test_an_emphasis_that_is_called_weighs_the_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    neo_stub.install(monkeypatch)
    host, engine = hosts.choose_host(), clip()
    rows = torch.randn(3, 768)
    inserted = Run("x", Prefix({"clip_l": rows}, behind=1).rows())
    chunks, _ = prefixed_chunks(inserted, engine, "clip_l", ["aBc"], type(engine).process_texts)

    def process_tokens(tokens: list[list[int]], weights: list[list[float]]) -> torch.Tensor:
        engine.embeddings.fixes = engine.fixes
        return emphasised(
            engine,
            tokens,
            weights,
            host.fixes(engine),
            type(engine).process_tokens,
            host.emphasis(engine),
        )

    got = run(engine, [chunks[0][0]], process_tokens)[0]
    assert torch.equal(got[1:3], rows[:2]) and torch.equal(got[6], rows[2])
    text = [one for place, one in enumerate(got[:, 0].tolist()) if place not in (1, 2, 6)]
    words = [1000.0, *map(float, map(ord, "aBc"))]
    assert text[2] / text[1] == pytest.approx(2 * words[2] / words[1])
    inserted.verify()


@pytest.mark.parametrize("unread", [False, True])
def test_what_else_neo_loads_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, unread: bool
) -> None:
    neo_stub.install(monkeypatch)
    host = hosts.choose_host()
    others: dict[str, Any] = {} if unread else {"t5": T5XXLEngine(Encoder(16))}
    models = [checkpoint("Flux", {"l": clip(), **others}, unread), checkpoint("ZImage", others)]
    models.append(type("Nothing", (), {})())
    for model in models:
        with pytest.raises(HostError, match=f"{type(model).__name__}.*load a checkpoint of SD 1.x"):
            host.engines(model)


@pytest.mark.parametrize(
    "held",
    [
        {"sd_engine": {}},
        {"sd_engine": vars_of(ClipEngine)},
        {"sd_engine": vars_of(Layer)},
        {"old_engine": vars_of(type("Old", (ClipEngine,), {}), Layer)},
    ],
)
def test_a_forge_of_tomorrow_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, held: dict[str, Any]
) -> None:
    neo_stub.install(monkeypatch, **held)
    with pytest.raises(HostError, match=r"has [02] text engines.*nothing is anonymized"):
        hosts.choose_host()


def test_an_operator_closes_what_reads_texts_without_a_prefix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processing = neo_stub.install(monkeypatch)
    host = hosts.choose_host()
    assert list(host.closed()) == [(T5XXLEngine, "__call__")]
    processing._process_images_via_api = print  # pyright: ignore[reportAttributeAccessIssue]
    assert (processing, "_process_images_via_api") in host.closed()


def test_a_prefix_is_taken_out_of_the_embeddings_that_a_picture_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    neo_stub.install(monkeypatch)
    host = hosts.choose_host()
    noted = {"TI": "one, apl mine, two"}
    host.forget("apl mine", noted)
    assert noted == {"TI": "one, two"}
    host.forget("apl mine")
