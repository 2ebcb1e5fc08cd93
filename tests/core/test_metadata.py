"""The card and its flat form; the metadata names are public and listed here."""

import dataclasses
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apl_core.errors import PrefixFileError
from apl_core.metadata import PrefixCard, from_metadata, plain_words, printable, to_metadata

texts = st.text(max_size=60)
numbers = st.floats(allow_nan=False, allow_infinity=False)
cards = st.builds(
    PrefixCard,
    **dict.fromkeys(("title", "author", "description", "date", "base_model", "recipe"), texts),
    steps=st.none() | st.integers(0, 10**9),
    seed=st.none() | st.integers(-(2**63), 2**64 - 1),
    names_trained=st.none() | st.integers(0, 10**6),
    fingerprints=st.dictionaries(st.sampled_from(["clip_l", "clip_g", "pocket"]), texts),
    figures=st.dictionaries(texts, numbers, max_size=5),
)


@given(card=cards, behind=st.integers(0, 75))
def test_round_trip_is_exact(card: PrefixCard, behind: int) -> None:
    flat = to_metadata(card, keys=["pocket"], behind=behind, tensors_sha256="0")
    assert all(isinstance(value, str) for value in flat.values())
    assert from_metadata(flat) == (card, behind)


def test_public_names() -> None:
    card = PrefixCard(
        title="T",
        author="A",
        description="D",
        date="2026-11-22",
        base_model="SD 1.5",
        recipe="apl",
        steps=5,
        seed=7,
        names_trained=128,
        fingerprints={"clip_l": "s1:0"},
        figures={"prefix.identity_top1.trained": 0.03},
    )
    flat = to_metadata(card, keys=["clip_l"], behind=0, tensors_sha256="ab")
    assert flat == {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/textual-inversion",
        "modelspec.implementation": "diffusers",
        "modelspec.hash_sha256": "0xab",
        "modelspec.title": "T",
        "modelspec.author": "A",
        "modelspec.description": "D",
        "modelspec.date": "2026-11-22",
        "apl.format": "1",
        "apl.behind": "0",
        "apl.stands": "front",
        "apl.base_model": "SD 1.5",
        "apl.recipe": "apl",
        "apl.steps": "5",
        "apl.seed": "7",
        "apl.names_trained": "128",
        "apl.fingerprint.clip_l": "s1:0",
        "apl.figures": '{"prefix.identity_top1.trained": 0.03}',
    }
    bracket = to_metadata(card, keys=["clip_g", "clip_l"], behind=2, tensors_sha256="ab")
    assert bracket["apl.stands"] == "bracket"
    assert bracket["modelspec.architecture"] == "stable-diffusion-xl-v1-base/textual-inversion"


def test_a_foreign_file_has_an_empty_card() -> None:
    assert from_metadata({}) == (PrefixCard(), 0)
    card, behind = from_metadata({"modelspec.title": "x", "ss_steps": "1", "apl.later": "?"})
    assert card == PrefixCard(title="x") and behind == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("apl.steps", value) for value in ("1.5", "", "ten", "1e3", "٣", "9" * 30, " 1")],
        *[("apl.seed", "0x1"), ("apl.behind", "2.0"), ("apl.format", "one")],
        *[("apl.figures", value) for value in ("", "[1]", "3", "{", '{"a": "1"}', '{"a": true}')],
        *[("apl.figures", value) for value in ('{"a": NaN}', '{"a": Infinity}', '{"a": null}')],
        *[("apl.figures", value) for value in ('{"a": 1, "a": 2}', '{"a": 1e999}', "[" * 9000)],
        ("apl.figures", '{"a": ' + "9" * 399 + "}"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(key: str, value: str) -> None:
    with pytest.raises(PrefixFileError, match=key.removeprefix("apl.")):
        from_metadata({key: value})


def test_a_newer_format_says_update() -> None:
    with pytest.raises(PrefixFileError, match="update"):
        from_metadata({"apl.format": "2"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_figures_are_finite(value: float) -> None:
    with pytest.raises(PrefixFileError, match="finite"):
        PrefixCard(figures={"a": value})


def test_a_card_cannot_be_changed() -> None:
    figures = {"a": 1.0}
    card = PrefixCard(figures=figures)
    figures["a"] = 2.0
    assert card.figures["a"] == 1.0
    with pytest.raises(TypeError):
        card.figures["a"] = 2.0  # type: ignore[index]
    assert dataclasses.replace(card, title="x").figures == card.figures


@given(card=cards)
def test_plain_words_hold_no_control_characters(card: PrefixCard) -> None:
    text = plain_words(card)
    assert text and all(c == "\n" or unicodedata.category(c)[0] != "C" for c in text)
    assert len(text.splitlines()) <= 12 + len(card.fingerprints) + len(card.figures)


def test_shown_cleans_and_cuts() -> None:
    assert printable("a\x1b[31m\u202eb\r\n\tc\x00") == "a[31mb c"
    assert printable("x" * 10_000, 10) == "x" * 10 + "…"
    assert printable("\ud800ok") == "ok"
