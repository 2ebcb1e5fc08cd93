"""What captions say: whose names stand in them, and whether they tell of people.

A name is found as whole words, whatever its case, its Unicode form and what stands between its
words: "Ada Lovelace" in "ADA_LOVELACE", "Lovelace, Ada", "#adalovelace" and "Ada  Lovelace's", but
"Ace" not in "face". Accents may be left out in a caption, but not added. Scripts that put no spaces
between words (Chinese, Japanese, Korean, Thai ...) have no whole words: a name in them is found
anywhere. Inflected names, other spellings and other scripts are not found.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

_HUMP, _EDGE = "\x00", "\x01"  # no letters between: in "aB", and beside digits and unspaced scripts
_MARKS = f"{_HUMP}{_EDGE}"
_SIGNS = " .,#'"  # what is left of all that is no letter, mark or digit
_APOSTROPHES = "'`\u00b4\u02b9\u02bc\u2018\u2019\u2032"
_ONE = str.maketrans({"\u0131": "i", **dict.fromkeys(_APOSTROPHES, "'")})
_DROPPED = {0x34F, *range(0xFE00, 0xFE10)}
_JOINING = {0xFF9E, 0xFF9F, *range(0x1160, 0x1200)}  # marks of Japanese, and parts of a Hangul
_WORD = re.compile(rf"[^{_SIGNS}{_MARKS}]+")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u31ff\u3400-\u9fff"
    "\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_BETWEEN, _MAYBE, _INSIDE = rf"[{_SIGNS}{_MARKS}]+", rf"[{_SIGNS}{_MARKS}]*", f"[{_MARKS}]*"
_ACCENTS = re.compile("[\u0300-\u036f]")
_BASES = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th"})


@dataclass(frozen=True)
class Found:
    """A listed name that stands at text[start:end]."""

    name: str
    start: int
    end: int


class Names:
    """Names to look for in texts; where some overlap, the longest is the one that is found."""

    def __init__(self, names: Iterable[str]) -> None:
        known = ((name, _pattern(name)) for name in dict.fromkeys(names))
        self._patterns = [(name, *pattern) for name, pattern in known if pattern]

    def find(self, text: str) -> list[Found]:
        """Where names stand in a text, in its order, none overlapping another."""
        folded, places = _folded(text)
        letters = _plain("".join(_WORD.findall(folded)))
        found: list[Found] = []
        for name, words, pattern in self._patterns:
            if all(word in letters for word in words):  # far cheaper than the pattern
                for at in pattern.finditer(folded):
                    found.append(Found(name, places[at.start()][0], places[at.end() - 1][1]))
        return list(_merged(found))

    def replaced(self, text: str, stand_in: str | Mapping[str, str]) -> str:
        """The text with other words in every name's place, one for all or one for each name.

        What is left of it stays as it was.
        """
        parts: list[str] = []
        end = 0
        for at in self.find(text):
            words = stand_in if isinstance(stand_in, str) else stand_in[at.name]
            parts += [text[end : at.start], words]
            end = at.end
        return "".join([*parts, text[end:]])


def alike(name: str) -> str:
    """What the spellings of one name have in common: its words without case, a blank between.

    "Ada_Lovelace", "ADA  Lovelace" and "Ada-Lovelace" are alike, in any Unicode form.
    """
    folded = _folded(name)[0].replace(_HUMP, "").replace(_EDGE, "")
    return " ".join(_WORD.findall(folded)) or unicodedata.normalize("NFC", name.casefold().strip())


def has_letters(name: str) -> bool:
    """Whether a name holds anything that can be looked for."""
    return _WORD.search(_folded(name)[0]) is not None


def tells_of_people(caption: str) -> bool:
    """Whether a caption in English has a word for people: "girls", "1boy", "a woman's hat"."""
    words = _WORD.findall(_folded(caption)[0].replace(_HUMP, ""))
    pairs = zip(words, [*words, ""][1:], strict=True)
    return any(word in _PEOPLE and (word, then) not in _NOBODY for word, then in pairs)


@lru_cache(maxsize=1 << 16)
def _pattern(name: str) -> tuple[tuple[str, ...], re.Pattern[str]] | None:
    """(letters that a text with the name must hold, the name in a folded text), or None."""
    folded = _folded(name)[0].replace(_HUMP, "")
    words = _WORD.findall(folded)
    if not words:
        return None
    gaps = _WORD.split(folded)[1:-1]
    spelled = [_INSIDE.join(map(_spelled, word)) for word in words]
    whole = spelled[0]
    for before, gap, word in zip(words, gaps, spelled[1:], strict=False):
        short = set(gap) <= {"'"} or (len(before) == 1 and "." in gap)  # O'Neil, J.R.R.
        whole += (_MAYBE if short else _BETWEEN) + word
    edge = f"{_SIGNS}{_EDGE}" if len(words) == 1 else f"{_SIGNS}{_MARKS}"
    begin, end = f"(?<![^{edge}])", f"(?![^{edge}])"
    forms = [begin + whole, f"(?<=#){_MAYBE.join(spelled)}"]
    if len(words) > 1:
        forms.append(f"{begin}{spelled[-1]} *, *{_BETWEEN.join(spelled[:-1])}")
        end = f"(?:{end}|(?=s(?![^{edge}])))"  # "Ada Lovelaces", as other languages write it
    needed = tuple(_plain(word) for word in words)
    return needed, re.compile(f"(?:{'|'.join(forms)}){end}")


def _spelled(letter: str) -> str:
    bare = re.escape(_plain(letter))
    return bare if bare == re.escape(letter) else f"(?:{re.escape(letter)}|{bare})"


def _plain(text: str) -> str:
    """Folded letters without accents."""
    if text.isascii():
        return text
    return _ACCENTS.sub("", unicodedata.normalize("NFD", text)).translate(_BASES)


def _merged(found: list[Found]) -> Iterator[Found]:
    """Overlapping ones made one, named by the longest."""
    group: list[Found] = []
    for one in [*sorted(found, key=lambda one: (one.start, -one.end)), None]:
        if group and (one is None or one.start >= max(each.end for each in group)):
            longest = max(group, key=lambda each: each.end - each.start)
            yield Found(longest.name, group[0].start, max(each.end for each in group))
            group = []
        if one is not None:
            group.append(one)


def _folded(text: str) -> tuple[str, list[tuple[int, int]]]:
    """A text's letters without case, signs and marks between them; each one's place in the text."""
    starts = [i for i, char in enumerate(text) if not i or not _joins(char)]
    ends = [*starts, len(text)][1:]
    folded: list[str] = []
    places: list[tuple[int, int]] = []
    before = ""  # a letter, a digit, or nothing that a word could go on from
    for start, end in zip(starts, ends, strict=True):
        base, letters = text[start], _letters(text[start:end])
        kind = _kind(base, letters)
        if kind and before:
            after = text[end : end + 1]
            hump = base.isupper() and (before == "l" or (before == "u" and after.islower()))
            mark = _EDGE if _parted(before, kind) else _HUMP if hump else ""
            folded.append(mark)
            places += [(start, start)] * len(mark)
        folded.append(letters)
        places += [(start, end)] * len(letters)
        before = kind
    return "".join(folded), places


def _joins(char: str) -> bool:
    """Whether it belongs to the letter before it, or is nothing at all."""
    if char.isascii():
        return False
    kind = unicodedata.category(char)
    return kind[0] == "M" or (kind == "Cf" and char != "\u200b") or ord(char) in _JOINING


def _parted(before: str, kind: str) -> bool:
    """Whether words may end between these two."""
    return "s" in (before, kind) or (before == "d") != (kind == "d")


def _kind(base: str, letters: str) -> str:
    """u(pper), l(ower), d(igit), s (a letter of an unspaced script), "" for signs."""
    if not letters or letters[0] in _SIGNS + _MARKS:
        return ""
    if _UNSPACED.match(letters):
        return "s"
    return "d" if base.isnumeric() else "u" if base.isupper() else "l"


@lru_cache(maxsize=1 << 12)
def _letters(cluster: str) -> str:
    """What a letter with its marks is without case, or the sign that stands for all like it."""
    base = cluster[0]
    if unicodedata.category(base)[0] not in "LMN":
        if base == "\u200b":
            return _EDGE
        sign = unicodedata.normalize("NFKC", base)[0]
        return (
            "'" if sign in _APOSTROPHES else "#" if sign in "#@" else sign if sign in ".," else " "
        )
    kept = "".join(c for c in cluster if ord(c) not in _DROPPED and unicodedata.category(c) != "Cf")
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", kept).casefold())
    return folded.casefold().translate(_ONE).replace("i\u0307", "i")


_PEOPLE_WORDS = """
person persons people peoples human humans somebody someone anybody anyone everybody everyone man
men woman women girl girls boy boys lady ladies gentleman gentlemen guy guys gal gals dude dudes
chap chaps bloke blokes lad lads lass lasses male males female females child children kid kids
baby babies toddler toddlers infant infants newborn newborns teen teens teenager teenagers
adolescent adolescents youth youths youngster youngsters adult adults elder elders pensioner
pensioners schoolboy schoolboys schoolgirl schoolgirls crowd crowds couple couples family families
friend friends parent parents mother mothers mom moms mum mums mommy mummy father fathers dad dads
daddy son sons daughter daughters brother brothers sister sisters sibling siblings twin twins
husband husbands wife wives grandmother grandmothers grandfather grandfathers grandma grandmas
grandpa grandpas granny grandparent grandparents grandchild grandchildren grandson grandsons
granddaughter granddaughters uncle uncles aunt aunts cousin cousins nephew nephews niece nieces
bride brides groom grooms bridesmaid bridesmaids boyfriend boyfriends girlfriend girlfriends
portrait portraits selfie selfies headshot headshots mugshot mugshots face faces he she him his
her hers himself herself myself me actor actors actress actresses architect architects artist
artists astronaut astronauts athlete athletes author authors baker bakers ballerina ballerinas
barista baristas bartender bartenders beekeeper beekeepers blacksmith blacksmiths businessman
businessmen businesswoman businesswomen carpenter carpenters cashier cashiers celebrities
celebrity chef chefs cook cooks cowboy cowboys cowgirl cowgirls craftsman craftsmen cyclist
cyclists dancer dancers dentist dentists doctor doctors drummer drummers electrician electricians
engineer engineers farmer farmers firefighter firefighters fireman firemen fisherman fishermen
gardener gardeners guitarist guitarists hiker hikers lawyer lawyers librarian librarians mechanic
mechanics monk monks musician musicians nun nuns nurse nurses painter painters passenger
passengers pedestrian pedestrians photographer photographers pianist pianists plumber plumbers
policeman policemen policewoman policewomen politician politicians president presidents priest
priests professor professors sailor sailors salesman salesmen saleswoman scientist scientists
shopkeeper shopkeepers singer singers skier skiers soldier soldiers sportsman sportsmen
sportswoman student students surfer surfers surgeon surgeons swimmer swimmers teacher teachers
tourist tourists vendor vendors villager villagers violinist violinists waiter waiters waitress
waitresses worker workers writer writers
"""
_PEOPLE = frozenset(_PEOPLE_WORDS.split())
_NOBODY = {
    *(("man", "made"), ("portrait", "format"), ("portrait", "orientation")),
    ("grandfather", "clock"),
}
