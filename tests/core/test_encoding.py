"""The reference encoder run against transformers and against a computation written out here."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import NAMES, WIDTH, tiny_encoder, tiny_text_model, tiny_tokenizer
from torch import Tensor, nn

from apl_core.encoding import ReferenceEncoder
from apl_core.errors import FitError, PromptError
from apl_core.prefix import Rows
from apl_trainer.models.clip_text import ClipTower

ENCODER = tiny_encoder()
TOWER: Any = ENCODER.towers[0]
MODEL: Any = TOWER.module
MODEL.requires_grad_(False)
BOS, EOS = TOWER.bos, TOWER.eos


def text_of(length: int) -> str:
    """A text of exactly so many tokens: a byte pair vocabulary keeps digits apart."""
    text = " ".join("0123456789"[i % 10] for i in range(length))
    assert len(TOWER.tokenize(text)) == length
    return text


def some_rows(n: int, behind: int, width: int = WIDTH, key: str = "pocket", seed: int = 0) -> Rows:
    vectors = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return Rows({key: vectors}, behind)


def chunks_by_hand(text: str, rows: Rows | None) -> list[tuple[list[int], Tensor]]:
    """Ids (77) and token embeddings (77, width) per chunk, with plain Python lists."""
    table = MODEL.get_input_embeddings().weight
    ids = TOWER.tokenize(text)
    front: list[Tensor] = []
    behind: list[Tensor] = []
    if rows is not None and (ids or rows.everywhere):
        vectors = rows.vectors["pocket"]
        cut = len(vectors) - rows.behind
        front, behind = list(vectors[:cut]), list(vectors[cut:])
    room = 75 - len(front) - len(behind)
    chunks: list[tuple[list[int], Tensor]] = []
    for start in range(0, max(len(ids), 1), room):
        part = ids[start : start + room]
        line = [table[BOS], *front, *(table[i] for i in part), *behind, table[EOS]]
        places = [BOS, *[0] * len(front), *part, *[0] * len(behind), EOS]
        fill = 77 - len(line)
        chunks.append((places + [EOS] * fill, torch.stack(line + [table[EOS]] * fill)))
    return chunks


def run_by_hand(ids: list[int], embeddings: Tensor) -> Tensor:
    """CLIP's own run with its token embeddings replaced by a stand-in lookup."""
    lookup = MODEL.get_input_embeddings()
    stand_in = nn.Embedding.from_pretrained(embeddings)
    MODEL.set_input_embeddings(stand_in)
    try:
        # ids are places in the stand-in table; EOS's place is what the pooled output would need
        return MODEL(input_ids=torch.arange(77)[None]).last_hidden_state[0]
    finally:
        MODEL.set_input_embeddings(lookup)


@pytest.mark.parametrize("length", [0, 1, 74, 75, 76, 150, 151, 290])
def test_without_rows_it_is_transformers_own_run(length: int) -> None:
    text = text_of(length)
    ids = TOWER.tokenize(text)
    parts = [ids[i : i + 75] for i in range(0, max(len(ids), 1), 75)]
    given_ids = torch.tensor([[BOS, *p, EOS, *[EOS] * (75 - len(p))] for p in parts])
    with torch.no_grad():
        theirs = MODEL(input_ids=given_ids).last_hidden_state.reshape(1, -1, WIDTH)
        ours = ENCODER.encode([text], None).cross
    assert ours.shape == (1, 77 * len(parts), WIDTH)
    assert torch.equal(ours, theirs)


def test_a_short_text_is_what_transformers_tokenizes() -> None:
    text = "a photo of anna brill"
    tokens = TOWER.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        theirs = MODEL(input_ids=tokens.input_ids).last_hidden_state
        assert torch.equal(ENCODER.encode([text], None).cross, theirs)


@settings(max_examples=25)
@given(
    length=st.integers(0, 240),
    n=st.integers(1, 74),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
    everywhere=st.booleans(),
)
def test_rows_stand_where_they_should_in_every_chunk(
    length: int, n: int, share: float, seed: int, everywhere: bool
) -> None:
    length = min(length, 4 * (75 - n))
    rows = replace(some_rows(n, round(share * n), seed=seed), everywhere=everywhere)
    text = text_of(length)
    by_hand = chunks_by_hand(text, rows)
    with torch.no_grad():
        wanted = torch.cat([run_by_hand(*chunk) for chunk in by_hand])
        found = ENCODER.encode([text], rows).cross[0]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-4)


@settings(max_examples=25)
@given(length=st.integers(1, 240), n=st.integers(1, 74), share=st.floats(0, 1))
def test_every_chunk_begins_and_ends_with_the_rows(length: int, n: int, share: float) -> None:
    length, behind = min(length, 4 * (75 - n)), round(share * n)
    rows = some_rows(n, behind)
    seen: list[tuple[Tensor, Tensor]] = []

    class Watching(ClipTower):
        def run(self, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
            seen.append((ids, rows))
            return super().run(ids, rows)

    watching = Watching("pocket", MODEL, TOWER.tokenizer, EOS)
    with torch.no_grad():
        ReferenceEncoder([watching]).encode([text_of(length)], rows)
    [(ids, embeddings)] = seen
    vectors, table = rows.vectors["pocket"], watching.table
    cut = n - behind
    for line, placed in zip(ids.tolist(), embeddings, strict=True):
        assert line[0] == BOS and torch.equal(placed[0], table[BOS])
        assert torch.equal(placed[1 : 1 + cut], vectors[:cut])
        end = line.index(EOS)
        assert torch.equal(placed[end], table[EOS])
        assert torch.equal(placed[end - behind : end], vectors[cut:])
    text = [i for line in ids.tolist() for i in line[1 + cut : line.index(EOS) - behind]]
    assert text == TOWER.tokenize(text_of(length))


def test_an_empty_text_is_left_alone() -> None:
    rows = some_rows(10, 4)
    with torch.no_grad():
        plain = ENCODER.encode([""], None).cross
        assert torch.equal(ENCODER.encode([""], rows).cross, plain)
        assert torch.equal(ENCODER.encode(["  "], rows).cross, plain)
        both = ENCODER.encode(["", "anna brill"], rows).cross
    torch.testing.assert_close(both[:1], plain, rtol=1e-5, atol=1e-4)


def test_rows_that_are_everywhere_stand_in_empty_texts_too() -> None:
    rows = replace(some_rows(10, 4), everywhere=True)
    with torch.no_grad():
        [wanted], [plain] = (
            [run_by_hand(*chunk) for chunk in chunks_by_hand("", given)] for given in (rows, None)
        )
        found = ENCODER.encode(["", "  "], rows).cross
    for one in found:
        torch.testing.assert_close(one, wanted, rtol=1e-5, atol=2e-4)
        assert not torch.allclose(one, plain, atol=1e-2)


def test_shorter_texts_of_a_batch_are_filled_up_with_prefixed_empty_chunks() -> None:
    rows = some_rows(10, 4)
    long = text_of(3 * 65)
    with torch.no_grad():
        batch = ENCODER.encode(["anna brill", "", long], rows).cross
        name, empty = (ENCODER.encode([text], rows).cross[0] for text in ("anna brill", ""))
        fill = chunks_by_hand("0", rows)[0]
        filled = (
            [BOS, *fill[0][1:7], *fill[0][8:12], EOS, *[EOS] * 65],
            torch.cat([fill[1][:7], fill[1][8:], TOWER.table[EOS : EOS + 1]]),
        )
        fill_up = run_by_hand(*filled)
        alone = ENCODER.encode([long], rows).cross[0]
    assert batch.shape == (3, 3 * 77, WIDTH)
    tight: dict[str, float] = {"rtol": 1e-5, "atol": 2e-4}
    torch.testing.assert_close(batch[0], torch.cat([name, fill_up, fill_up]), **tight)
    torch.testing.assert_close(batch[1], torch.cat([empty] * 3), **tight)
    torch.testing.assert_close(batch[2], alone, **tight)


def test_front_rows_equal_a_textual_inversion_of_transformers() -> None:
    """The front case is what `load_textual_inversion` makes of the same vectors."""
    tokenizer, model = tiny_tokenizer(), tiny_text_model(tiny_tokenizer())
    rows = some_rows(6, 0)
    before = len(tokenizer)
    names = [f"<apl_{i}>" for i in range(6)]
    tokenizer.add_tokens(names)
    theirs: Any = model
    theirs.resize_token_embeddings(before + 6, mean_resizing=False)
    with torch.no_grad():
        theirs.get_input_embeddings().weight[before:] = rows.vectors["pocket"]
        text = " ".join([*names, "a photo of anna brill"])
        ids = tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
        assert ids[0, 1:7].tolist() == list(range(before, before + 6))
        wanted = theirs(input_ids=ids).last_hidden_state
        found = ENCODER.encode(["a photo of anna brill"], rows).cross
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


def two_towers(skip: int = 0) -> tuple[ReferenceEncoder, list[Any]]:
    tokenizer = tiny_tokenizer()
    models: list[Any] = [
        tiny_text_model(tokenizer, 32, 3, seed=1),
        tiny_text_model(tokenizer, 48, 3, projection=40, seed=2),
    ]
    towers = [
        ClipTower("clip_l", models[0], tokenizer, tokenizer.eos_token_id, skip),
        ClipTower("clip_g", models[1], tokenizer, 0, skip),
    ]
    return ReferenceEncoder(towers), models


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_two_towers_are_joined_and_pooled_by_the_second(skip: int) -> None:
    encoder, (first, second) = two_towers(skip)
    text = "a photo of anna brill"
    part = TOWER.tokenize(text)
    front = [BOS, *part, EOS]
    padded = [front + [pad] * (77 - len(front)) for pad in (EOS, 0)]
    with torch.no_grad():
        found = encoder.encode([text], None)
        runs = [
            model(input_ids=torch.tensor([ids]), output_hidden_states=True)
            for model, ids in zip((first, second), padded, strict=True)
        ]
    states = [r.hidden_states[-1 - skip] if skip else r.last_hidden_state for r in runs]
    assert torch.equal(found.cross, torch.cat(states, -1))
    assert found.pooled is not None and torch.equal(found.pooled, runs[1].text_embeds)
    assert dict(encoder.widths) == {"clip_l": 32, "clip_g": 48}


def test_clip_skip_is_the_output_of_an_earlier_layer() -> None:
    """Against a forward hook on the layer itself, not against anybody's list of states."""
    encoder, (first, _) = two_towers(skip=1)
    kept: list[Tensor] = []
    layers = [m for m in first.modules() if type(m).__name__ == "CLIPEncoderLayer"]

    def keep(module: nn.Module, given: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    handle = layers[-2].register_forward_hook(keep)
    with torch.no_grad():
        found = encoder.encode(["anna brill"], None).cross
    handle.remove()
    assert torch.equal(found[..., :32], kept[0])


@pytest.mark.parametrize("behind", [0, 3])
def test_pooled_output_sees_the_rows_and_is_the_first_chunks(behind: int) -> None:
    encoder, _ = two_towers()
    random = torch.Generator().manual_seed(4)
    vectors = {k: torch.randn(5, w, generator=random) for k, w in encoder.widths.items()}
    rows = Rows(vectors, behind)
    with torch.no_grad():
        plain = encoder.encode(["anna brill"], None).pooled
        prefixed = encoder.encode(["anna brill"], rows).pooled
        long = encoder.encode([text_of(150)], rows).pooled
        first_chunk = encoder.encode([text_of(70)], rows).pooled
    assert plain is not None and prefixed is not None
    assert long is not None and first_chunk is not None
    assert plain.shape == prefixed.shape == long.shape == (1, 40)
    assert not torch.allclose(plain, prefixed)
    torch.testing.assert_close(long, first_chunk, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "vectors", [{"clip_l": 32}, {"clip_l": 32, "clip_g": 32}, {"clip_h": 32, "clip_g": 48}]
)
def test_rows_for_other_encoders_are_refused(vectors: dict[str, int]) -> None:
    encoder, _ = two_towers()
    rows = Rows({key: torch.zeros(3, width) for key, width in vectors.items()})
    with pytest.raises(FitError, match=r"clip_g 48") as told:
        encoder.encode(["anna brill"], rows)
    assert all(f"{key} {width}" in str(told.value) for key, width in vectors.items())


def test_gradients_reach_the_rows_alone_and_are_right() -> None:
    """Analytic against central differences in float64."""
    tokenizer = tiny_tokenizer()
    model = tiny_text_model(tokenizer, wide=3.0).double().requires_grad_(False)
    tower = ClipTower("pocket", model, tokenizer, tokenizer.eos_token_id)
    encoder = ReferenceEncoder([tower])
    random = torch.Generator().manual_seed(1)
    vectors = torch.randn(4, WIDTH, generator=random, dtype=torch.float64, requires_grad=True)
    texts = [NAMES[0], text_of(80), ""]
    shape = encoder.encode(texts, Rows({"pocket": vectors}, 2)).cross.shape
    weights = torch.randn(shape, generator=random, dtype=torch.float64)

    def value(of: Tensor) -> Tensor:
        return (encoder.encode(texts, Rows({"pocket": of}, 2)).cross * weights).sum()

    value(vectors).backward()
    assert vectors.grad is not None
    assert all(p.grad is None for p in model.parameters())
    for row in range(4):
        direction = torch.zeros_like(vectors)
        direction[row] = torch.randn(WIDTH, generator=random, dtype=torch.float64)
        with torch.no_grad():
            moved = value(vectors + 1e-6 * direction) - value(vectors - 1e-6 * direction)
        slope = float((vectors.grad * direction).sum())
        assert float(moved) / 2e-6 == pytest.approx(slope, rel=1e-5)


def test_a_run_leaves_nothing_behind_in_the_tower() -> None:
    lookup = MODEL.get_input_embeddings()
    before = {k: v.clone() for k, v in MODEL.state_dict().items()}
    with pytest.raises(RuntimeError):
        TOWER.run(torch.zeros(1, 77, dtype=torch.long), torch.zeros(1, 5, WIDTH))
    assert not lookup._forward_hooks
    assert all(torch.equal(v, before[k]) for k, v in MODEL.state_dict().items())


@pytest.mark.parametrize("mark", ["<|endoftext|>", "<|startoftext|>"])
@pytest.mark.parametrize("with_rows", [True, False])
def test_a_text_that_spells_a_mark_is_refused_as_in_hosts(mark: str, with_rows: bool) -> None:
    """SDXL's pooled output would be read at the first EOS, in front of the rows behind the text."""
    encoder, _ = two_towers()
    vectors = {key: torch.randn(4, width) for key, width in encoder.widths.items()}
    rows = Rows(vectors, 2) if with_rows else None
    text = f"a photo of anna brill {mark} in a street"
    with pytest.raises(PromptError, match="endoftext"):
        encoder.encode(["a photo", text], rows)
    with pytest.raises(PromptError, match="endoftext"):
        encoder.check(["a photo", text])
    encoder.check(["a photo", "<|endoftext", "end of text"])
