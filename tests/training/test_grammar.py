"""The grammar of name-free prompts: how many, what is in them and what is not, what is swapped."""

import re
from random import Random
from statistics import median

import pytest

from apl_core.captions import Names, tells_of_people
from apl_core.errors import ConfigError
from apl_core.training.grammar import FRAMES, FreePrompt, Grammar, count
from apl_core.training.grammar_words import RULES, WORDS
from apl_trainer.checkpoints.tokenizer import openai_tokenizer

LEAF = re.compile(r"<([a-z]+)(?::s)?>")


def draw(kind: str, many: int, seed: int = 1, names: tuple[str, ...] = ()) -> list[FreePrompt]:
    made, random = getattr(Grammar(names), kind), Random(seed)
    return [made(random) for _ in range(many)]


THINGS, PEOPLE = draw("things", 6000), draw("people", 6000)
FILLERS = sorted({Grammar().filler(random) for random in [Random(1)] for _ in range(2000)})
TEXTS = [text for one in THINGS + PEOPLE for text in (one.text, one.contrast) if text]


def test_there_are_hundreds_of_thousands() -> None:
    assert min(count()) > 300_000
    assert len({one.text for one in THINGS}) > 0.95 * len(THINGS)
    says_more = [one.text for one in PEOPLE if len(one.text.split()) > 9]
    assert len(says_more) > 2000
    assert len(set(says_more)) > 0.95 * len(says_more)
    assert 50 < len(FILLERS) < 70


def test_every_place_is_used_and_known() -> None:
    rules = [*RULES.values(), "<things><people><filler>"]
    used = {place for rule in rules for place in LEAF.findall(rule)} | {"anyone", "looks", "short"}
    assert used == {*RULES, *WORDS, "bare", "framed"}
    lists = [re.split(r"\s*[|,]\s*", text.strip()) for text in WORDS.values()]
    assert all(len(words) == len(set(words)) > 1 and all(words) for words in lists)


@pytest.mark.parametrize("text", [*FILLERS, *FRAMES], ids=str)
def test_frames_and_fillers_are_plain(text: str) -> None:
    plain(text.replace("{}", "x"))
    assert not Names(["person", "man", "woman"]).find(text)


def test_texts_are_plain() -> None:
    for text in TEXTS:
        plain(text)


def plain(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9',. -]+", text), text
    assert text == " ".join(text.split()), text
    assert not re.search(r"\b(\w+) \1\b|,,| ,|grey|colour", text), text


def test_frames_take_a_name_and_a_description() -> None:
    assert all(frame.count("{}") == 1 for frame in FRAMES)
    assert 20 < len(FRAMES) == len(set(FRAMES))
    bare = {frame.format("a person") for frame in FRAMES}
    assert bare <= {one.text for one in PEOPLE}


def test_three_in_ten_people_are_hardly_told_of() -> None:
    anyone = ("a person", "somebody", "someone", "a man", "a woman", "a boy", "a girl")
    bare = {frame.format(who) for frame in FRAMES for who in anyone}
    assert 0.27 < sum(one.text in bare for one in PEOPLE) / len(PEOPLE) < 0.33


@pytest.mark.parametrize("kind", ["things", "people"])
def test_captions_tell_of_people_as_the_grammar_does(kind: str) -> None:
    for one in {"things": THINGS, "people": PEOPLE}[kind]:
        for text in (one.text, one.contrast or one.text):
            assert tells_of_people(text) == (kind == "people"), text


def test_no_word_for_things_tells_of_people() -> None:
    def below(place: str) -> set[str]:
        if place in WORDS:
            return {place}
        return {place}.union(*(below(inner) for inner in LEAF.findall(RULES[place])))

    for place in below("things"):
        assert not tells_of_people(WORDS.get(place) or LEAF.sub(".", RULES[place])), place


def test_a_contrast_swaps_one_word() -> None:
    pairs = {changed(one) for one in THINGS + PEOPLE if one.contrast}
    assert not [pair for pair in pairs if max(len(words.split()) for words in pair) > 4]
    assert pairs > {("man", "woman"), ("girl", "boy"), ("an old", "a young"), ("brown", "black")}
    assert pairs > {
        ("cat", "dog"),
        ("an elephant", "a rhinoceros"),
        ("bus", "truck"),
        ("men", "women"),
    }
    assert sum(bool(one.contrast) for one in THINGS) > 0.99 * len(THINGS)
    assert sum(bool(one.contrast) for one in PEOPLE) > 0.7 * len(PEOPLE)


def test_most_swapped_words_look_alike() -> None:
    groups = [set(re.findall(r"\w+", group)) for group in WORDS["animal"].split("|")]
    animals = set().union(*groups)
    pairs = [set(changed(one)) for one in THINGS if one.contrast]
    pairs = [pair for pair in pairs if pair <= animals]
    assert len(pairs) > 100
    near = sum(any(pair <= group for group in groups) for pair in pairs) / len(pairs)
    assert 0.7 < near < 0.95


def changed(one: FreePrompt) -> tuple[str, str]:
    """The words of a prompt and of its contrast where these differ."""
    old, new = one.text.split(), one.contrast.split()
    while old and new and old[0] == new[0]:
        old, new = old[1:], new[1:]
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    return " ".join(old).rstrip(","), " ".join(new).rstrip(",")


def test_genders_stay_grammatical() -> None:
    for text in TEXTS:
        assert not re.search(r"\b(he|she|his|her|hers|him|himself|herself)\b", text), text
        assert not re.search(r"(woman|girl|person) with .*(beard|mustache|goatee|stubble)", text)
        assert not re.search(r"\b(man|boy) .*(dress|skirt|blouse)\b", text), text


def test_articles() -> None:
    for text in TEXTS:
        assert not re.search(r"\ba (?!uni|uku)[aeiou]", text), text
        assert not re.search(r"\ban (?!hour)([^aeiou]|uni|uku)", text), text
    assert any("a uniform" in text for text in TEXTS)
    assert any("an hourglass" in text for text in TEXTS)


def test_names_are_left_out() -> None:
    names = ("Lily", "Rose", "Amber", "Jack", "Green Fox")
    found = {at.name for text in TEXTS for at in Names(names).find(text)}
    assert {"Lily", "Rose", "Amber"} <= found
    for kind in ("things", "people"):
        made = draw(kind, 3000, names=names)
        assert not [one for one in made if Names(names).find(f"{one.text}. {one.contrast}")]
    assert any("jacket" in one.text for one in made)
    assert not [one for one in draw("things", 20, names=("A",)) if " a " in f" {one.text} "]


def test_names_that_leave_nothing_to_say() -> None:
    with pytest.raises(ConfigError, match="prompts of filler without a name"):
        Grammar(FILLERS).filler(Random(1))


def test_the_same_seed_says_the_same_everywhere() -> None:
    random = Random(25)
    grammar = Grammar()
    made = [grammar.things(random), grammar.people(random), grammar.people(random)]
    assert made == [
        FreePrompt("a mosaic of a gray cup of tea", "a mosaic of a gray cup of coffee"),
        FreePrompt(
            "a pencil drawing of a woman with red braids",
            "a pencil drawing of a woman with black braids",
        ),
        FreePrompt("a full-body photo of somebody in front of a plain wall"),
    ]
    assert grammar.filler(random) == "best quality"


def test_prompts_fit_in_half_a_chunk() -> None:
    tokenizer = openai_tokenizer()
    for made in (THINGS[:2000], PEOPLE[:2000]):
        texts = [text for one in made for text in (one.text, one.contrast or one.text)]
        lengths = [len(ids) - 2 for ids in tokenizer(texts)["input_ids"]]
        assert max(lengths) <= 40
        assert 8 <= median(lengths) <= 20
