"""The prefix value."""

import copy
import dataclasses
import pickle
from collections.abc import Callable

import pytest
import torch

from apl_core.errors import PrefixFileError
from apl_core.metadata import PrefixCard
from apl_core.prefix import WIDTHS, Prefix, Rows, describe
from apl_core.tokens import MAX_ROWS, room


def sdxl(n: int = 4, behind: int = 0, card: PrefixCard | None = None) -> Prefix:
    rows = torch.arange(n * 1280, dtype=torch.float32).reshape(n, 1280) / 1000
    return Prefix({"clip_g": rows, "clip_l": rows[:, :768]}, behind, card or PrefixCard())


def test_it_owns_float32_copies_in_a_fixed_order() -> None:
    source = torch.randn(3, 768, dtype=torch.float64, requires_grad=True)
    other = torch.randn(1280, 3).T.to(torch.float16)
    prefix = Prefix({"clip_g": other, "clip_l": source})
    before = prefix.digest
    with torch.no_grad():
        source.zero_()
        other.zero_()
    assert prefix.digest == before
    assert prefix.keys == ("clip_l", "clip_g") and prefix.family == "SDXL"
    for rows in prefix.vectors.values():
        assert rows.dtype == torch.float32 and rows.is_contiguous() and not rows.requires_grad


def test_a_source_that_needs_no_conversion_is_copied_too() -> None:
    source = torch.ones(2, 128)
    prefix = Prefix({"pocket": source})
    source.zero_()
    assert prefix.vectors["pocket"].min() == 1


def test_nothing_can_be_put_into_it() -> None:
    prefix = sdxl()
    with pytest.raises(TypeError):
        prefix.vectors["clip_l"] = torch.zeros(4, 768)  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        prefix.behind = 1  # type: ignore[misc]


@pytest.mark.parametrize("behind", [0, 1, 4])
def test_front_and_back_are_all_rows_in_order(behind: int) -> None:
    prefix = sdxl(4, behind)
    assert prefix.rows_in_front == 4 - behind
    for key in prefix.keys:
        both = torch.cat([prefix.front(key), prefix.back(key)])
        assert torch.equal(both, prefix.vectors[key]) and len(prefix.back(key)) == behind


def test_rows_move_and_keep_gradients() -> None:
    rows = sdxl(4, 2).rows(dtype=torch.bfloat16)
    assert rows.n == 4 and rows.front("clip_l").dtype == torch.bfloat16
    leaf = torch.randn(5, 128, requires_grad=True)
    live = Rows({"pocket": leaf}, behind=2)
    (live.front("pocket").sum() + 3 * live.back("pocket").sum()).backward()
    assert leaf.grad is not None and leaf.grad[:, 0].tolist() == [1, 1, 1, 3, 3]


def test_the_digest_is_of_the_vectors_and_their_places_only() -> None:
    prefix = sdxl()
    assert sdxl(card=PrefixCard(title="other", steps=1)).digest == prefix.digest
    assert sdxl(behind=1).digest != prefix.digest
    changed = {key: rows.clone() for key, rows in prefix.vectors.items()}
    changed["clip_l"][0, 0] += 1e-6
    assert Prefix(changed).digest != prefix.digest
    assert Prefix({"clip_l": changed["clip_l"]}).digest != prefix.digest
    assert prefix.short_digest == prefix.digest[:10]


def test_the_digest_never_changes_between_versions() -> None:
    rows = torch.arange(256, dtype=torch.float32).reshape(2, 128) / 8
    assert Prefix({"pocket": rows}, behind=1).digest == GOLDEN_DIGEST


GOLDEN_DIGEST = "ab29bea466c2d54b42ee910a651668e7805fd77940fa7c44645722e244d9c1e9"


@pytest.mark.parametrize("again", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_it_can_be_copied(again: Callable[[Prefix], Prefix]) -> None:
    prefix = sdxl(3, 1, PrefixCard(title="t", figures={"a": 1.0}, fingerprints={"clip_l": "x"}))
    other = again(prefix)
    assert other.digest == prefix.digest and other.card == prefix.card and other.behind == 1


WRONG = {
    "no vectors": ({}, 0, "no vectors"),
    "unknown key": ({"t5": torch.zeros(1, 768)}, 0, "t5"),
    "wrong width": ({"clip_l": torch.zeros(1, 1024)}, 0, "768"),
    "one dimension": ({"clip_l": torch.zeros(768)}, 0, "768"),
    "whole numbers": ({"clip_l": torch.zeros(1, 768, dtype=torch.int32)}, 0, "float"),
    "no rows": ({"clip_l": torch.zeros(0, 768)}, 0, "0 vectors"),
    "no room for text": (
        {"clip_l": torch.zeros(MAX_ROWS + 1, 768)},
        0,
        "75 vectors: a chunk has 75",
    ),
    "unequal": (
        {"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(2, 1280)},
        0,
        "different numbers",
    ),
    "NaN": ({"clip_l": torch.full((1, 768), float("nan"))}, 0, "NaN"),
    "too large": ({"clip_l": torch.full((1, 768), 1e300, dtype=torch.float64)}, 0, "infinity"),
    "behind": ({"clip_l": torch.zeros(2, 768)}, 3, "behind"),
    "negative": ({"clip_l": torch.zeros(2, 768)}, -1, "behind"),
    "a truth value": ({"clip_l": torch.zeros(2, 768)}, True, "behind"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_vectors_are_refused(case: str) -> None:
    vectors, behind, words = WRONG[case]
    with pytest.raises(PrefixFileError, match=words):
        Prefix(vectors, behind)


def test_74_rows_are_allowed_and_leave_room_for_text() -> None:
    assert Prefix({"clip_h": torch.zeros(74, 1024)}, behind=74).rows_in_front == 0
    assert room(74) == 1


def test_words_for_sets_of_encoders() -> None:
    assert describe({"clip_l": 768}) == "SD 1.x (clip_l 768)"
    assert describe({"clip_h": 1024}) == "SD 2.x (clip_h 1024)"
    assert describe({"clip_g": 1280, "clip_l": 768}) == "SDXL (clip_l 768 + clip_g 1280)"
    assert describe({"pocket": 128}) == "pocket model (pocket 128)"
    assert describe({"t5": 4096, "clip_l": 768}) == "(clip_l 768 + t5 4096)"
    assert describe({}) == "(no text encoder)"
    assert list(WIDTHS)[:4] == ["clip_l", "clip_g", "clip_h", "pocket"]
    assert describe({"minilm": 384}) == "zoo, MiniLM (minilm 384)"


def test_rows_go_to_another_process_without_their_gradient() -> None:
    prefix = Prefix({"clip_l": torch.randn(3, 768)}, 1)
    live = prefix.rows().vectors["clip_l"].clone().requires_grad_()
    rows = Rows({"clip_l": live * 1}, 1, everywhere=True)
    again = pickle.loads(pickle.dumps(rows))
    assert not again.vectors["clip_l"].requires_grad and again.everywhere
    assert torch.equal(again.vectors["clip_l"], live.detach())
    assert rows.digest == again.digest == prefix.digest
