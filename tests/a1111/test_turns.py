"""Rows around the texts of a language model, on an engine of Forge Neo's kind with small words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from apl_a1111 import language, turns
from apl_a1111.insertion import Run, running
from apl_a1111.language import Reader
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from apl_core.errors import HostError, PromptError
from apl_core.families import TABLE, Family
from apl_core.prefix import Prefix

WIDTH, PAD, BEGIN, END, UNKNOWN = 2560, 0, 1, 2, 3


class Tokenizer:
    """A word is a token; `<b>` begins a turn and `<e>` ends it."""

    bos_token_id = eos_token_id = unk_token_id = None
    all_special_ids = (PAD, BEGIN, END)

    def __init__(self) -> None:
        self.words = {"<pad>": PAD, "<b>": BEGIN, "<e>": END}

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [self.words.setdefault(word, len(self.words)) for word in text.split()]
        return {"input_ids": ids}

    def decode(self, ids: list[int]) -> str:
        known = {at: word for word, at in self.words.items()}
        return " ".join(known[one] for one in ids)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.decode([one]) for one in ids]

    def convert_tokens_to_ids(self, words: list[str]) -> list[int | None]:
        return [self.words.get(word) for word in words]


class Emphasis:
    """Weighs, and restores the mean of all that it sees, as the webui's "Original" does."""

    tokens: Any
    multipliers: Any
    z: Any

    def after_transformers(self) -> None:
        before = self.z.mean()
        self.z = self.z * self.multipliers[..., None]
        self.z = self.z * (before / self.z.mean())


class Engine:
    """Makes a turn of each part of a line (parts are written `text*weight|text*weight`)."""

    id_pad = PAD

    def __init__(self, least: int = 0, template: str = "<b> {} <e>") -> None:
        self.tokenizer, self.least, self.template = Tokenizer(), least, template
        self.emphasis = Emphasis()
        table = nn.Embedding(64, WIDTH)
        self.text_encoder = SimpleNamespace(get_input_embeddings=lambda: table)

    def tokenize(self, texts: list[str], vision: bool = False) -> list[list[int]]:
        return [self.tokenizer(self.template.format(text))["input_ids"] for text in texts]

    def tokenize_line(self, line: str, *more: Any) -> list[Any]:
        parts = [(*part.split("*"), "1")[:2] for part in line.split("|")]
        made = turns.tokenized(type(self).tokenize, self, [text for text, _ in parts], *more)
        chunk = SimpleNamespace(tokens=[], multipliers=[])
        for ids, (_, weight) in zip(made, parts, strict=True):
            chunk.tokens += ids
            chunk.multipliers += [float(weight)] * len(ids)
        spare = self.least - len(chunk.tokens)
        chunk.tokens += [PAD] * spare
        chunk.multipliers += [1.0] * spare
        return [chunk]

    def process_tokens(self, tokens: Any, multipliers: Any) -> torch.Tensor:
        ids = torch.tensor([[int(one) for one in chunk] for chunk in tokens])
        self.emphasis.tokens, self.emphasis.multipliers = tokens, torch.tensor(multipliers)
        self.emphasis.z = language.table_of(self)(ids)
        self.emphasis.after_transformers()
        return self.emphasis.z


FAMILY = Family("Mini", ("qwen3_4b",), ("<b> {} <e>",), "<b> <e>")


def reader_of(engine: Engine) -> Reader:
    engine.tokenizer("<b> <e> a")
    own = "<b>" in engine.template
    return Reader(engine, "qwen3_4b", FAMILY, (BEGIN,) if own else (), (END,) if own else ())


def run_of(n: int, behind: int, every_text: bool = False) -> Run:
    """Rows that are all the number of their place."""
    rows = torch.arange(n).float()[:, None].expand(n, WIDTH) + 100
    return Run("x", Prefix({"qwen3_4b": rows}, behind).rows(), every_text)


def chunk_of(run: Run, reader: Reader, line: str, *more: Any) -> Any:
    return turns.lines(run, reader, line, Engine.tokenize_line, *more)[0]


def shown(chunk: Any) -> list[Any]:
    """Tokens as they are, rows as "r" and their number."""
    return [f"r{one.at}" if isinstance(one, turns.Mark) else int(one) for one in chunk.tokens]


@given(
    words=st.integers(1, 20),
    n=st.integers(1, 12),
    least=st.sampled_from([0, 24, 40]),
    data=st.data(),
)
def test_rows_stand_directly_around_the_text(
    words: int, n: int, least: int, data: st.DataObject
) -> None:
    behind = data.draw(st.integers(0, n))
    engine = Engine(least)
    reader, run = reader_of(engine), run_of(n, behind)
    line = " ".join(f"w{i}" for i in range(words))
    chunk = chunk_of(run, reader, line)
    rows = [f"r{i}" for i in range(n)]
    cut, ids = n - behind, reader.ids(line)
    whole = [BEGIN, *rows[:cut], *ids, *rows[cut:], END]
    assert shown(chunk) == [*whole, *[PAD] * (least - len(whole))]
    assert len(chunk.multipliers) == len(chunk.tokens)
    got = turns.processed(run, reader, [chunk.tokens], [chunk.multipliers], Engine.process_tokens)
    assert torch.equal(got[0, 1 : 1 + cut, 0], torch.arange(cut) + 100.0)
    run.verify()


def test_every_turn_of_a_line_has_rows() -> None:
    reader, run = reader_of(Engine()), run_of(3, 1)
    chunk = chunk_of(run, reader, "Ada*1.2|b")
    ada, b = reader.ids("Ada b")
    turn = [[BEGIN, "r0", "r1", one, "r2", END] for one in (ada, b)]
    assert shown(chunk) == [*turn[0], *turn[1]]
    assert chunk.multipliers[:6] == [1.2, 1.0, 1.0, 1.2, 1.0, 1.2]


def test_whoever_watches_the_table_sees_texts_with_their_rows() -> None:
    engine, seen = Engine(12), list[torch.Tensor]()
    table = language.table_of(engine)
    table.register_forward_hook(lambda _layer, _ids, found: seen.append(found))
    reader, run = reader_of(engine), run_of(3, 1)
    chunk = chunk_of(run, reader, "Ada*1|b")
    turns.processed(run, reader, [chunk.tokens], [chunk.multipliers], Engine.process_tokens)
    ids = list(map(int, chunk.tokens))
    texts = [seen[0][0, first:last, 0].tolist() for first, last in turns.spans(reader, ids)]
    assert [[*one[:2], one[-1]] for one in texts] == [[100.0, 101.0, 102.0]] * 2
    assert [len(one) for one in texts] == [4, 4]
    with pytest.raises(HostError):
        list(turns.spans(reader, ids[1:]))


def test_emphasis_is_for_the_text_alone() -> None:
    engine = Engine()
    reader, run = reader_of(engine), run_of(3, 1)
    chunk = chunk_of(run, reader, "Ada*1.2|b")
    got = turns.processed(run, reader, [chunk.tokens], [chunk.multipliers], Engine.process_tokens)
    rows = [isinstance(one, turns.Mark) for one in chunk.tokens]
    assert got[0][rows][:, 0].tolist() == [100.0, 101.0, 102.0] * 2
    ids = [one for one in chunk.tokens if not isinstance(one, turns.Mark)]
    weights = [w for w, row in zip(chunk.multipliers, rows, strict=True) if not row]
    alone = engine.process_tokens([ids], [weights])
    assert torch.allclose(got[0][[not one for one in rows]], alone[0], atol=1e-5)


def test_a_blank_line_stays_as_it_is_unless_every_text_is_covered() -> None:
    reader = reader_of(Engine())
    assert shown(chunk_of(run_of(2, 0), reader, " ")) == [BEGIN, END]
    every = run_of(2, 1, every_text=True)
    chunk = chunk_of(every, reader, "")
    assert shown(chunk) == [BEGIN, "r0", "r1", END]
    turns.processed(every, reader, [chunk.tokens], [chunk.multipliers], Engine.process_tokens)


def test_what_would_reach_the_model_bare_is_refused() -> None:
    reader, run = reader_of(Engine()), run_of(3, 1)
    chunk = chunk_of(run, reader, "Ada b")
    ids = list(map(int, chunk.tokens))
    broken = [
        ids,
        [*chunk.tokens, *[BEGIN, *reader.ids("Ada"), END]],
        chunk.tokens[:1] + chunk.tokens[2:],
        [*reader.ids("Ada"), *chunk.tokens],
        [chunk.tokens[0], *reader.ids("Ada"), *chunk.tokens[1:]],
        [*chunk.tokens[:-1], *reader.ids("Ada"), END],
    ]
    for tokens in broken:
        given = [tokens], [[1.0] * len(tokens)]
        with pytest.raises(HostError, match="another extension"):
            turns.processed(run, reader, *given, Engine.process_tokens)

    def past(_engine: Engine, _tokens: Any, _weights: Any) -> torch.Tensor:
        return torch.zeros(1)

    with pytest.raises(HostError, match="another extension"):
        turns.processed(run, reader, [chunk.tokens], [chunk.multipliers], past)


@pytest.mark.parametrize("spelled", ["<b>", "<e>", "<pad>"])
def test_a_prompt_that_spells_a_turn_is_refused(spelled: str) -> None:
    reader = reader_of(Engine())
    with pytest.raises(PromptError, match=f"spells out {spelled}"):
        chunk_of(run_of(2, 0), reader, f"a {spelled} b")


def test_pictures_beside_the_text_are_refused() -> None:
    with pytest.raises(HostError, match="reads pictures beside it"):
        chunk_of(run_of(2, 0), reader_of(Engine()), "a", True)


def test_without_a_run_nothing_is_changed() -> None:
    engine = Engine()
    with running(None):
        assert turns.tokenized(Engine.tokenize, engine, ["a"]) == engine.tokenize(["a"])


def model_of(engine: Any, name: str = "qwen3") -> Any:
    encoder = nn.Module()
    encoder.get_input_embeddings = engine.text_encoder.get_input_embeddings  # type: ignore[assignment]
    engine.text_encoder = encoder
    joint = nn.Module()
    joint.add_module(name, encoder)
    return type(
        "Some", (), {"forge_objects": SimpleNamespace(clip=SimpleNamespace(cond_stage_model=joint))}
    )()


class Letters(Tokenizer):
    """A letter is a token."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return super().__call__(" ".join(text.replace(" ", "_")))


def real(name: str) -> Engine:
    """An engine with the template of a family."""
    family = next(one for one in TABLE if one.name == name)
    engine = Engine(template=family.templates[0])
    engine.tokenizer = Letters()
    return engine


@pytest.mark.parametrize("name", ["Z-Image", "Flux.2 Klein 4B"])
def test_a_family_is_told_by_what_its_engine_writes(name: str) -> None:
    engine = real(name)
    found = language.readers(model_of(engine), [engine], [])
    assert [(one.family.name, one.key) for one in found] == [(name, "qwen3_4b")]


def test_a_template_or_an_encoder_that_nobody_knows_is_refused() -> None:
    engine = Engine(template="Draw {} now")
    with pytest.raises(HostError, match=r"its text encoder \(Some\)"):
        language.readers(model_of(engine), [engine], [])
    engine = real("Z-Image")
    with pytest.raises(HostError, match="other of width 2560"):
        language.readers(model_of(engine, "other"), [engine], [])


def test_an_engine_that_reads_a_prompt_twice_is_refused() -> None:
    engine = real("Z-Image")
    engine.tokenize = lambda texts: (texts, texts)  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(HostError, match="reads a prompt twice"):
        language.readers(model_of(engine), [engine], [])
