"""What a file or a user says is shown in a report, and never run."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from apl_core.formats import inspect_file, read_prefix, write_prefix
from apl_core.metadata import PrefixCard, plain_words
from apl_core.prefix import Prefix
from apl_trainer.report.page import Picture, Table, write_page

EVIL = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "{{ 7 * 7 }}{% include 'x' %}",
    "</title><script>alert(1)</script>",
    "<style onload=alert(1)>&lt;b&gt;",
    "javascript:alert(1)",
]


class Elements(HTMLParser):
    """Names and attributes of all elements, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data


def page(path: Path, text: str) -> Elements:
    png = path / "x.png"
    png.write_bytes(b"\x89PNG")
    table = Table(text, text, [text, "b"], [[text, text]])
    out = path / "report.html"
    write_page(out, text, text, [Picture(png, text)], [table], {text: text}, [text])
    return Elements(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize("evil", EVIL)
def test_a_report_shows_what_would_be_a_script(evil: str, tmp_path: Path) -> None:
    harmless = page(tmp_path, "harmless")
    found = page(tmp_path, evil)
    assert found.names == harmless.names
    assert found.attributes == harmless.attributes
    assert found.words.count(evil) == harmless.words.count("harmless")


@pytest.mark.parametrize("evil", EVIL)
def test_the_title_of_a_prefix_file_reaches_a_report_as_text(evil: str, tmp_path: Path) -> None:
    card = PrefixCard(
        title=evil, author=evil, description=f"{evil}\x1b[2J\u202e", figures={evil: 1}
    )
    path = tmp_path / "x.safetensors"
    write_prefix(Prefix({"pocket": torch.ones(1, 128)}, card=card), path)
    for said in (plain_words(read_prefix(path).card), inspect_file(path).text()):
        found = page(tmp_path, said)
        assert "script" not in found.names and "img" in found.names
        assert found.names.count("img") == 1 and "\x1b" not in said and "\u202e" not in said
