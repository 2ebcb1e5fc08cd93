"""Neutral descriptions that many people fit: attributes voted over a name's pictures, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ATTRIBUTES = ("gender", "age", "hair_length", "hair_color", "glasses", "beard")
"""Columns of the table; whatever tells people apart more finely has no place in it."""

OLD_ATTRIBUTES = {"hair_colour": "hair_color"}
"""Spellings in files of older versions."""

NO = "no"
_MAJORITY = 0.5


def vote(
    pictures: Sequence[Mapping[str, Sequence[float]]], values: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """The value of each attribute that more than half of the pictures show; "" if none does.

    `pictures` holds one table of probabilities per picture, in the order of `values`.
    """
    chosen: dict[str, str] = {}
    for attribute, words in values.items():
        ballots = [list(p[attribute]) for p in pictures if attribute in p]
        votes = [words[b.index(max(b))] for b in ballots]
        best = max(words, key=votes.count)
        chosen[attribute] = best if votes.count(best) > _MAJORITY * len(votes) else ""
    return chosen


def phrase(values: Mapping[str, str], gender: bool = True) -> str:
    """Such as "an old man with short grey hair and glasses"; what is not known is not said."""
    said = {k: v.strip() for k, v in values.items() if v.strip() not in ("", NO)}
    noun = said.get("gender", "person") if gender else "person"
    words = f"{said['age']} {noun}" if "age" in said else noun
    parts: list[str] = []
    length, color = said.get("hair_length", ""), said.get("hair_color", "")
    if length == "bald":
        parts.append("a bald head")
    elif length or color:
        parts.append(" ".join(part for part in (length, color, "hair") if part))
    if "glasses" in said:
        parts.append("glasses")
    if "beard" in said:
        parts.append(f"a {said['beard']}")
    article = "an" if words[0] in "aeiou" else "a"
    return f"{article} {words}" + (f" with {' and '.join(parts)}" if parts else "")
