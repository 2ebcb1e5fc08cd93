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
    assert library.names() == ["ok", "\ufb01ne"]
    assert library.resolve("ok").is_file()


def test_an_unknown_name_offers_the_nearest(tmp_path: Path) -> None:
    put(tmp_path / "anyone_sd15.safetensors")
    library = Library([tmp_path])
    for name in ("anyone_sd1.5", "anyone_sd15.safetensors", "Anyone-SD15"):
        if name == "Anyone-SD15" and (tmp_path / "ANYONE_SD15.safetensors").exists():
            continue
        with pytest.raises(LibraryError, match=r"did you mean .anyone_sd15.\? If not, put its"):
            library.resolve(name)
    for name in ("", "x"):
        with pytest.raises(LibraryError, match=r"no prefix yet.*learn one with `apl train`"):
            Library([tmp_path / "none"]).resolve(name)
    with pytest.raises(LibraryError, match=r"no name is given.*'anyone_sd15'"):
        library.resolve("")
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


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
ROCKET = "\U0001f469\u200d\U0001f680"
NEW_EMOJI = "\U0001fac6 \U0001fae9"


@pytest.mark.parametrize(
    ("real", "asked"),
    [
        (DECOMPOSED, COMPOSED),
        (COMPOSED, DECOMPOSED),
        ("\uac00\ub098", "\u1100\u1161\u1102\u1161"),
        ("\ufb01ne \u2460", "fine 1"),
        ("\uff21\uff30\uff2c\uff11", "APL1"),
        ("\uff21\uff30\uff2c\uff1a\uff11", "\uff21\uff30\uff2c\uff1a\uff11"),
        ("A\u00a0B", "A B"),
        (ROCKET, ROCKET.replace("\u200d", "")),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",) * 2,
        (NEW_EMOJI, NEW_EMOJI),
        ("\u2764\ufe0f", "\u2764"),
        ("wait\u2026", "wait\u2026"),
        ("in/" + DECOMPOSED + "/x", "in/" + COMPOSED + "/x"),
        ("\u00bd", "1\u20442"),
    ],
    ids=ascii,
)
def test_odd_names_are_listed_as_they_are_and_found_as_they_are_written(
    tmp_path: Path, real: str, asked: str
) -> None:
    put(tmp_path / f"{real}.safetensors", 3)
    library = Library([tmp_path])
    assert library.names() == [real] and library.left_out() == []
    for name in {real, asked}:
        assert library.load(name).vectors["pocket"][0, 0] == 3


def test_look_alikes_are_never_mixed_up(tmp_path: Path) -> None:
    put(tmp_path / f"{COMPOSED}.safetensors", 1)
    put(tmp_path / f"{DECOMPOSED}.safetensors", 2)
    put(tmp_path / "fine.safetensors", 3)
    put(tmp_path / "\ufb01ne.safetensors", 4)
    put(tmp_path / "\u2460 x.safetensors", 5)
    put(tmp_path / "\u2460\u200d x.safetensors", 6)
    library = Library([tmp_path])
    if len(library.names()) < 6:
        pytest.skip("this system takes two spellings for one name")
    for name, fill in ((COMPOSED, 1), (DECOMPOSED, 2), ("fine", 3), ("\ufb01ne", 4)):
        assert library.load(name).vectors["pocket"][0, 0] == fill
    with pytest.raises(LibraryError, match="2 files have a name that is written like that") as told:
        library.resolve("1 x")
    assert ascii("\u2460 x") in told.value.found
    for odd in ("f\u200dine", "\uff46ine", f"{COMPOSED}\u200d"):  # no file's name, nor plain
        with pytest.raises(LibraryError, match="did you mean"):
            library.resolve(odd)


def test_a_spelling_in_an_earlier_folder_is_no_match_before_the_exact_name(tmp_path: Path) -> None:
    put(tmp_path / "1" / f"{DECOMPOSED}.safetensors", 1)
    put(tmp_path / "2" / f"{COMPOSED}.safetensors", 2)
    library = Library([tmp_path / "1", tmp_path / "2"])
    assert library.load(DECOMPOSED).vectors["pocket"][0, 0] == 1
    if not (tmp_path / "1" / f"{COMPOSED}.safetensors").exists():
        assert library.load(COMPOSED).vectors["pocket"][0, 0] == 2


def test_the_suffix_may_be_written_in_capitals(tmp_path: Path) -> None:
    put(tmp_path / "x.SAFETENSORS", 1)
    put(tmp_path / "2" / "x.safetensors", 2)
    put(tmp_path / "y.safetensors", 3)
    library = Library([tmp_path, tmp_path / "2"])
    assert library.names() == ["2/x", "x", "y"]
    assert library.load("x").vectors["pocket"][0, 0] == 1
    put(tmp_path / "y.Safetensors", 4)
    if (tmp_path / "Y.safetensors").exists():
        return  # this system has one file for both
    assert library.load("y").vectors["pocket"][0, 0] == 3
    assert [name for name, _ in library.left_out()] == ["x.safetensors", "y.Safetensors"]
    assert all("rename one of them" in why for _, why in library.left_out())


LEFT_OUT = {
    "a:b.safetensors": "holds ':'",
    "bell\x07.safetensors": r"holds '\x07'",
    "rtl\u202e.safetensors": r"holds '\u202e'",
    "zero\u200bwidth.safetensors": r"holds '\u200b'",
    "own\ue000.safetensors": r"holds '\ue000'",
    "none\uffff.safetensors": r"holds '\uffff'",
    "tag\U000e0001.safetensors": "which no prefix name may have",
    " space.safetensors": "a space or a dot at an end",
    "dot..safetensors": "a space or a dot at an end",
    "nul.x.safetensors": "device name",
    "com\u00b9.safetensors": "device name",
    "in\uff0fa.safetensors": "look like those of a path",
    "\u2025.safetensors": "look like those of a path",
    "\u200d.safetensors": "nobody sees",
    ".safetensors": "1 to 400 characters",
    "old.pt": "apl convert",
    "old.BIN": "apl convert",
    "1/2/3/4/5/": "more than 4 deep",
}


@pytest.mark.parametrize("file", LEFT_OUT, ids=ascii)
def test_what_is_left_out_is_named_with_the_reason(tmp_path: Path, file: str) -> None:
    put(tmp_path / "ok.safetensors")
    try:
        put(tmp_path / file / "x.safetensors" if file.endswith("/") else tmp_path / file)
    except (PrefixFileError, OSError):
        pytest.skip("this system refuses such a name")
    told: list[str] = []
    library = Library([tmp_path], tell=told.append)
    assert library.names() == ["ok"]
    ((name, why),) = library.left_out()
    assert name == file and LEFT_OUT[file] in why
    assert library.names() == Library([tmp_path], tell=told.append).names()
    assert len(told) == 1 and why in told[0] and told[0].isprintable()
    with pytest.raises(LibraryError) as caught:
        library.resolve(os.path.splitext(file.rstrip("/"))[0])
    assert LEFT_OUT[file] in caught.value.found or "deep" in why
    with pytest.raises(LibraryError) as caught:
        library.resolve("absent")
    assert why in caught.value.found and str(caught.value).isprintable()


def test_links_that_are_left_out_are_named(guarded: tuple[Library, Path], tmp_path: Path) -> None:
    library, root = guarded
    link(root / "bad.safetensors", tmp_path / "secret.safetensors")
    link(root / "away", tmp_path / "outside")
    link(root / "loop.safetensors", root / "loop.safetensors")
    link(root / "gone.safetensors", root / "nothing")
    reasons = {"away/": "links to folders", "bad": "outside", "gone": "nowhere", "loop": "nowhere"}
    left_out = library.left_out()
    assert [name.removesuffix(".safetensors") for name, _ in left_out] == sorted(reasons)
    for name, why in left_out:
        assert reasons[name.removesuffix(".safetensors")] in why
    for name in ("bad", "gone", "loop"):
        with pytest.raises(LibraryError, match=reasons[name]):
            library.resolve(name)
    if hasattr(os, "mkfifo"):
        os.mkfifo(root / "pipe.safetensors")
        assert ("pipe.safetensors", "it is not a regular file") in library.left_out()


def test_errors_do_not_say_where_the_folders_lie(tmp_path: Path) -> None:
    root = tmp_path / "models" / "apl"
    put(root / "a.safetensors")
    (root / "broken.safetensors").write_bytes(b"no prefix")
    for roots in ([root], [tmp_path / "empty"], [root, tmp_path / "empty"]):
        for name in ("", "absent", "broken", "a/../b", "a.safetensors"):
            with pytest.raises((LibraryError, PrefixFileError)) as caught:
                Library(roots).load(name)
            assert (
                str(tmp_path) not in str(caught.value) and tmp_path.name not in caught.value.asked
            )
    with pytest.raises(LibraryError, match="there is none in models/apl"):
        Library([root]).load("absent")
    with pytest.raises(PrefixFileError, match=r"read the prefix file broken\.safetensors"):
        Library([root]).load("broken")
