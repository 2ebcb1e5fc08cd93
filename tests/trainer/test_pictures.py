"""Pictures of every mode come out right, whoever reads them, and none is left out silently."""

import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from picture_files import RAMP, SIZE, chunk, png, read, tiff
from PIL import Image

from apl_core.errors import ConfigError
from apl_trainer import pictures
from apl_trainer.data import captioned_folder
from apl_trainer.data.plan import Amounts
from apl_trainer.evaluation.gallery import pictures_of_people


def is_ramp(found: np.ndarray, tolerance: float = 0.5 / 255 + 1e-6) -> bool:
    return bool((np.abs(found - RAMP[..., None]) <= tolerance).all())


@pytest.mark.parametrize("name", ["a.png", "a.tif", "be.tif"])
def test_gray_of_16_bits_keeps_its_brightness(tmp_path: Path, name: str) -> None:
    values = np.rint(RAMP * 65535).astype(np.uint16)
    if name == "a.png":
        (tmp_path / name).write_bytes(png(values[..., None], 16, 0))
    elif name == "a.tif":
        Image.fromarray(values).save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(tiff(values.astype(">u2"), {258: 16, 339: 1}, ">"))
    assert is_ramp(read(tmp_path / name))


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (1.0, "<f4"),
        (255.0, "<f4"),
        (65535.0, "<f4"),
        (254.5, "<f4"),
        (255, "<i4"),
        (65535, "<i4"),
        (2**31 - 1, "<i4"),
        (2**32 - 1, "<u4"),
    ],
)
def test_floats_and_long_numbers_are_neither_black_nor_white(
    tmp_path: Path, scale: float, dtype: str
) -> None:
    values = RAMP * scale
    values = (values if "f" in dtype else np.rint(values)).astype(dtype)
    kinds = {"f": 3, "i": 2, "u": 1}
    (tmp_path / "a.tif").write_bytes(tiff(values, {258: 32, 339: kinds[dtype[1]]}))
    assert is_ramp(read(tmp_path / "a.tif"), 1.01 / 255)


def test_floats_out_of_range_are_cut_or_stretched(tmp_path: Path) -> None:
    for values, expected in (
        (RAMP * 1.5, np.clip(RAMP * 1.5, 0, 1)),  # brighter than white
        (RAMP * 1.06 - 0.03, np.clip(RAMP * 1.06 - 0.03, 0, 1)),  # sharpened
        (RAMP * 2 - 1, RAMP),
        (RAMP * 3e6, RAMP),
        (RAMP * 0, RAMP * 0),
        (np.where(RAMP > 0.5, np.nan, 1.0), np.where(RAMP > 0.5, 0.0, 1.0)),
    ):
        (tmp_path / "a.tif").write_bytes(tiff(values.astype("<f4"), {258: 32, 339: 3}))
        assert np.abs(read(tmp_path / "a.tif") - expected[..., None]).max() <= 1.01 / 255


def test_white_may_be_zero(tmp_path: Path) -> None:
    for values, depth in ((65535 * (1 - RAMP), "<u2"), (255 * (1 - RAMP), "<u1")):
        bits = 8 * int(depth[2])
        raw = tiff(np.rint(values).astype(depth), {258: bits, 262: 0})
        (tmp_path / "a.tif").write_bytes(raw)
        assert is_ramp(read(tmp_path / "a.tif"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_what_is_transparent_is_white_and_half_is_half(tmp_path: Path, mode: str) -> None:
    """Whatever color lies hidden below it."""
    if mode in ("RGBA", "LA"):
        picture = Image.new(mode, (SIZE, SIZE), {"RGBA": (255, 0, 0, 0), "LA": (0, 0)}[mode])
        picture.putpixel((0, 0), {"RGBA": (0, 0, 0, 128), "LA": (0, 128)}[mode])
        for name in ("a.png", "a.tif", "a.webp"):
            if mode == "RGBA" or name == "a.png":
                picture.save(tmp_path / name, **({"lossless": True} if "webp" in name else {}))
                found = read(tmp_path / name)
                assert (found[1:] == 1).all()
                assert np.allclose(found[0, 0], 127 / 255, atol=1e-6)
        return
    made = Image.new("RGBA", (2, 1), (0, 0, 0, 0)).convert({"PA": "RGBA"}.get(mode, "RGBa"))
    if mode == "PA":
        made = Image.new("PA", (2, 1))
    elif mode == "La":
        made = Image.new("LA", (2, 1), (0, 0)).convert("La")
    assert np.asarray(pictures._rgb(made)).min() == 255  # pyright: ignore[reportPrivateUsage]


def test_one_transparent_color(tmp_path: Path) -> None:
    flat = np.full((SIZE, SIZE, 1), 7)
    flat[0] = 200
    file, clear = tmp_path / "a.png", (0, 7)
    palette = chunk(b"PLTE", bytes([9, 9, 9] * 7 + [255, 0, 0]) + bytes([9, 9, 9] * 248))
    for depth, color, more in (
        (8, 0, [chunk(b"tRNS", struct.pack(">H", 7))]),
        (16, 0, [chunk(b"tRNS", struct.pack(">H", 7))]),
        (8, 3, [palette, chunk(b"tRNS", bytes([255] * 7 + [0]))]),
    ):
        file.write_bytes(png(flat, depth, color, *more))
        found = read(file)
        assert (found[1:] == 1).all() and (found[0] < 0.8).all(), (depth, color, clear)
    rgb = np.repeat(flat, 3, 2)
    file.write_bytes(png(rgb, 8, 2, chunk(b"tRNS", struct.pack(">HHH", 7, 7, 7))))
    assert (read(file)[1:] == 1).all()
    file.write_bytes(png(rgb * 256, 16, 2, chunk(b"tRNS", struct.pack(">HHH", *[7 * 256] * 3))))
    assert (read(file)[1:] == 1).all()
    picture = Image.new("P", (SIZE, SIZE), 3)
    picture.putpalette([0, 0, 0] * 3 + [255, 0, 0] + [0, 0, 0] * 252)
    picture.save(tmp_path / "a.gif", transparency=3)
    assert (read(tmp_path / "a.gif") == 1).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"])
def test_other_modes_show_the_same_picture(tmp_path: Path, mode: str) -> None:
    colors = np.zeros((SIZE, SIZE, 3), np.uint8)
    colors[: SIZE // 2] = 255
    picture = Image.fromarray(colors)
    if mode == "LAB":
        lab = np.zeros((SIZE, SIZE, 3), np.uint8)
        lab[: SIZE // 2, :, 0] = 255
        made = Image.frombytes("LAB", (SIZE, SIZE), lab.tobytes())
    else:
        made = picture.convert(mode)
    ways = {"1": "png tif bmp", "L": "jpg png webp", "P": "png gif", "RGB": "png jfif bmp webp tga"}
    for ending in ways.get(mode, "jpg" if mode in ("CMYK", "YCbCr") else "tif").split():
        if mode in ("HSV", "RGBX"):
            found = np.asarray(pictures._rgb(made))[..., 0] / 255  # pyright: ignore
        else:
            made.save(tmp_path / f"a.{ending}", **({"format": "JPEG"} if ending == "jfif" else {}))
            found = read(tmp_path / f"a.{ending}")[..., 0]
        assert np.abs(found - colors[..., 0] / 255).max() < 0.03, ending


def given(place: Path, *names: str) -> None:
    for name in names:
        kind = {".jfif": "JPEG", ".tif": "TIFF"}.get(Path(name).suffix)
        Image.new("RGB", (8, 8)).save(place / name, kind)
        (place / name).with_suffix(".txt").write_text("a red car", encoding="utf-8")


def test_general_pictures_of_every_kind_are_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a.jfif", "b.tif", "c.gif", "d.JPEG", "e.jpe", "f.tga", "g.bmp"]
    names += ["h.avif"] if pictures.readable(".avif") else []
    given(tmp_path, *[name for name in names if name != "d.JPEG"])
    given(tmp_path, "d.jpeg")
    (tmp_path / "d.jpeg").rename(tmp_path / "d.JPEG")
    tasks = captioned_folder.given_tasks(tmp_path, Amounts(), 0, [])
    assert sorted(task.label for task in tasks) == sorted(names)
    assert not caplog.messages


def test_what_is_left_out_is_named_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given(tmp_path, "a.png")
    for name in ("b.heic", "c.HEIC", "d.jxl", "e.mp4", "noending", ".DS_Store", "._a.png"):
        (tmp_path / name).write_bytes(b"?")
    if pictures.readable(".heic"):
        pytest.skip("this Pillow reads HEIC")
    assert [task.label for task in captioned_folder.given_tasks(tmp_path, Amounts(), 0, [])] == [
        "a.png"
    ]
    assert len(caplog.messages) == 1
    for said in (
        "2 .heic",
        "1 .jxl",
        "cannot read (save them as PNG or JPEG)",
        "1 .mp4",
        "1 without an ending",
        "are not pictures",
    ):
        assert said in caplog.messages[0]
    assert "DS_Store" not in caplog.messages[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(ConfigError, match="there is no picture in it but 2 "):
        captioned_folder.given_tasks(tmp_path, Amounts(), 0, [])
    given(tmp_path, "a.png")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert pictures_of_people(tmp_path, ["A"]) == [("A", tmp_path / "a.png")]
    assert "2 .heic" in caplog.messages[0]
