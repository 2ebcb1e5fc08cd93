"""Pictures in files, as everybody has them: one way to read them for all parts.

They come out upright, as RGB of 8 bits. What is transparent becomes white. Gray values of 16 bits
keep their brightness; those of other whole numbers and of floats are taken for 0 to 1 (floats),
0 to 255 or 0 to 65,535, the smallest that holds them, and else run from their darkest to their
brightest. EXIF and XMP are read for the way up alone, and where they are broken the picture is read
without them. Of several pictures in a file it is the first; color profiles are not applied.
"""

from __future__ import annotations

import io
import logging
import re
import struct
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, features
from torch import Tensor

from apl_core.metadata import printable

from .strip_metadata import without_notes

log = logging.getLogger("apl")

READING = 2
"""Goes up when a picture comes out otherwise than before, so that nothing old is kept of it."""

_ENDINGS = """
.png .apng .jpg .jpeg .jpe .jfif .mpo .webp .bmp .dib .tif .tiff .gif .avif .avifs .heic .heif .hif
.jp2 .j2k .jpx .jpf .jxl .tga .ppm .pgm .pbm .pnm .pfm .qoi .ico .psd .svg .exr .hdr .dng .cr2 .cr3
.nef .arw .raf .orf .rw2 .xcf .kra .pcx .sgi
"""
_PICTURES = frozenset(_ENDINGS.split())
_NEEDED = {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_IN_XMP = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)([1-8])")
_PHOTOMETRIC, _SAMPLES = 262, 339
_UNDER = 0.1  # how far sharpened floats fall below black
_BRIGHT = 16  # floats above this are no overexposed 0 to 1


class Unreadable(ValueError):
    """A file holds no picture that can be read; its text says why."""


def open_picture(path: Path) -> Image.Image:
    """A file's picture: RGB, upright, white where transparent; Unreadable if there is none."""
    try:
        return _opened(path)
    except Exception as error:  # Pillow lets any error of a broken note out, another each version
        why = error
    try:
        bare = without_notes(path.read_bytes())
        if bare is None or isinstance(why, Image.DecompressionBombError):
            raise why
        picture = _opened(io.BytesIO(bare))
    except Exception as error:
        raise Unreadable(printable(str(why) or type(why).__name__, 100)) from error
    log.warning("%s: its EXIF or XMP is broken and is not used", printable(str(path)))
    return picture


def read_picture(path: Path, size: int) -> Tensor:
    """A file's picture (3, size, size) in [0, 1], its middle square scaled; Unreadable."""
    try:
        picture = open_picture(path)
    except Unreadable as error:
        raise Unreadable(f"{printable(path.name)} is not a readable picture ({error})") from error
    return as_tensor(ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS))


def as_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(picture, np.float32) / 255).permute(2, 0, 1).contiguous()


def pictures_in(folder: Path) -> tuple[list[Path], str]:
    """(pictures below a folder that can be read, what is left out of it and why).

    Hidden files and texts are not spoken of.
    """
    found: list[Path] = []
    left: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for path in sorted(folder.rglob("*")):
        ending = path.suffix.lower()
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if ending == ".txt" or not path.is_file():
            continue
        if readable(ending):
            found.append(path)
        else:
            left[ending in _PICTURES][ending or "without an ending"] += 1
    reasons = {
        True: "this Pillow cannot read (save them as PNG or JPEG)",
        False: "are not pictures",
    }
    told = [
        ", ".join(f"{count} {printable(kind, 20)}" for kind, count in some.items())
        + f", which {reason}"
        for a_picture, reason in reasons.items()
        if (some := left[a_picture])
    ]
    return found, "; ".join(told)


def readable(ending: str) -> bool:
    """Whether files with this ending (".png") are pictures that the installed Pillow can read."""
    kind = Image.registered_extensions().get(ending, "") if ending in _PICTURES else ""
    if kind not in Image.OPEN:
        return False
    need, known = _NEEDED.get(kind), {*features.modules, *features.codecs}
    return need not in known or bool(features.check(need))  # not known: another package reads it


def _opened(file: Path | BinaryIO) -> Image.Image:
    with Image.open(file) as image:
        image.verify()  # Pillow decodes a PNG whose end is missing
    if not isinstance(file, Path):
        file.seek(0)
    with Image.open(file) as image:
        turn = None if image.format == "TIFF" else _turn(image)  # Pillow turns a TIFF in `load`
        image.load()
        picture = _rgb(image)
    return picture if turn is None else picture.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes a picture upright, by its EXIF or else its XMP."""
    info: Any = image.info
    exif, said = info.get("exif"), info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    try:
        if exif is None and (raw := info.get("Raw profile type exif")):
            exif = bytes.fromhex("".join(raw.split("\n")[3:]))
        if found := _in_exif(exif or b""):
            return _TURNS.get(found)
    except (struct.error, ValueError, TypeError, AttributeError):
        name = printable(str(getattr(image, "filename", "")) or "a picture")
        log.warning("%s: its EXIF is broken and is not used", name)
    said = said if isinstance(said, bytes) else str(said).encode("utf-8", "replace")
    match = _IN_XMP.search(said)
    return _TURNS.get(int(match[1])) if match else None


def _in_exif(exif: bytes) -> int:
    """The orientation in EXIF bytes, 0 if it does not say; struct.error or ValueError if broken."""
    data = exif.removeprefix(b"Exif\0\0")
    if not data:
        return 0
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise ValueError("no EXIF")
    (start,) = struct.unpack_from(f"{order}L", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, at)
        if tag == _ORIENTATION:
            form = {1: "B", 3: "H", 4: "L"}.get(kind)
            if form is None:
                raise ValueError("an orientation that is not a whole number")
            return struct.unpack_from(order + form, data, at + 8)[0]
    return 0


def _rgb(image: Image.Image) -> Image.Image:
    """RGB on white, whatever the mode."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _gray(image)
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB") or image
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:  # of 16 bits, where the pixels have 8
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.mode in ("RGBA", "LA", "PA") or clear is not None:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image.convert("RGB")


def _gray(image: Image.Image) -> Image.Image:
    """8 bits of gray values of more; with alpha if one value of them is transparent."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(_SAMPLES, (1,))[0] == 1:
        values = values.view(np.uint32)  # Pillow knows whole numbers with a sign only
    deep = image.mode.startswith("I;16") or (image.format in ("PNG", "PPM") and image.mode == "I")
    low, high = (0.0, 65535.0) if deep else _range(values.astype(np.float64))
    shades = np.nan_to_num(
        (values.astype(np.float64) - low) / (high - low), nan=0, posinf=1, neginf=0
    )
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero
        shades = 1 - shades
    gray = Image.fromarray(np.clip(np.rint(shades * 255), 0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        gray.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return gray


def _range(values: np.ndarray) -> tuple[float, float]:
    """The values that stand for black and white."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    whole = bool((finite == np.rint(finite)).all()) and high > 1
    if low < -_UNDER * max(high, 0.0) or high > 65535:
        return low, high if high > low else low + 1
    if not whole and high < _BRIGHT:
        return 0.0, 1.0  # brighter than white stays white
    return (0.0, 255.0) if 1 < high <= 255 else (0.0, 65535.0) if high > 255 else (0.0, 1.0)
