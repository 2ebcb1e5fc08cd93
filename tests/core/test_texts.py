"""Text files as programs save them."""

from pathlib import Path

import pytest

from apl_core.texts import read_text


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_marks_and_line_ends_do_not_matter(tmp_path: Path, mark: bytes, end: str) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(mark + end.join(["Zoë", "Bo", ""]).encode())
    assert read_text(file) == "Zoë\nBo\n"


def test_a_single_return_inside_other_lines_stays(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\rb\nc")
    assert read_text(tmp_path / "a.txt") == "a\rb\nc"


@pytest.mark.parametrize("code", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_other_encodings_are_named(tmp_path: Path, code: str) -> None:
    (tmp_path / "a.txt").write_bytes("Ada\nBo\n".encode(code))
    with pytest.raises(ValueError, match=r"UTF-(16|32).*save it as UTF-8"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_the_line_that_is_not_utf8_is_named(tmp_path: Path, end: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(end.join([b"\xef\xbb\xbfAda", "Zoë".encode(), b"Zo\xeb", b""]))
    with pytest.raises(ValueError, match="line 3 is not UTF-8: save it as UTF-8"):
        read_text(tmp_path / "a.txt")
