"""Names lead to files under the roots and nowhere else."""

import contextlib
import os
import random
from pathlib import Path

import pytest
import torch

from apl_core.errors import LibraryError, PrefixFileError
from apl_core.formats import write_prefix
from apl_core.library import MAX_DEPTH, Library
from apl_core.prefix import Prefix


def put(path: Path, fill: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_prefix(Prefix({"pocket": torch.full((1, 128), float(fill))}), path)
    return path


def link(place: Path, target: Path) -> None:
    try:
        place.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("this system makes no links")


def test_names_folders_and_roots(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    put(first / "a.safetensors", 1)
    put(second / "a.safetensors", 2)
    put(second / "people" / "Wärme 10.v2.safetensors", 3)
    put(second / "/".join("abcd") / "deep.safetensors")
    put(second / "/".join("abcde") / "too deep.safetensors")
    (second / "note.txt").write_text("x")
    library = Library([first, tmp_path / "missing", second])
    assert library.names() == ["a", "a/b/c/d/deep", "people/Wärme 10.v2"]
    assert len(["a", "b", "c", "d"]) == MAX_DEPTH
    assert library.load("a").vectors["pocket"][0, 0] == 1
    assert (
        library.resolve("people/Wärme 10.v2")
        == (second / "people" / "Wärme 10.v2.safetensors").resolve()
    )


def test_every_listed_name_resolves_and_every_other_is_not_listed(tmp_path: Path) -> None:
    for name in ("ok", "con", "nul.x", "ends.", "bell\x07", "\ufb01ne", "a:b", "ba\\ck", " space"):
        with contextlib.suppress(PrefixFileError, OSError):  # some systems refuse such a name
            put(tmp_path / f"{name}.safetensors")
    library = Library([tmp_path])
    assert library.names() == ["ok"]
    assert library.resolve("ok").is_file()


def test_an_unknown_name_offers_the_nearest(tmp_path: Path) -> None:
    put(tmp_path / "anyone_sd15.safetensors")
    library = Library([tmp_path])
    for name in ("anyone_sd1.5", "anyone_sd15.safetensors", "Anyone-SD15"):
        if name == "Anyone-SD15" and (tmp_path / "ANYONE_SD15.safetensors").exists():
            continue
        with pytest.raises(LibraryError, match="anyone_sd15'"):
            library.resolve(name)
    with pytest.raises(LibraryError, match="train one"):
        Library([tmp_path / "none"]).resolve("x")
    with pytest.raises(LibraryError, match="no folder at all"):
        Library([]).load("x")


ATTACKS = [
    *("", ".", "..", "/", "//", "a/", "/a", "a//b", "../secret", "in/../../secret", "in/./a"),
    *("..\\secret", "in\\a", "C:secret", "C:/secret", "c:\\secret", "//server/share/secret"),
    *("\\\\?\\C:\\secret", "a\0", "a\0/../../secret", "a\n", "a\x7f", "a\u202e", "a\u200b"),
    *(
        "\u2024\u2024/secret",
        "\u2025/secret",
        "\uff0e\uff0e/secret",
        "in\uff0fa",
        "in\u2215a/../secret",
        "\u2100",
        "\ufb01",
        "e\u0301",
    ),
    *("con", "CON", "Nul.txt", "in/aux", "com1", "LPT9.x", "COM\u00b9", "conin$", "a.", "a ", " a"),
    *("in/a.", "in./a", "~", "~root/secret", "file:///secret", "http://x/secret", "a*", "a?"),
    *(
        "x" * 10_000,
        "/".join("a" * 60),
        "a|b",
        'a"b',
        "<a>",
        "\ud800",
        "\u2026",
        "a:stream",
        "%2e%2e/secret",
    ),
]


@pytest.fixture
def guarded(tmp_path: Path) -> tuple[Library, Path]:
    root = tmp_path / "root"
    put(root / "a.safetensors")
    put(root / "in" / "a.safetensors")
    put(tmp_path / "secret.safetensors")
    put(tmp_path / "outside" / "secret.safetensors")
    return Library([root]), root


@pytest.mark.parametrize("name", ATTACKS, ids=ascii)
def test_attacks_are_refused(guarded: tuple[Library, Path], name: str) -> None:
    with pytest.raises(LibraryError) as caught:
        guarded[0].load(name)
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


def test_ten_thousand_tries_stay_inside(guarded: tuple[Library, Path]) -> None:
    library, root = guarded
    with contextlib.suppress(OSError):  # where the system makes links, some lead out
        (root / "away").symlink_to(root.parent / "outside", target_is_directory=True)
        (root / "bad.safetensors").symlink_to(root.parent / "secret.safetensors")
        (root / "in" / "up").symlink_to(root.parent, target_is_directory=True)
    pieces = [
        *("away", "away/", "bad", "up/", "in/up/", "D:", "\\\\?\\", "//server/"),
        *("\u2025", "\u2215"),
        *("\u0430", "\uff41", "a\u0300", "\u200d", "file://", "secret.safetensors", "in/"),
        "..",
        ".",
        "/",
        "\\",
        "a",
        "in",
        "secret",
        "outside",
        "C:",
        "\0",
        "\u2024",
        "\uff0f",
        "~",
        " ",
    ]
    pieces += ["con", "\u202e", "%2e", "//", "../", ".safetensors", str(root.parent), "a/../"]
    rng = random.Random(7)
    inside = {"a", "in/a"}
    for _ in range(10_000):
        name = "".join(rng.choices(pieces, k=rng.randrange(1, 7)))
        try:
            found = library.resolve(name)
        except LibraryError:
            assert name not in inside
        else:
            assert name in inside and found.is_relative_to(root.resolve())


def test_links_stay_inside(guarded: tuple[Library, Path], tmp_path: Path) -> None:
    library, root = guarded
    link(root / "good.safetensors", root / "in" / "a.safetensors")
    link(root / "bad.safetensors", tmp_path / "secret.safetensors")
    link(root / "away", tmp_path / "outside")
    link(root / "loop.safetensors", root / "loop.safetensors")
    link(root / "gone.safetensors", root / "nothing")
    assert library.names() == ["a", "good", "in/a"]
    assert library.resolve("good") == (root / "in" / "a.safetensors").resolve()
    for name in ("bad", "away/secret", "loop", "gone"):
        with pytest.raises(LibraryError):
            library.resolve(name)


def test_a_root_may_be_a_link_itself(guarded: tuple[Library, Path], tmp_path: Path) -> None:
    link(tmp_path / "models", guarded[1])
    library = Library([tmp_path / "models"])
    assert library.names() == ["a", "in/a"] and library.load("in/a").n == 1


def test_a_folder_with_a_file_name_is_no_prefix(guarded: tuple[Library, Path]) -> None:
    os.mkdir(guarded[1] / "dir.safetensors")
    assert "dir" not in guarded[0].names()
    with pytest.raises(LibraryError):
        guarded[0].resolve("dir")
