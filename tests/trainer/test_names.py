"""Lists of names: what is read, and every mistake of a list in one error."""

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apl_core.errors import ConfigError
from apl_trainer.names import MAX_BYTES, MAX_LINE, check_apart, read_names

LETTERS = st.characters(categories=("L",), include_characters="-' ")


def listed(folder: Path, content: bytes | str) -> Path:
    path = folder / "names.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def faults(folder: Path, content: bytes | str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_names(listed(folder, content))
    assert "names.txt" in str(caught.value)
    return caught.value


def test_a_list_is_read_as_people_write_it(tmp_path: Path) -> None:
    text = "\ufeff# people\r\n  Mira Tolk \r\n\r\nZoe\u0308 d'Arc\t# a comment\r\nمی‌نا\nOne"
    names = read_names(listed(tmp_path, text))
    assert names == ("Mira Tolk", "Zoë d'Arc", "می‌نا", "One")


@given(st.lists(st.text(LETTERS, max_size=60), max_size=8))
def test_what_is_read_is_trimmed_composed_and_unique(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = listed(tmp_path_factory.mktemp("names"), "\n".join(lines))
    try:
        names = read_names(path)
    except ConfigError as error:
        assert re.search("stands there|no name", str(error))
        return
    assert names == tuple(unicodedata.normalize("NFC", s.strip()) for s in lines if s.strip())
    assert len({name.casefold() for name in names}) == len(names)


def test_all_duplicates_are_told_at_once_whatever_their_case_and_spaces(tmp_path: Path) -> None:
    error = faults(tmp_path, "Ann Lee\nBo\nann  lee\nZoe\u0308\nBO\nZoë\nANN LEE\nSolo\n")
    assert len(error.problems) == 3
    assert "lines 1, 3, 7" in str(error) and "lines 2, 5" in str(error)
    assert "lines 4, 6" in str(error) and "solo" not in str(error).lower()


@pytest.mark.parametrize(
    "odd", ["\x00", "\x1b", "\r", "\x0b", "\x85", "\u200b", "\u202e", "\u2028"]
)
def test_control_characters_are_refused_and_not_printed(tmp_path: Path, odd: str) -> None:
    error = faults(tmp_path, f"Ann\nBo{odd}Lee\n")
    assert "line 2" in str(error) and f"U+{ord(odd):04X}" in str(error)
    assert odd not in str(error)


def test_every_kind_of_mistake_comes_in_one_error(tmp_path: Path) -> None:
    error = faults(tmp_path, "Ann\nann\n" + "x" * (MAX_LINE + 1) + "\nB\x07o\n")
    assert len(error.problems) == 3
    for part in ("lines 1, 2", "line 3", f"{MAX_LINE + 1} characters", "line 4", "U+0007"):
        assert part in str(error)


def test_a_line_may_be_as_long_as_the_limit(tmp_path: Path) -> None:
    assert read_names(listed(tmp_path, "x" * MAX_LINE)) == ("x" * MAX_LINE,)


@pytest.mark.parametrize("content", ["", "\n \n", "# Ann\n  # Bo", "\ufeff"])
def test_a_list_without_a_name_is_refused(tmp_path: Path, content: str) -> None:
    assert "no name" in str(faults(tmp_path, content))


def test_what_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    assert "line 2 is not UTF-8" in str(faults(tmp_path, "Ann\nZoë".encode("latin-1")))
    assert "UTF-8" in str(faults(tmp_path, "Ann\nBo".encode("utf-16")))


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    for path, found in (
        (tmp_path / "none.txt", "no such file"),
        (tmp_path, "folder"),
        (Path("a\0b"), "read the names"),
    ):
        with pytest.raises(ConfigError, match=found):
            read_names(path)
    assert f"{MAX_BYTES:,}" in str(faults(tmp_path, b"#" * (MAX_BYTES + 1)))


def test_lists_with_a_name_in_common_are_refused_with_all_of_them() -> None:
    check_apart(["Ann", "Bo"], ["Cy"])
    check_apart([], [])
    with pytest.raises(ConfigError) as caught:
        check_apart(["Ann Lee", "Bo", "Cy", "Zoe\u0308"], ["CY", "ann  lee", "Dee", "Zoë"])
    assert "3 of them" in str(caught.value) and "'Bo'" not in str(caught.value)
    assert "'Ann Lee'" in str(caught.value) and "'Cy'" in str(caught.value)
