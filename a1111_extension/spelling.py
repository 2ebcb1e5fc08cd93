"""Prompt tags `<apl:NAME>` and `<apl:NAME:0-0.8>` in texts, and what only looks like one.

A tag is read in any case and with blanks inside. Whatever else looks like one is an error, for it
would be drawn as text, without the prefix.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apl_core.errors import HostError

from .steps import StepRange

_READ = re.compile(r"(?<!\\)<\s*apl\s*:([^<>]*)>", re.IGNORECASE)
_LIKE = re.compile(r"<[^\w<>]{0,8}a[\W_]?p[\W_]?[l1](?![^\W\d_])[^<>\n]{0,40}>?", re.IGNORECASE)
_ANY = re.compile(r"<(\w+):([^<>:]+)[^<>]*>")
_CODES = re.compile(r"%(3[ace])|\\(?:u00|x)(3[ace])", re.IGNORECASE)
_ALIKE = str.maketrans(
    {
        **dict.fromkeys(
            map(ord, "\u2039\u3008\u27e8\u300a\u00ab\u227a\u02c2\u276e\u2770\u2991\u226a"), "<"
        ),
        **dict.fromkeys(
            map(ord, "\u203a\u3009\u27e9\u300b\u00bb\u227b\u02c3\u276f\u2771\u2992\u226b"), ">"
        ),
        **dict.fromkeys(map(ord, "\u0430\u0410\u03b1\u0391"), "a"),
        **dict.fromkeys(map(ord, "\u0440\u0420\u03c1\u03a1"), "p"),
        **dict.fromkeys(map(ord, "\u04c0\u04cf\u0406\u03b9|\u01c0"), "l"),
    }
)
"""Brackets and letters of other scripts that look like those of a tag; the rest is in Unicode."""

_WHOLE = (
    ("all_prompts", "prompt"),
    ("all_hr_prompts", "hires prompt"),
    ("all_negative_prompts", "negative prompt"),
    ("all_hr_negative_prompts", "hires negative prompt"),
)
_BATCH = tuple((field.removeprefix("all_"), where) for field, where in _WHOLE)
"""Where a webui keeps the texts of a request, styles included, and those of the current batch."""


@dataclass(frozen=True)
class Tag:
    """What a tag asks for; no steps: those of the accordion."""

    name: str
    steps: StepRange | None = None

    def __str__(self) -> str:
        return f"<apl:{self.name}:{self.steps}>" if self.steps else f"<apl:{self.name}>"


def settle(p: Any, more: Sequence[str] = (), *, begun: bool = False) -> Tag | None:
    """The tag that the texts of a request and `more` hold; HostError if tags disagree.

    `begun`: the texts of the current batch are there as well. The tag may stand in any text.
    Afterwards every tag in a prompt is spelled as the webui takes it out, and negative prompts,
    where the webui takes none out, hold none.
    """
    found = {str(tag): tag for text in more for tag in _read(text, "prompt")[1]}
    for field, where in _texts(begun):
        before: Sequence[str] = getattr(p, field, None) or ()
        read = [_read(text, where) for text in before]
        found |= {str(tag): tag for _, tags in read for tag in tags}
        after = [_without(text) if "negative" in where else text for text, _ in read]
        if after != list(before):
            setattr(p, field, after)
            if field == "all_negative_prompts":
                p.main_negative_prompt = after[0]
    if len(found) > 1:
        raise HostError(
            "anonymize with the prefix that the prompt names",
            "its tags name different ones: " + ", ".join(sorted(found)),
            "use one <apl:NAME> tag",
        )
    return next(iter(found.values()), None)


def refuse_left_over(texts: Sequence[str]) -> None:
    """HostError if a text that is about to be encoded still holds a tag or what looks like one."""
    for text in texts:
        for tag in _read(text, "prompt")[1]:
            found = "it came in too late to be read"
            raise _error(str(tag), "prompt", found, "write it into the prompt itself")


def other_tags(p: Any, *, begun: bool = False) -> list[tuple[str, str, str]]:
    """Tags of other words in the texts of a request: (word, name, where)."""
    return [
        (word, name.strip(), where)
        for field, where in _texts(begun)
        for text in getattr(p, field, None) or ()
        for word, name in _ANY.findall(text)
        if word != "apl"
    ]


def _texts(begun: bool) -> Sequence[tuple[str, str]]:
    return (*_WHOLE, *_BATCH) if begun else _WHOLE


def misspelled(word: str, name: str, where: str) -> HostError:
    """The error for a tag that names a prefix with a word that the webui does not know."""
    found = f"there are no {word!r} tags here"
    return _error(f"<{word}:{name}>", where, found, f"write <apl:{name}>")


def _read(text: str, where: str) -> tuple[str, tuple[Tag, ...]]:
    """A text with its tags spelled as the webui reads them, and these tags; HostError."""
    tags: list[Tag] = []

    def spelled(match: re.Match[str]) -> str:
        tags.append(_tag(match[0], match[1], where))
        return str(tags[-1])

    text = _READ.sub(spelled, text)
    rest = _without(text)
    like = _LIKE.search(_folded(rest))
    if like is not None:
        raise _error(like[0], where, _fault(like[0], rest), "write <apl:NAME>")
    return text, tuple(tags)


def _without(text: str) -> str:
    return _READ.sub("", text)


def _tag(written: str, inside: str, where: str) -> Tag:
    name, _, steps = inside.partition(":")
    if not name.strip():
        raise _error(written, where, "it names no prefix", "write <apl:NAME>")
    if not steps.strip():
        return Tag(name.strip())
    try:
        return Tag(name.strip(), StepRange.parse(steps))
    except HostError as error:
        fix = f"write <apl:{name.strip()}> or, for a part of the steps, <apl:{name.strip()}:0-0.8>"
        raise _error(
            written, where, f"{steps.strip()[:20]!r} is not a range of steps", fix
        ) from error


def _folded(text: str) -> str:
    """A text as a reader sees it: no entities, escapes, full-width or look-alike characters."""
    for _ in range(3):
        text = html.unescape(text)
    text = _CODES.sub(lambda code: chr(int(code[1] or code[2], 16)), text)
    plain = "".join(one for one in text if unicodedata.category(one) != "Cf")
    return unicodedata.normalize("NFKC", plain.translate(_ALIKE)).translate(_ALIKE)


def _fault(like: str, text: str) -> str:
    if like not in text:
        return "it is written with escaped or look-alike characters"
    if f"\\{like}" in text:
        return "a backslash stands before it"
    if not like.endswith(">"):
        return "it is not closed"
    return "it names no prefix" if ":" not in like else "it is not spelled like one"


def _error(written: str, where: str, found: str, fix: str) -> HostError:
    return HostError(f"read the tag {written[:60]!r} in the {where} or its styles", found, fix)
