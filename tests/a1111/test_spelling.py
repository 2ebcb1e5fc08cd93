"""Tags and what nearly is one: read or refused, in every text of a request; plain text stays."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from apl_a1111.spelling import other_tags, refuse_left_over, settle

from apl_core.errors import HostError

FIELDS = ("all_prompts", "prompts", "all_hr_prompts", "hr_prompts")
NEGATIVE = (
    *("all_negative_prompts", "negative_prompts"),
    *("all_hr_negative_prompts", "hr_negative_prompts"),
)


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        ("<apl:x>", "<apl:x>"),
        ("<APL:x>", "<apl:x>"),
        ("<Apl:a/b c>", "<apl:a/b c>"),
        ("< apl:x>", "<apl:x>"),
        ("<apl :x>", "<apl:x>"),
        ("<\u00a0apl\u3000: x >", "<apl:x>"),
        ("<apl\n:x>", "<apl:x>"),
        ("<apl:x:>", "<apl:x>"),
        ("<aPl: x : 0 - 0.5 >", "<apl:x:0-0.5>"),
        ("<apl:x> <APL:x>", "<apl:x> <apl:x>"),
    ],
)
def test_case_and_blanks_do_not_matter(written: str, spelled: str) -> None:
    for field in FIELDS:
        p = SimpleNamespace(**{field: ["b", f"a {written}"]})
        assert str(settle(p, begun=True)) == spelled.split("> ")[0].rstrip(">") + ">"
        assert getattr(p, field) == ["b", f"a {spelled}"]
    for field in NEGATIVE:  # no webui takes tags out of negative prompts
        p = SimpleNamespace(**{field: [f"a{written}b"]})
        assert str(settle(p, begun=True)) == spelled.split("> ")[0].rstrip(">") + ">"
        assert "apl" not in getattr(p, field)[0]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        *[(text, "names no prefix") for text in ("<apl>", "<apl:>", "<apl: :0-1>", "</apl>")],
        *[(text, "not closed") for text in ("<apl:x", "<apl", "a <apl:x, a <lora:y:1>")],
        *[
            (text, "escaped or look-alike")
            for text in (
                "\uff1capl:x\uff1e",
                "<\uff41\uff50\uff4c:x>",
                "<apl\uff1ax>",
                "\u2039apl:x\u203a",
                "\u3008apl:x\u3009",
                "\u00abapl:x\u00bb",
                "<\u0430\u0440l:x>",
                "<a\u200bpl:x>",
                "&lt;apl:x&gt;",
                "&amp;lt;apl:x&amp;gt;",
                "&#60;apl:x&#62;",
                "%3Capl:x%3E",
                "\\u003capl:x\\u003e",
            )
        ],
        *[(text, "backslash") for text in ("\\<apl:x>", "\\<apl:x\\>")],
        *[(text, "not spelled like") for text in ("<apl\\:x>", '<"apl:x">', "<apl-x:1>")],
        *[
            (f"<apl:x:{steps}>", "not a range of steps")
            for steps in ("nonsense", "0.8", "1-0", "0-2", "0-0.5:1")
        ],
    ],
)
def test_nearly_a_tag_is_refused_with_what_is_wrong(written: str, said: str) -> None:
    for field in (*FIELDS, *NEGATIVE):
        with pytest.raises(HostError, match=said) as caught:
            settle(SimpleNamespace(**{field: ["a", f"a photo {written} of b"]}), begun=True)
        assert "write <apl:" in str(caught.value)
        assert ("negative" in str(caught.value)) == (field in NEGATIVE)
        assert ("hires" in str(caught.value)) == ("hr" in field)


@pytest.mark.parametrize(
    "text",
    [
        *("apl", "apl:x", "(apl:1.2)", "[apl:x:0.5]", "{apl}", "a language, APL: terse"),
        *(
            "<aplomb:x>",
            "<lora:apl:1>",
            "<lora:apl_x:1>",
            "a<b and apl",
            "i <3 apl",
            "&lt;b&gt; apl",
        ),
    ],
)
def test_text_about_it_stays_text(text: str) -> None:
    p = SimpleNamespace(all_prompts=[text], all_negative_prompts=[text])
    assert settle(p) is None
    assert (p.all_prompts, p.all_negative_prompts) == ([text], [text])
    refuse_left_over([text])


def test_texts_that_disagree_are_refused_wherever_they_stand() -> None:
    with pytest.raises(HostError, match="different ones: <apl:a>, <apl:b>"):
        settle(SimpleNamespace(all_prompts=["<apl:a>"], all_hr_negative_prompts=["<apl:b>"]))
    with pytest.raises(HostError, match="different ones"):
        settle(SimpleNamespace(all_prompts=["<apl:a>"]), ["<apl:a:0-0.5>"])
    p = SimpleNamespace(all_prompts=["<apl:a>"], all_negative_prompts=["<APL:a>"])
    assert str(settle(p)) == "<apl:a>"
    assert p.main_negative_prompt == ""


def test_nothing_that_looks_like_a_tag_is_encoded() -> None:
    for text in ("a <apl:x>", "a <APL:x>", "a <apl:x", "&lt;apl&gt;"):
        with pytest.raises(HostError, match="read the tag"):
            refuse_left_over(["a", text])


def test_tags_of_other_words_are_found_where_they_stand() -> None:
    p = SimpleNamespace(all_prompts=["<alp:x:1> <lora:y>"], all_negative_prompts=["<pal: x>"])
    found = [("alp", "x", "prompt"), ("lora", "y", "prompt"), ("pal", "x", "negative prompt")]
    assert other_tags(p) == found
