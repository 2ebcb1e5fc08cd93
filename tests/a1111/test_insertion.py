"""The prefix in the chunks of a webui's text engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from apl_a1111.insertion import Run, current, emphasised, prefixed_chunks, running
from hypothesis import given
from hypothesis import strategies as st
from stub_engine import BOS, EOS, WIDTH, Chunk, Engine, run

from apl_core.errors import HostError, PromptError
from apl_core.prefix import Rows


def rows_of(n: int, behind: int = 0) -> Rows:
    """Rows whose values are 5001, 5002, ..."""
    values = torch.arange(5001.0, 5001.0 + n)[:, None].repeat(1, WIDTH)
    return Rows({"clip_l": values}, behind)


def chunks_of(engine: Engine, texts: list[str], rows: Rows) -> tuple[list[list[Chunk]], Run]:
    doing = Run("test", rows)
    batch, _ = prefixed_chunks(doing, engine, "clip_l", texts, Engine.process_texts)
    return batch, doing


def seen(engine: Engine, chunk: Chunk) -> list[float]:
    """What stands at each place of one encoded chunk."""
    return run(engine, [chunk])[0, :, 0].tolist()


@given(st.text("abc XYZ|", max_size=200), st.integers(1, 74), st.data())
def test_every_chunk_is_bos_front_text_behind_eos(text: str, n: int, data: st.DataObject) -> None:
    behind = data.draw(st.integers(0, n))
    engine = Engine()
    (chunks,), doing = chunks_of(engine, [text], rows_of(n, behind))
    marks = [5001.0 + k for k in range(n)]
    front, back = marks[: n - behind], marks[n - behind :]
    letters = ""
    for chunk in chunks:
        places = seen(engine, chunk)
        assert len(places) == len(chunk.multipliers) == 77
        assert places[0] == BOS
        if not text.strip():
            assert places[1:] == Engine().split(text)[0].tokens[1:]
            continue
        assert places[1 : 1 + len(front)] == front
        end = places.index(EOS)
        assert places[end - behind : end] == back
        assert set(places[end:]) == {EOS}
        letters += "".join(chr(one) for one in chunk.tokens[1 + len(front) : end - behind])
        assert chunk.multipliers[1 : 1 + len(front)] == [1.0] * len(front)
    doing.verify()
    if text.strip():
        assert letters == text.replace("|", "")
    assert engine.chunk_length == 75 and engine.id_end == EOS


def test_short_variants_are_filled_with_prefixed_chunks_and_empty_ones_are_left_alone() -> None:
    engine = Engine()
    batch, _ = chunks_of(engine, ["a" * 100, "b", "", " "], rows_of(10, 2))
    assert [len(chunks) for chunks in batch] == [2, 2, 1, 1]
    assert seen(engine, batch[1][1])[1:12] == [5001.0 + k for k in range(10)] + [EOS]
    assert batch[2][0] == engine.empty_chunk()


def test_embeddings_of_the_prompt_move_behind_the_front_rows() -> None:
    engine = Engine()
    engine.embedding = SimpleNamespace(vectors=2, vec=torch.full((2, WIDTH), 7.0), name="ti")
    (chunks,), _ = chunks_of(engine, ["a@b"], rows_of(4, 1))
    assert seen(engine, chunks[0])[:10] == [BOS, 5001, 5002, 5003, 97, 7, 7, 98, 5004, EOS]


def test_an_embedding_that_does_not_fit_is_an_error() -> None:
    engine = Engine()
    engine.embedding = SimpleNamespace(vectors=70, vec=torch.zeros(70, WIDTH), name="ti")
    with pytest.raises(HostError, match="more than the 65 vectors"):
        chunks_of(engine, ["@"], rows_of(10))


def test_a_text_that_spells_eos_is_an_error() -> None:
    with pytest.raises(HostError, match="end-of-text"):
        chunks_of(Engine(), ["a$b"], rows_of(10))


def test_no_room_for_text_is_an_error() -> None:
    with pytest.raises(PromptError):
        chunks_of(Engine(), ["a"], rows_of(75))


def test_an_encoder_that_was_not_asked_or_did_not_read_the_rows_is_an_error() -> None:
    engine = Engine()
    with pytest.raises(HostError, match="never asked"):
        Run("test", rows_of(2)).verify()
    (chunks,), doing = chunks_of(engine, ["a"], rows_of(2, 1))
    with pytest.raises(HostError, match="without the prefix's rows"):
        doing.verify()
    run(engine, chunks)
    doing.verify()
    with pytest.raises(HostError, match="no rows in this prefix"):
        prefixed_chunks(doing, engine, "clip_g", ["a"], Engine.process_texts)


class Halving:
    """An emphasis that ends in a re-normalization over all that it sees, as A1111's does."""

    tokens: Any
    multipliers: torch.Tensor
    z: torch.Tensor

    def after_transformers(self) -> None:
        before = self.z.mean()
        self.z = self.z * self.multipliers[..., None]
        self.z = self.z * (before / self.z.mean())


def test_emphasis_weighs_and_normalizes_the_text_alone() -> None:
    engine = Engine()
    texts = ["aB", "c", ""]
    batch, _ = chunks_of(engine, texts, rows_of(6, 2))
    chunks = [one[0] for one in batch]

    def weigh(tokens: list[list[int]], multipliers: list[list[float]]) -> torch.Tensor:
        return emphasised(
            engine, tokens, multipliers, engine.fixes, Engine.process_tokens, Halving()
        )

    plain = run(engine, [Chunk(one.tokens, [1.0] * 77, one.fixes) for one in chunks])
    got = run(engine, chunks, weigh)
    own = (plain[..., 0] >= 5001) & (plain[..., 0] <= 5006)
    assert int(own.sum()) == 12
    assert torch.equal(got[own], plain[own])
    weights = torch.tensor([one.multipliers for one in chunks])
    want = plain[~own] * weights[~own][:, None]
    want = want * (plain[~own].mean() / want.mean())
    assert torch.equal(got[~own], want)


def test_without_emphasis_the_engine_runs_as_it_is() -> None:
    engine = Engine()
    (chunks,), _ = chunks_of(engine, ["ab"], rows_of(6, 2))

    def weigh(tokens: list[list[int]], multipliers: list[list[float]]) -> torch.Tensor:
        return emphasised(engine, tokens, multipliers, engine.fixes, Engine.process_tokens, None)

    assert torch.equal(run(engine, chunks, weigh), run(engine, chunks))


def test_gradients_reach_the_rows() -> None:
    engine = Engine()
    learned = torch.zeros(3, WIDTH, requires_grad=True)
    (chunks,), _ = chunks_of(engine, ["ab"], Rows({"clip_l": learned}, 1))
    run(engine, chunks).sum().backward()
    assert learned.grad is not None and bool((learned.grad == 1).all())


def test_a_run_is_seen_inside_only() -> None:
    doing = Run("test", rows_of(1))
    with running(doing):
        assert current() is doing
        with running(None):
            assert current() is None
        assert current() is doing
    with pytest.raises(KeyError), running(doing):
        raise KeyError
    assert current() is None
