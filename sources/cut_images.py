"""Find images that are cut off: downloads that broke off without an error.

A file is called cut off only if its own structure proves it. Bytes after the end of an image are allowed: phones append
to their photos. The end of a TIFF cannot be found without decoding it.
"""

from __future__ import annotations

import re
from functools import partial

END_OF_IMAGE, START_OF_SCAN, END = b"\xd9", b"\xda", b"\xff\xd9"  # markers of a JPEG (ITU T.81, B.1.1.3)
LACKS_END, LACKS_PIXELS = "no end marker", "no pixels"
APPLICATIONS = (b"JFIF\0", b"JFXX\0", b"Exif\0", b"ICC_PROFILE\0", b"http://ns.adobe.com/", b"Adobe", b"MPF\0")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Boxes that follow the first one of HEIF, AVIF and JPEG XL files: only of these is the size believed.
BOXES = frozenset(
    {b"ftyp", b"meta", b"mdat", b"moov", b"idat", b"free", b"skip", b"uuid", b"jxlc", b"jxlp", b"Exif", b"xml "}
)
OS2_HEADER, PLAIN_BMP = 12, (0, 3)  # bytes of the oldest second header; compressions without any
START_OF_CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000 (ISO/IEC 15444-1, A.4)
SVG_END = re.compile(rb"</(?:\w+:)?svg\s*>|<(?:\w+:)?svg\b[^<>]*/>", re.IGNORECASE)
CODESTREAM = b"\xff\x0a"  # of JPEG XL, which has no boxes
PIXELS = frozenset({b"mdat", b"moov", b"idat", b"jxlc", b"jxlp"})
MAX_META_BYTES = 1 << 16  # bytes in which the meta box is, which may hold the pixels of a small image


def cut_off(data: bytes, kind: str) -> str:
    """Return what an image of this media type lacks at its end; "" if nothing, or if its format does not show it."""
    check = CHECKS.get(kind)
    return check(data) if check else ""


def _jpeg(data: bytes) -> str:
    at, is_proved = 2, False  # proved to be a JPEG, once one segment follows another
    while data[at : at + 1] == b"\xff":
        marker, body = data[at + 1 : at + 2], at + 4
        if marker == b"\xff":  # filled up
            at += 1
            continue
        if marker == END_OF_IMAGE:
            return LACKS_PIXELS
        if body > len(data):
            at, is_proved = len(data), is_proved or at == 2
            break
        at += 2 + int.from_bytes(data[at + 2 : body], "big")
        if at < body:
            return ""  # no segment is so short: nothing that this can follow
        if marker == START_OF_SCAN:  # in coded data, 0xFF is followed by zero or a restart's number (ITU T.81, B.1.1.5)
            return "" if END in data[at:] else LACKS_END
        is_proved = is_proved or data[at : at + 1] == b"\xff" or (at >= len(data) and _is_application(data[body:]))
    return LACKS_END if is_proved and at >= len(data) else ""


def _is_application(body: bytes) -> bool:
    """Return whether a cut first segment begins like those of cameras and programs."""
    return any(body.startswith(each[: len(body)]) for each in APPLICATIONS)


def _png(data: bytes) -> str:
    if not (PNG_SIGNATURE + b"\0\0\0\x0dIHDR").startswith(data[:16]):
        return ""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):  # length, name, body, CRC (W3C PNG, 5.3)
        if data[at + 4 : at + 8] == b"IEND":
            return ""
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return "no IEND chunk"


def _gif(data: bytes) -> str:
    at, has_pixels = 13 + _colours(data[10:11]), False
    while at < len(data):
        match data[at]:
            case 0x3B:
                return "" if has_pixels else LACKS_PIXELS
            case 0x21:
                at = _after_blocks(data, at + 2)
            case 0x2C:
                at, has_pixels = _after_blocks(data, at + 11 + _colours(data[at + 9 : at + 10])), True
            case _:
                return ""  # nothing that this can follow
    # Some encoders write no trailer. Each image has an end of its own.
    return "" if has_pixels and at == len(data) else "no trailer"


def _colours(flags: bytes) -> int:
    """Return the size of the table of colours that these flags announce (GIF89a, 18 and 20)."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _webp(data: bytes) -> str:
    size = 8 + int.from_bytes(data[4:8], "little")
    return f"{len(data):,} of {size:,} bytes" if len(data) < size else ""


def _bmp(data: bytes) -> str:
    number, wide = partial(int.from_bytes, byteorder="little"), 2 if data[14] == OS2_HEADER else 4
    width, height = number(data[18 : 18 + wide]), number(data[18 + wide : 18 + 2 * wide], signed=wide > 2)
    if wide > 2 and number(data[30:34]) not in PLAIN_BMP:
        return ""
    bits = width * number(data[20 + 2 * wide : 22 + 2 * wide])
    size = number(data[10:14]) + (abs(height) - 1) * ((bits + 31) // 32 * 4) + (bits + 7) // 8
    # Some encoders write wrong sizes of the file, and some leave out rows.
    return f"{len(data):,} of {size:,} bytes" if len(data) < min(size, number(data[2:6])) else ""


def _jp2(data: bytes) -> str:
    # In coded data, 0xFF is followed by less than 0x90 (ISO/IEC 15444-1, B.10.1).
    return LACKS_END if START_OF_CODESTREAM in data and END not in data else ""


def _svg(data: bytes) -> str:
    return "" if SVG_END.search(data.replace(b"\0", b"")) else "no end tag"


def _boxes(data: bytes) -> str:
    if data.startswith(CODESTREAM):
        return ""
    at, has_pixels = int.from_bytes(data[:4], "big"), b"idat" in data[:MAX_META_BYTES]
    while 8 <= at <= len(data) - 8:
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if name not in BOXES or size == 0:  # 0: to the end of the file
            return ""
        size = int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
        at, has_pixels = at + max(size, 8), has_pixels or name in PIXELS
    if at > len(data):
        return f"{len(data):,} of {at:,} bytes"
    return "" if has_pixels or at < 8 else "no box of pixels"


CHECKS = {
    "image/jpeg": _jpeg,
    "image/png": _png,
    "image/gif": _gif,
    "image/webp": _webp,
    "image/bmp": _bmp,
    "image/jp2": _jp2,
    "image/svg+xml": _svg,
    **dict.fromkeys(("image/heic", "image/heif", "image/avif", "image/jxl"), _boxes),
}
