"""Names in captions: found as whole words however they are written, and nowhere else."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apl_core.captions import Names, alike, has_letters, tells_of_people

ADA = Names(["Ada Lovelace"])


@pytest.mark.parametrize(
    "text",
    [
        "a photo of Ada Lovelace",
        "ADA LOVELACE",
        "ada lovelace, smiling",
        "Ada_Lovelace.png",
        "Ada-Lovelace",
        "Ada\u2011Lovelace",
        "Ada\u2013Lovelace",
        "Ada  Lovelace",
        "Ada\tLovelace",
        "Ada\nLovelace",
        "Ada\u00a0Lovelace",
        "Ada\u202fLovelace",
        "Ada\u3000Lovelace",
        "Ada Lovelace's hat",
        "Ada Lovelace\u2019s hat",
        "Ada Lovelaces Hut",
        "(Ada Lovelace:1.3)",
        "AdaLovelace01",
        "1_Ada_Lovelace_1843",
        "#adalovelace",
        "@AdaLovelace",
        "PhotoOfAdaLovelace",
        "Lovelace, Ada",
        "Ada.Lovelace",
        "Ada\u200bLovelace",
        "Ada Love\u00adlace",
        "Ada Lovelace\ufe0f",
        "\uff21\uff44\uff41\uff3f\uff2c\uff4f\uff56\uff45\uff4c\uff41\uff43\uff45",
        "\U0001d400\U0001d41d\U0001d41a Lovelace",
        "Ada Lovelace\u2122",
        "\u201cAda Lovelace\u201d",
    ],
)
def test_a_name_is_found_however_it_is_written(text: str) -> None:
    assert [one.name for one in ADA.find(text)] == ["Ada Lovelace"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Cher", "a bowl of cherries"),
        ("Cher", "Cherbourg"),
        ("Ace", "a face"),
        ("Ace", "aces"),
        ("Ace", "a palace, fac\u00e9Ace"),
        ("Donald", "Ronald McDonald"),
        ("Ada", "Adapter"),
        ("Rose", "a glass of ros\u00e9"),
        ("Li Na", "lina"),
        ("Ada Lovelace", "Ada and Lovelace"),
        ("राम", "रामायण"),
        ("Cher", "Che\u0301r"),
        ("Ana", "bana\u0301na"),
        ("Will I", "william"),
        ("U2", "U 22"),
        ("Ада", "радар"),
    ],
)
def test_a_name_is_not_found_inside_other_words(name: str, text: str) -> None:
    assert Names([name]).find(text) == []
    assert Names([name]).replaced(text, "a person") == text


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize(
    "name", ["Zoë Kravitz", "김연아", "Þór Ólafsson", "Nguyễn Thị Ánh", "राम", "宮崎ガク"]
)
def test_the_unicode_form_does_not_matter(name: str, form: str) -> None:
    text = unicodedata.normalize(form, f"a photo of {name}, smiling")  # pyright: ignore
    for listed in ("NFC", "NFD"):
        names = Names([unicodedata.normalize(listed, name)])  # pyright: ignore
        assert unicodedata.normalize("NFC", names.replaced(text, "X")) == "a photo of X, smiling"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Beyoncé", "beyonce on a stage"),
        ("Søren Ålund", "soren alund"),
        ("Łukasz Ćma", "LUKASZ CMA"),
        ("O'Neil", "O\u2019Neil"),
        ("O\u2019Neil", "ONeil's hat"),
        ("Jeanne d'Arc", "jeanne d arc"),
        ("J.R.R. Tolkien", "J. R. R. Tolkien"),
        ("J.R.R. Tolkien", "JRR Tolkien"),
        ("J. R. R. Tolkien", "JRRTolkien"),
        ("Jean-Luc Rey", "Jean Luc Rey"),
        ("U2", "u-2 live"),
        ("STRASSE", "Straße"),
        ("İlkay", "ilkay"),
        ("I\u015f\u0131k", "IŞIK"),
        ("ΑΓΑΘΟΣ", "αγαθος"),
        ("宮崎駿", "宮崎駿の写真"),
        ("宮崎 駿", "宮崎・駿"),
        ("김연아", "김연아가 웃는다"),
        ("Ada", "Adaの写真"),
        ("\u0645\u06cc\u200c\u0646\u0627", "\u0645\u06cc\u0646\u0627"),
    ],
)
def test_other_ways_to_write_a_name(name: str, text: str) -> None:
    assert [one.name for one in Names([name]).find(text)] == [name]


def test_of_overlapping_names_the_longest_counts_and_all_are_replaced() -> None:
    names = Names(["Ada", "Ada Lovelace", "Mary Ada"])
    assert [one.name for one in names.find("Ada, Ada Lovelace")] == ["Ada", "Ada Lovelace"]
    assert names.replaced("Ada and ada_lovelace's hat", "a person") == "a person and a person's hat"
    assert names.replaced("Mary Ada Lovelace", "X") == "X"
    words = {"Ada": "A", "Ada Lovelace": "L", "Mary Ada": "M"}
    assert names.replaced("Ada Lovelace, ADA", words) == "L, A"


def test_what_is_left_of_a_text_stays_as_it_was() -> None:
    text = "Zoe\u0308  and\u00a0Ada Lovelace \ufb01nd\u2026"
    assert ADA.replaced(text, "X") == "Zoe\u0308  and\u00a0X \ufb01nd\u2026"


@given(st.text(max_size=40), st.text(max_size=40))
def test_places_are_those_of_the_text(before: str, after: str) -> None:
    text = f"{before} Ada Lovelace {after}"
    found = ADA.find(text)
    assert any(" ".join(text[one.start : one.end].split()) == "Ada Lovelace" for one in found)
    assert not ADA.find(ADA.replaced(text, "!"))


@given(st.text(st.characters(categories=("L",)), min_size=1, max_size=12))
def test_every_name_is_found_as_it_stands_and_in_capitals(name: str) -> None:
    for text in (name, f"a photo of {name}, smiling", name.upper(), name.replace(" ", "_")):
        assert Names([name]).find(text), text


def test_spellings_of_one_name_are_alike() -> None:
    spelled = [
        "Zoë Kravitz",
        "Zoe\u0308_Kravitz",
        "ZOË  KRAVITZ",
        "zoë-kravitz",
        "Zoë\u00a0Kravitz",
    ]
    assert {alike(name) for name in spelled} == {"zoë kravitz"}
    assert alike("McDonald") == "mcdonald" and alike("Zoe Kravitz") != alike("Zoë Kravitz")
    assert has_letters("U2") and not has_letters("???") and Names(["???"]).find("???") == []


@pytest.mark.parametrize(
    "caption",
    [
        "two girls on a beach",
        "boys playing",
        "the boys' room",
        "a woman's hat",
        "a girl\u2019s bag",
        "1girl, solo",
        "2boys",
        "a_man_smiling",
        "OLD MEN",
        "ladies in a cafe",
        "a baby's cot",
        "babies",
        "families",
        "twins",
        "a teenager",
        "portraits",
        "three guys",
        "gentlemen",
        "a crowd",
        "fishermen at sea",
        "nurses",
        "himself in a mirror",
        "a bride and groom",
        "two lawyers",
    ],
)
def test_captions_of_people(caption: str) -> None:
    assert tells_of_people(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "a red bicycle",
        "a man-made lake",
        "a grandfather clock",
        "a manhole",
        "a German shepherd",
        "a boycott sign",
        "hercules beetle",
        "a kidney bean",
        "a menu",
        "an interface",
        "",
    ],
)
def test_captions_of_things(caption: str) -> None:
    assert not tells_of_people(caption)
