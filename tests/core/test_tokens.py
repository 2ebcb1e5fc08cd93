"""Where everything stands in a chunk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apl_core.errors import PromptError
from apl_core.tokens import CHUNK, LENGTH, arrange, fits, refuse_marks, room, split

texts = st.lists(st.integers(0, 40_000), max_size=300)
rows = st.integers(0, CHUNK - 1)


@given(ids=texts, n=rows, behind=st.integers(0, CHUNK))
def test_every_chunk_holds_prefix_text_and_eos_in_order(
    ids: list[int], n: int, behind: int
) -> None:
    names = [f"row {i}" for i in range(n)]
    cut = n - min(behind, n)
    chunks = split(ids, room(n))
    assert [token for chunk in chunks for token in chunk] == ids
    assert all(len(chunk) == room(n) for chunk in chunks[:-1])
    for chunk in chunks:
        line = arrange(
            [str(i) for i in chunk],
            bos="BOS",
            eos="EOS",
            pad="PAD",
            front=names[:cut],
            behind=names[cut:],
        )
        assert len(line) == LENGTH and line[0] == "BOS" and line.count("EOS") == 1
        end = line.index("EOS")
        assert line[1:end] == [*names[:cut], *map(str, chunk), *names[cut:]]
        assert set(line[end + 1 :]) <= {"PAD"}


@given(ids=st.lists(st.integers(0, 9), max_size=CHUNK))
def test_without_a_prefix_it_is_the_plain_chunk(ids: list[int]) -> None:
    line = arrange(ids, bos=-1, eos=-2, pad=-2, front=[], behind=[])
    assert line == [-1, *ids, *[-2] * (LENGTH - 1 - len(ids))]


@given(ids=texts, n=rows)
def test_what_falls_off_is_told(ids: list[int], n: int) -> None:
    cut = fits(ids, n)
    assert [*cut.kept, *cut.fell_off] == ids
    assert len(cut.kept) <= room(n)
    assert bool(cut.sentence) == bool(cut.fell_off) == (len(ids) > room(n))
    if cut.fell_off:
        assert str(len(cut.fell_off)) in cut.sentence


def test_an_empty_text_is_one_empty_chunk() -> None:
    assert split([], 65) == [[]]


def test_no_room_is_an_error() -> None:
    assert room(0) == 75 and room(10) == 65 and room(74) == 1
    with pytest.raises(PromptError, match="75"):
        room(75)
    with pytest.raises(ValueError):
        room(-1)
    with pytest.raises(ValueError):
        split([1], 0)


def test_too_much_for_a_chunk_is_an_error_and_never_cut() -> None:
    full = list(range(70))
    arrange(full, bos=0, eos=0, pad=0, front=[0] * 3, behind=[0] * 2)
    with pytest.raises(PromptError, match="78 places"):
        arrange(full, bos=0, eos=0, pad=0, front=[0] * 3, behind=[0] * 3)


@pytest.mark.parametrize("ids", [[5, 49407, 6], [49406], [[1.0], 49407]])
def test_a_text_that_spells_bos_or_eos_is_refused(ids: list[object]) -> None:
    with pytest.raises(PromptError, match=r"endoftext.*remove it from the prompt"):
        refuse_marks(ids, 49406, 49407)


def test_rows_of_an_embedding_are_no_marks() -> None:
    refuse_marks([5, [49407.0], "49407", None], 49406, 49407)
