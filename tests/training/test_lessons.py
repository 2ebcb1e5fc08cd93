"""How names are varied and placed: shares as stated, exact mixes, and room in the chunk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import cycle
from random import Random

import pytest
from tiny_model import tiny_encoder

from apl_core.captions import Names
from apl_core.example_kinds import PERSON, Target
from apl_core.tokens import room
from apl_core.training.lessons import (
    FILLED,
    LAST,
    LOWER,
    MIXED_LETTERS,
    MIXED_PIECES,
    MIXED_WORDS,
    PAIR,
    SECOND_CHUNK,
    TITLED,
    TITLES,
    TWICE,
    NameLessons,
    Subject,
)
from apl_core.training.people import ListedPerson

DRAWS = 5000
PIECES = {"Lovelace": ["love", "lace"], "Einstein": ["ein", "stein"]}
LISTED = (
    "Ada Lovelace",
    "Albert Einstein",
    "William Shakespeare",
    "Bo Karlsson Lund",
    "Ida B. Wells",
)


def pieces(text: str) -> list[str]:
    """Words and commas; a few words are two pieces."""
    found: list[str] = []
    for word in re.findall(r"[^\s,]+|,", text):
        found += PIECES.get(word, [word])
    return found


def lessons(
    names: Sequence[str] = LISTED, target: Target = "person", vectors: int = 10
) -> NameLessons:
    people = [ListedPerson(name, f"somebody like {i}") for i, name in enumerate(names)]
    return NameLessons(people, target, pieces, vectors)


def near(count: int, share: float, of: int = DRAWS) -> bool:
    """Whether a count is within four standard errors of its share."""
    return abs(count / of - share) <= 4 * (share * (1 - share) / of) ** 0.5


def subjects(names: Sequence[str] = LISTED, seed: int = 0) -> list[Subject]:
    random, source = Random(seed), lessons(names)
    return [source.subject(random) for _ in range(DRAWS)]


def untitled(words: str) -> str:
    return next((words[len(t) + 1 :] for t in TITLES if words.startswith(f"{t} ")), words)


def test_subjects_are_varied_in_the_stated_shares() -> None:
    drawn = [subject.words for subject in subjects()]
    again = [words for words in drawn if ", a photo of " in words]
    pairs = [words for words in drawn if " and " in words]
    assert near(len(again), TWICE) and near(len(pairs), PAIR)
    assert all(len(set(words.split(", a photo of "))) == 1 for words in again)
    single = [words for words in drawn if " and " not in words and ", a photo of " not in words]
    titled = [words for words in single if words != untitled(words)]
    assert near(len(titled), TITLED, len(single))
    assert {words.removesuffix(f" {untitled(words)}") for words in titled} == set(TITLES)
    assert near(sum(words == words.lower() for words in single), LOWER, len(single))


def test_two_names_mix_into_these_and_no_others() -> None:
    drawn = {
        untitled(subject.words).casefold()
        for subject in subjects(LISTED[:2])
        if " and " not in subject.words and "photo" not in subject.words
    }
    assert drawn == {
        *("ada lovelace", "albert einstein"),
        *("ada einstein", "albert lovelace"),  # by words
        *("adert lovestein", "albda einlace"),  # by pieces of the surnames, letters of the others
        *("adert lovetein", "albda einslace"),  # by letters
        "adda lovelace",  # with itself: halves of three letters share the middle one
    }


def test_words_and_pieces_mix_in_the_stated_shares() -> None:
    """Of two names half of the mixes are with the same name."""
    single = [
        untitled(subject.words).casefold()
        for subject in subjects(LISTED[:2])
        if " and " not in subject.words and "photo" not in subject.words
    ]
    by_words = sum(words in ("ada einstein", "albert lovelace") for words in single)
    by_pieces = sum(words in ("adert lovestein", "albda einlace") for words in single)
    assert near(by_words, MIXED_WORDS / 2, len(single))
    assert near(by_pieces, MIXED_PIECES / 2, len(single))
    by_letters = sum(words in ("adert lovetein", "albda einslace") for words in single)
    assert near(by_letters, MIXED_LETTERS / 2, len(single))


def test_every_listed_person_is_asked_for_alike() -> None:
    drawn = subjects()
    for name in LISTED:
        assert near(sum(s.person.name == name for s in drawn), 1 / len(LISTED))


@pytest.mark.parametrize(
    ("names", "letters"),
    [
        (("Adele", "Cher", "Pelé", "Zendaya"), "adelechrpézny"),
        (("山田太郎", "佐藤花子", "鈴木一"), "山田太郎佐藤花子鈴木一"),
        (
            ("Shaquille O'Neal", "Conan O'Brien", "Sinéad O\u2019Connor"),
            "shaquileo'nconbrsdé\u2019t",
        ),
        (("Adele", "Ada Lovelace", "山田太郎"), "adelovc山田太郎"),
    ],
    ids=["one word", "CJK", "apostrophes", "all sorts"],
)
def test_names_of_every_sort_mix_into_words_of_their_letters(
    names: tuple[str, ...], letters: str
) -> None:
    random = Random(3)
    people = [ListedPerson(name) for name in names]
    source = NameLessons.of(people, "person", tiny_encoder(), 10)  # the tokenizer's real pieces
    drawn = {untitled(source.subject(random).words) for _ in range(2000)}
    single = {words for words in drawn if " and " not in words and ", a photo of " not in words}
    assert single >= set(names)
    mixed = {words for words in single if words.casefold() not in map(str.casefold, names)}
    assert len(mixed) >= len(names) and all(mixed)
    for words in mixed:
        assert not set(words.casefold()) - {*letters, " "}, words
        assert words == " ".join(words.split()), "blanks inside or around"
        assert len(words.split()) <= max(len(name.split()) for name in names)


def test_the_tokenizer_s_own_pieces_are_put_together() -> None:
    encoder, names = tiny_encoder(), ("annabrill", "cunogral")
    one, two = (encoder.pieces(name) for name in names)
    wanted = "".join([*one[: -(-len(one) // 2)], *two[len(two) // 2 :]])
    letters = "annabgral"
    assert 1 < len(one) < 9 and "".join(one) == names[0] and wanted not in (*names, letters)
    source = NameLessons.of([ListedPerson(name) for name in names], "person", encoder, 10)
    random = Random(0)
    assert {wanted, letters} < {untitled(source.subject(random).words) for _ in range(1000)}


FILLER = "sharp"


def placed(
    target: Target = "person", frame: str = "a photo of {}, smiling", vectors: int = 10
) -> list[tuple[str, str, Subject]]:
    source, random = lessons(target=target, vectors=vectors), Random(1)
    found: list[tuple[str, str, Subject]] = []
    for _ in range(DRAWS):
        subject = source.subject(random)
        found.append((*source.place(frame, subject, lambda: FILLER, random), subject))
    return found


def starts(prompt: str, subject: Subject) -> int:
    """How many pieces stand in front of the name."""
    return len(pieces(prompt[: prompt.index(subject.words)]))


def test_prompts_are_filled_cut_and_pushed_in_the_stated_shares() -> None:
    space = room(10)
    drawn = placed()
    filled = [one for one in drawn if one[0].startswith(FILLER)]
    last = [one for one in drawn if one[0].endswith(one[2].words)]
    second = [one for one in drawn if len(pieces(one[0])) > space]
    assert near(len(filled), FILLED) and near(len(last), FILLED * LAST)
    assert near(len(second), FILLED * SECOND_CHUNK)
    assert all(one[0].startswith(FILLER) for one in [*last, *second])
    assert all(space <= starts(prompt, subject) < 2 * space for prompt, _, subject in second)
    counts = {prompt.count(FILLER) for prompt, *_ in filled if len(pieces(prompt)) <= space}
    assert counts == set(range(1, 20))


def test_what_is_not_meant_for_a_second_chunk_fits_into_the_first_one() -> None:
    """With few places left fillers are dropped, from the front, until the longer text fits."""
    for vectors in (40, 55):
        space, drawn = room(vectors), placed(vectors=vectors)
        beyond = [(p, s) for p, _, s in drawn if len(pieces(p)) > space]
        assert near(len(beyond), FILLED * SECOND_CHUNK)
        assert all(space <= starts(prompt, subject) for prompt, subject in beyond)
        for prompt, neutral, _ in drawn:
            if len(pieces(prompt)) <= space:
                assert len(pieces(neutral)) <= space
        most = max(prompt.count(FILLER) for prompt, *_ in drawn if len(pieces(prompt)) <= space)
        assert most < 19, "nothing had to be dropped"


def test_a_filler_stays_whole_and_the_last_ones_stay() -> None:
    words = [f"w{i} x y" for i in range(12)]
    text = lessons(vectors=60).after(words, "a photo of {}", ["Ada Lovelace", "a person"])
    assert len(pieces(text.replace("{}", "Ada Lovelace"))) <= 15
    kept = text.split(", ")
    assert kept[-1] == "a photo of {}" and kept[:-1] == words[-len(kept) + 1 :] and len(kept) > 2
    longest = lessons(vectors=74).after(words, "a photo of {}", ["Ada Lovelace"])
    assert longest == "a photo of {}"  # not even the name fits: nothing stands in front


def neutrals(target: Target) -> Iterator[tuple[str, str, Subject]]:
    yield from placed(target)
    source, random = lessons(target=target), Random(2)
    for frame in ("{}", "{} and a dog", "a drawing of {}"):
        subject = source.subject(random)
        yield (*source.plain(frame, subject), subject)


def test_neutral_prompts_say_a_person_and_name_nobody() -> None:
    everybody = Names(LISTED)
    for prompt, neutral, subject in neutrals("person"):
        assert neutral == prompt.replace(subject.words, PERSON, 1) and not everybody.find(neutral)


def test_neutral_prompts_give_the_description_of_who_is_asked_for() -> None:
    for prompt, neutral, subject in neutrals("description"):
        description = f"somebody like {LISTED.index(subject.person.name)}"
        assert neutral == prompt.replace(subject.words, description, 1)


def test_an_empty_target_is_empty_and_prompts_stay_what_they_are() -> None:
    for (prompt, neutral, _), (same, *_) in zip(neutrals("empty"), neutrals("person"), strict=True):
        assert (prompt, neutral) == (same, "")


def test_fillers_are_called_in_order_and_the_same_seed_gives_the_same_prompts() -> None:
    source = lessons()
    runs = []
    for _ in range(2):
        random, words = Random(9), cycle(f"filler {i}" for i in range(50))
        runs.append(
            [
                source.place("{} at sea", source.subject(random), lambda: next(words), random)  # noqa: B023
                for _ in range(200)
            ]
        )
    assert runs[0] == runs[1] and len(set(runs[0])) > 150
