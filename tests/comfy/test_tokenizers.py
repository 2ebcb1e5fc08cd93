"""The prefix in a tokenizer of ComfyUI's kind; the real ones are in tests/hosts."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from apl_comfy.guard import Frame
from apl_comfy.tokenizers import CLIP, held_tokenizer, prefixed_tokenizer, refuse
from hypothesis import given
from hypothesis import strategies as st

from apl_core.errors import HostError, PromptError
from apl_core.prefix import Prefix

START, END = 49406, 49407


class MiniTokenizer:
    """A word is a token of its own length; as ComfyUI's, it fills chunks of `max_length` places.

    Unlike ComfyUI's it has no weights, no embeddings and never keeps a word whole.
    """

    start_token, end_token = START, END
    embedding_size = 768

    def __init__(self) -> None:
        self.max_length = 77
        self.max_word_length = 8

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **_: Any
    ) -> list[list[Any]]:
        """Chunks of (token, weight, word id)."""
        words = [(len(word), 1.0, at + 1) for at, word in enumerate(text.split())]
        room = self.max_length - 2
        chunks = [words[at : at + room] for at in range(0, max(len(words), 1), room)]
        full = [
            [(START, 1.0, 0), *one, *[(END, 1.0, 0)] * (self.max_length - 1 - len(one))]
            for one in chunks
        ]
        return full if return_word_ids else [[entry[:2] for entry in one] for one in full]


def prefix(n: int, behind: int = 0) -> Prefix:
    """Rows that are all the number of their place."""
    return Prefix({"clip_l": torch.arange(n).float()[:, None].expand(n, 768)}, behind)


def places(chunk: list[Any]) -> list[Any]:
    """Tokens as they are, rows as "r" and their number."""
    return [one[0] if isinstance(one[0], int) else f"r{int(one[0][0])}" for one in chunk]


@given(words=st.integers(0, 400), n=st.integers(1, 74), data=st.data())
def test_every_chunk_is_framed_and_no_word_lost(words: int, n: int, data: st.DataObject) -> None:
    behind = data.draw(st.integers(0, n))
    tokenizer = prefixed_tokenizer(MiniTokenizer(), "clip_l", prefix(n, behind))
    chunks = tokenizer.tokenize_with_weights("word " * words, True)
    rows = [f"r{at}" for at in range(n)]
    kept = 0
    for chunk in chunks:
        text = sum(entry[2] != 0 for entry in chunk)
        framed = [START, *rows[: n - behind], *[4] * text, *rows[n - behind :], END]
        assert places(chunk) == framed + [END] * (77 - len(framed)) or words == 0
        kept += text
    assert kept == words
    if words == 0:
        assert chunks == MiniTokenizer().tokenize_with_weights("", True)


def test_without_word_ids_entries_are_pairs() -> None:
    tokenizer = prefixed_tokenizer(MiniTokenizer(), "clip_l", prefix(3))
    (chunk,) = tokenizer.tokenize_with_weights("a word")
    assert {len(entry) for entry in chunk} == {2}


def test_a_second_prefix_stands_inside_the_first() -> None:
    one = prefixed_tokenizer(MiniTokenizer(), "clip_l", prefix(2, 1))
    two = prefixed_tokenizer(one, "clip_l", prefix(3, 1))
    (chunk,) = two.tokenize_with_weights("a")
    assert places(chunk)[:8] == [START, "r0", "r0", "r1", 1, "r2", "r1", END]
    assert places(one.tokenize_with_weights("a")[0])[:5] == [START, "r0", 1, "r1", END]


def test_too_many_rows_are_refused() -> None:
    tokenizer = prefixed_tokenizer(MiniTokenizer(), "clip_l", prefix(40))
    with pytest.raises(PromptError, match="75 vectors"):
        prefixed_tokenizer(tokenizer, "clip_l", prefix(35))


def test_the_given_tokenizer_is_not_changed() -> None:
    tokenizer = MiniTokenizer()
    before = dict(vars(tokenizer))
    prefixed_tokenizer(tokenizer, "clip_l", prefix(3)).tokenize_with_weights("a")
    assert (type(tokenizer), vars(tokenizer)) == (MiniTokenizer, before)


@pytest.mark.parametrize(
    "taken", [held_tokenizer, lambda one: prefixed_tokenizer(one, "clip_l", prefix(2))]
)
def test_the_method_cannot_be_replaced_unnoticed(taken: Any) -> None:
    tokenizer = taken(MiniTokenizer())
    wanted = [places(chunk) for chunk in tokenizer.tokenize_with_weights("a b")]
    tokenizer.tokenize_with_weights = lambda text: []
    with pytest.raises(HostError, match="smZNodes"):
        tokenizer.tokenize_with_weights("a b")
    with pytest.raises(HostError, match="smZNodes"):
        prefixed_tokenizer(tokenizer, "clip_l", prefix(2))
    del tokenizer.tokenize_with_weights
    vars(tokenizer)["tokenize_with_weights"] = lambda *_: []
    assert [places(chunk) for chunk in tokenizer.tokenize_with_weights("a b")] == wanted
    with pytest.raises(HostError, match="CLIPTextEncode"):
        prefixed_tokenizer(tokenizer, "clip_l", prefix(2))


@pytest.mark.parametrize("special", [START, END])
def test_a_spelled_out_special_token_is_refused(special: int) -> None:
    with pytest.raises(PromptError, match="endoftext"):
        refuse([5, special, 7], MiniTokenizer(), CLIP)


@given(
    text=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    n=st.integers(2, 12),
    hole=st.integers(0, 11),
    mask=st.sampled_from([320, "row"]),
    data=st.data(),
)
def test_the_encoders_guard_refuses_missing_rows_and_puts_masked_ones_back(
    text: list[int], n: int, hole: int, mask: Any, data: st.DataObject
) -> None:
    one = prefix(n, data.draw(st.integers(0, n)))
    front, back = list(one.front("clip_l")), list(one.back("clip_l"))
    guard = Frame(front, back, END)
    padding = [END] * 3
    chunk = [START, *front, *text, *back, END, *padding]
    assert guard.kept(chunk) is chunk
    empty = [START, END, *padding]
    assert guard.kept(empty) is empty
    with pytest.raises(HostError, match="took the prefix's vectors out"):
        guard.kept([START, *text, END, *padding])
    hole %= n
    place = 1 + hole if hole < len(front) else 1 + len(text) + hole
    with contextlib.suppress(HostError):  # a missing last row may look like a mask in its place
        kept = places([(one,) for one in guard.kept([*chunk[:place], *chunk[place + 1 :]])])
        inside = kept[1 : kept.index(END)]
        assert inside[: len(front)] == places([(row,) for row in front])
        assert inside[len(inside) - len(back) :] == places([(row,) for row in back])
    masked = [*chunk[:place], one.front("clip_l")[0] if front and mask == "row" else 320]
    masked += chunk[place + 1 :]
    if len(front if hole < len(front) else back) > 1:
        kept = guard.kept(masked)
        assert len(kept) == len(chunk)
        assert all(a is b or torch.equal(a, b) for a, b in zip(kept, chunk, strict=True))
    elif not (front and mask == "row" and place == 1):
        with pytest.raises(HostError, match="took the prefix's vectors out"):
            guard.kept(masked)
