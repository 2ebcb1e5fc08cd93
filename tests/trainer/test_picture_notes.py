"""Which way up a picture is, and broken EXIF and XMP: the picture is read without them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import (
    BACK,
    CORNERS,
    READERS,
    SAYS_6,
    SIZE,
    chunk,
    entry,
    exif,
    jpeg,
    png,
    stored,
    tiff,
    upright,
    without_jfif,
)
from PIL import Image, TiffImagePlugin, features

from apl_trainer import pictures
from apl_trainer.strip_metadata import without_notes


@pytest.mark.parametrize("orientation", BACK)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "jfif"])
def test_pictures_are_upright(tmp_path: Path, ending: str, orientation: int) -> None:
    path = tmp_path / f"a.{ending}"
    note = exif(entry(0x112, 3, 1, orientation))
    kind = {"jfif": "JPEG", "jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper())
    more: dict[str, Any] = {"exif": note}
    if kind == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[0x112] = orientation
        more = {"tiffinfo": tags}
    stored(orientation).save(path, kind, **more)
    assert upright(path)
    if ending == "png":
        raw = f"\nexif\n{len(note):8}\n{note.hex()}\n"
        body = chunk(b"tEXt", b"Raw profile type exif\0" + raw.encode())
        path.write_bytes(png(np.asarray(stored(orientation)), 8, 2, body))
        assert upright(path)
        xmp = f'<x:xmpmeta><rdf tiff:Orientation="{orientation}"/></x:xmpmeta>'
        body = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp.encode())
        path.write_bytes(png(np.asarray(stored(orientation)), 8, 2, body))
        assert upright(path)


def big_endian() -> bytes:
    return exif(entry(0x112, 3, 1, 6, ">"), order=">")


SOUND_TURNS = {
    "a broken tag before": exif(entry(0x10F, 2, 90, 0xFFFFFF), SAYS_6),
    "a broken tag behind": exif(SAYS_6, entry(0x131, 2, 900, 0xFFFFFF)),
    "a value that is no text": exif(SAYS_6, entry(0x132, 7, 3, 0xFFFFFFFF)),
    "an unknown type": exif(SAYS_6, entry(0x132, 77, 1, 0)),
    "a broken EXIF directory": exif(SAYS_6, entry(0x8769, 4, 1, 0xFFFFFF)),
    "a directory of itself": exif(SAYS_6, entry(0x8769, 4, 1, 8)),
    "a directory that is text": exif(SAYS_6, entry(0x8769, 2, 4, 0x41414141)),
    "a broken GPS directory": exif(SAYS_6, entry(0x8825, 5, 1, 0xFFFFFF)),
    "a resolution that is text": exif(
        SAYS_6, entry(0x11A, 2, 4, 0x41414141), entry(0x128, 2, 1, 65)
    ),
    "a resolution by zero": exif(SAYS_6, entry(0x11A, 5, 1, 8), entry(0x128, 3, 1, 2)),
    "too many entries": exif(SAYS_6, count=60000),
    "numbers that are none": exif(SAYS_6, entry(0x11A, 12, 1, 0xFFFFFF), entry(0x10E, 11, 9, 1)),
    "from a Mac": big_endian(),
    "a long": exif(entry(0x112, 4, 1, 6)),
}
NO_TURNS = {
    "nothing": b"",
    "no EXIF at all": b"Exif\0\0garbage and more of it",
    "cut off": exif(SAYS_6)[:14],
    "only a head": b"Exif\0\0II*\0",
    "a far offset": b"Exif\0\0II*\0\xff\xff\xff\xff",
    "an orientation of 9": exif(entry(0x112, 3, 1, 9)),
    "an orientation of 0": exif(entry(0x112, 3, 1, 0)),
    "an orientation in text": exif(entry(0x112, 2, 2, 0x36)),
    "an orientation as a fraction": exif(entry(0x112, 5, 1, 8)),
    "a double orientation": exif(entry(0x112, 12, 1, 0xFFFFFF)),
    "zeros": b"Exif\0\0" + bytes(40),
}
BAD_XMP = {
    "no UTF-8": b"http://ns.adobe.com/xap/1.0/\0<x \xff\xfe\xc3 tiff:Make='\x80'/>",
    "no XML": b"http://ns.adobe.com/xap/1.0/\0<<<<&&& tiff:Orientation=",
    "empty": b"http://ns.adobe.com/xap/1.0/\0",
    "zeros": b"http://ns.adobe.com/xap/1.0/\0" + bytes(30),
}


@pytest.mark.parametrize("what", SOUND_TURNS)
def test_the_way_up_is_known_though_other_tags_are_broken(tmp_path: Path, what: str) -> None:
    note, path = SOUND_TURNS[what], tmp_path / "a.jpg"
    for raw in (
        jpeg(stored(6), note),
        without_jfif(jpeg(stored(6), note)),
        jpeg(stored(6), note, BAD_XMP["no UTF-8"]),
    ):
        path.write_bytes(raw)
        assert upright(path)
    path = tmp_path / "a.png"
    path.write_bytes(png(np.asarray(stored(6)), 8, 2, chunk(b"eXIf", note[6:])))
    assert upright(path)


@pytest.mark.parametrize("what", NO_TURNS)
def test_a_broken_note_is_passed_over(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    note, path = NO_TURNS[what], tmp_path / "a.jpg"
    for raw in (jpeg(stored(1), note), without_jfif(jpeg(stored(1), note))):
        path.write_bytes(raw)
        assert upright(path)
    path = tmp_path / "a.png"
    for more in (
        chunk(b"eXIf", note[6:]),
        chunk(b"eXIf", note, crc=1),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  8\nno hex"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + note),
        chunk(b"zTXt", b"Raw profile type exif\0\0no zlib"),
    ):
        path.write_bytes(png(np.asarray(stored(1)), 8, 2, more))
        assert upright(path)
    if what in ("cut off", "only a head", "a far offset", "an orientation in text"):
        assert any("a.jpg" in line and "EXIF" in line for line in caplog.messages)


@pytest.mark.parametrize("what", BAD_XMP)
def test_bad_xmp_hides_neither_picture_nor_way_up(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.jpg"
    for raw in (
        jpeg(stored(1), BAD_XMP[what]),
        jpeg(stored(6), BAD_XMP[what], exif(SAYS_6)),
        jpeg(stored(6), exif(SAYS_6), BAD_XMP[what]),
    ):
        path.write_bytes(raw)
        assert upright(path)
    for number, note in ((1, b""), (6, exif(SAYS_6))):
        stored(number).save(tmp_path / "a.webp", lossless=True, xmp=BAD_XMP[what][29:], exif=note)
        assert upright(tmp_path / "a.webp")


@pytest.mark.parametrize(
    "tags",
    [
        {0x8769: (4, 1, b"\xff\xff\xff\0")},
        {0x8825: (4, 1, b"\x08\0\0\0")},
        {0x8769: (2, 4, b"abc\0")},
        {700: (1, 4, b"\xff\xfe\xc3\x80")},
        {0xA005: (4, 1, b"\xff\xff\xff\xff")},
        {33723: (4, 900, b"\xff\xff\xff\0")},
        {0x10F: (2, 900, b"\xff\xff\xff\0")},
        {0x132: (12, 1, b"\xff\xff\xff\0")},
        {700: (7, 900, b"\xff\xff\xff\0")},
    ],
)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_broken_tags_of_a_tiff_are_passed_over(
    tmp_path: Path, tags: dict[int, Any], orientation: int
) -> None:
    values = np.asarray(stored(orientation).convert("L"))
    (tmp_path / "a.tif").write_bytes(tiff(values, {258: 8, 274: orientation} | tags))
    for reader in READERS:
        found = reader(tmp_path / "a.tif", 2 * SIZE).permute(1, 2, 0).numpy() * 255
        gray = np.asarray(Image.fromarray(CORNERS).convert("L"))
        assert np.abs(found - gray[..., None]).max() <= 1


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_files_without_notes_show_the_same_pixels(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper())
    for picture in (Image.fromarray(CORNERS), Image.fromarray(CORNERS).convert("CMYK")):
        if picture.mode == "CMYK" and ending not in ("jpg", "tif"):
            continue
        more = {"exif": exif(SAYS_6), "xmp": b"<x/>"} if ending == "webp" else {}
        picture.save(path, kind, **more)
        bare = without_notes(path.read_bytes())
        assert bare is not None
        with Image.open(path) as one, Image.open(io.BytesIO(bare)) as other:
            assert one.mode == other.mode and one.tobytes() == other.tobytes()
            assert "exif" not in other.info
    for cut in range(0, len(path.read_bytes()), 7):
        without_notes(path.read_bytes()[:cut])  # never a traceback
    assert without_notes(b"no picture") is None


def test_broken_pictures_are_refused_in_words(tmp_path: Path) -> None:
    whole = jpeg(stored(1), exif(SAYS_6))
    small = io.BytesIO()
    Image.new("RGB", (9, 7)).save(small, "PNG")
    cut = small.getvalue()[:50]
    noted = cut[:33] + chunk(b"eXIf", b"no EXIF", crc=1) + cut[33:]
    for name, raw in (
        ("a.jpg", whole[:400]),
        ("a.png", b"no picture"),
        ("b.png", cut),
        ("c.png", noted),
        ("a.gif", b"GIF89a"),
        ("a.webp", b"RIFF\x10\0\0\0WEBPVP8X"),
        ("a.tif", b"II*\0\x08\0\0\0"),
    ):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(pictures.Unreadable, match=f"{name} is not a readable picture"):
            pictures.read_picture(tmp_path / name, SIZE)


def test_avif_is_read_where_pillow_can(tmp_path: Path) -> None:
    if "avif" not in features.modules or not features.check("avif"):
        assert not pictures.readable(".avif")
        pytest.skip("this Pillow has no AVIF")
    Image.fromarray(CORNERS).save(tmp_path / "a.avif", quality=100, subsampling="4:4:4")
    assert upright(tmp_path / "a.avif")
