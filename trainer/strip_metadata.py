"""The pixels of a picture's file without what it says about itself (EXIF, XMP, comments).

For files that Pillow refuses because of a broken side note: which one it stumbles over differs from
version to version.
"""

from __future__ import annotations

import struct

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_WEBP_LEFT = (b"EXIF", b"XMP ", b"ICCP")
_WEBP_FLAGS = 0x2C  # that these three are there
_JPEG_LEFT = (*range(0xE1, 0xEE), 0xEF, 0xFE)  # APP0 (JFIF) and APP14 (Adobe) say what colors mean
_JPEG_BARE = (0x01, *range(0xD0, 0xD9))
_SOS = 0xDA
_TIFF_KEPT = {
    *range(254, 267),
    273,
    274,
    277,
    278,
    279,
    284,
    292,
    293,
    317,
    *range(320, 326),
    332,
    338,
    339,
    340,
    341,
    347,
    *range(529, 533),
    32997,
    32998,
}


def without_notes(data: bytes) -> bytes | None:
    """The file without its notes; None if it is of no kind that is known here, or is cut off."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(_PNG):
            return _png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data, "<" if data[:2] == b"II" else ">")
    except (struct.error, IndexError):
        return None
    return None


def _jpeg(data: bytes) -> bytes:
    kept, at = [data[:2]], 2
    while True:
        while data[at] != 0xFF:  # some programs leave bytes between segments
            at += 1
        while data[at + 1] == 0xFF:
            at += 1
        kind = data[at + 1]
        if kind == _SOS:
            return b"".join([*kept, data[at:]])
        size = 0 if kind in _JPEG_BARE else struct.unpack_from(">H", data, at + 2)[0]
        if kind not in _JPEG_LEFT:
            kept.append(data[at : at + 2 + size])
        at += 2 + size


def _png(data: bytes) -> bytes:
    kept, at = [_PNG], len(_PNG)
    while at < len(data):
        size, kind = struct.unpack_from(">L4s", data, at)
        if kind in _PNG_KEPT:
            kept.append(data[at : at + 12 + size])
        at += 12 + size
    return b"".join(kept)


def _webp(data: bytes) -> bytes:
    kept, at = [b"WEBP"], 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sL", data, at)
        chunk = data[at : at + 8 + size + size % 2]
        if kind == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~_WEBP_FLAGS]) + chunk[9:]
        if kind not in _WEBP_LEFT:
            kept.append(chunk)
        at += 8 + size + size % 2
    body = b"".join(kept)
    return b"RIFF" + struct.pack("<L", len(body)) + body


def _tiff(data: bytes, order: str) -> bytes:
    """With the first picture's own entries alone: those of its directory move together."""
    (start,) = struct.unpack_from(f"{order}L", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries = [data[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12)]
    kept = [one for one in entries if struct.unpack_from(f"{order}H", one)[0] in _TIFF_KEPT]
    head = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:start] + head + data[start + len(head) :]
