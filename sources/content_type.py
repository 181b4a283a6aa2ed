"""Recognise a file by its first bytes, and compare that with its name.

Images are recognised by their signatures; `describe` says in words what other bytes are.
"""

from __future__ import annotations

import codecs
import re

SIGNATURES = {
    "jpeg": rb"\xff\xd8\xff",
    "png": rb"\x89PNG\r\n\x1a\n",  # whole, because its line ends show a transfer as text (W3C PNG, 5.2)
    "gif": rb"GIF8[79]a",
    "webp": rb"RIFF....WEBP",
    "tiff": rb"II\*\0|MM\0\*|II\+\0\x08\0\0\0|MM\0\+\0\x08\0\0",  # TIFF 6.0, section 2; a "+" is BigTIFF's
    "jxl": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",  # ISO/IEC 18181-2: a codestream alone, and in a container
    "jp2": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "psd": rb"8BPS\0[\x01\x02]",
    "ico": rb"\0\0\x01\0[^\0]\0...\0",  # the number of images; width, height and colours of the first
    # Two letters make no BMP: its second header has one of a few sizes (OS/2 1 and 2, Windows 3 to 5), and one plane.
    "bmp": rb"BM.{12}(?:\x0c\0\0\0.{4}|[\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0.{8})\x01\0",
}
SIGNATURE = re.compile(b"|".join(b"(?P<%s>%s)" % (kind.encode(), each) for kind, each in SIGNATURES.items()), re.DOTALL)
# Brands of ISO-BMFF still images and image sequences (ISO/IEC 23008-12 annex B, AV1 Image File Format 1.1): where a
# file has several, the first of these three sets says most.
BRANDS = {
    "image/avif": frozenset({b"avif", b"avis"}),
    "image/heic": frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}),
    "image/heif": frozenset(
        {b"mif1", b"mif2", b"msf1", b"miaf", b"avci", b"avcs", b"jpeg", b"jpgs", b"j2ki", b"j2is", b"vvic"}
    ),
}
MAX_FTYP_BYTES = 4096  # bytes of brands that are looked at: a thousand of them
ENDINGS = {
    **{f".{kind}": f"image/{kind}" for kind in (*SIGNATURES, "heic", "heif", "avif")},
    ".jpg": "image/jpeg",
    ".tif": "image/tiff",
    ".svg": "image/svg+xml",
}
HEAD_BYTES = 1 << 14  # bytes of a text that show what it is: a licence may precede its root element
# Longer marks first: UTF-32's begins with UTF-16's.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# No end is within a comment: else many comments would take years. Possessive quantifiers are wrong in Python 3.11.2.
PROLOGUE = r"\s*(?:(?:<\?xml(?:(?!\?>).)*\?>|<!--(?:(?!-->).)*-->)\s*)*"
SVG = re.compile(rf"{PROLOGUE}(?:<!doctype\s+svg\b|<(?:[a-z]\w*:)?svg[\s/>])", re.IGNORECASE | re.DOTALL)
JSON = re.compile(rb'\s*(?:\{\s*["}]|\[\s*[\[{"\]\d-])')
HTML = re.compile(
    rf"{PROLOGUE}<(?:!doctype\s+html|html|head|title|meta|link|style|script|body|form|table|div|center|h[1-6]|p|br|a)\b",
    re.IGNORECASE | re.DOTALL,
)
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
PACKED = {
    b"%PDF": "a PDF",
    b"\x1f\x8b": "gzip data",
    b"PK\x03\x04": "a zip archive",
    b"{\\rtf": "an RTF document",
    b"\0asm": "a WebAssembly module",
}


# ── images ───────────────────────────────────────────────────────────────────────────────────────


def content_type(data: bytes) -> str:
    """Return the media type by the first bytes; names can be wrong, and some of Austin's .png are JPEG."""
    if kind := image_type(data):
        return kind
    if data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<"):
        return "application/xml"
    return "application/json" if JSON.match(data) else "application/octet-stream"


def image_type(data: bytes) -> str:
    """Return the media type of an image by its first bytes; "" if it is no image."""
    if found := SIGNATURE.match(data):
        return f"image/{found.lastgroup}"
    if data[4:8] == b"ftyp":
        return _brand(data)
    return "image/svg+xml" if _is_svg(data[:HEAD_BYTES]) else ""


def _brand(data: bytes) -> str:
    """Return the media type of an ISO-BMFF file by its first box, which lists compatible brands."""
    size = int.from_bytes(data[:4], "big")
    begin, size = (16, int.from_bytes(data[8:16], "big")) if size == 1 else (8, size or len(data))
    box = data[begin : min(size, MAX_FTYP_BYTES)]
    brands = {box[:4], *(box[at : at + 4] for at in range(8, len(box), 4))}
    return next((kind for kind, own in BRANDS.items() if brands & own), "")


def _is_svg(head: bytes) -> bool:
    """Return whether the root element is svg; a page that contains one is no SVG."""
    return b"svg" in head.replace(b"\0", b"").lower() and bool(SVG.match(_text(head)))


# ── what is none ─────────────────────────────────────────────────────────────────────────────────


def describe(data: bytes) -> str:
    """Describe bytes that are no image: "a web page", "a PDF", "unknown bytes"."""
    if not data:
        return "an empty body"
    if found := next((what for magic, what in PACKED.items() if data.startswith(magic)), ""):
        return found
    text = _text(data[:HEAD_BYTES])
    return "unknown bytes" if CONTROLS.search(text) else _describe_text(text)


def _describe_text(text: str) -> str:
    if HTML.match(text):
        return "a web page"
    text = text.lstrip()
    if not text:
        return "blank text"
    if text.startswith("<"):
        return "an XML document"
    return "JSON" if JSON.match(text.encode()) else "text"


def byte_order(data: bytes) -> str:
    """Return the encoding that a byte order mark names; "" if there is none."""
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "")


def _text(head: bytes) -> str:
    """Decode the first bytes of a text; other bytes become text with control characters."""
    if encoding := byte_order(head):
        return head.decode(encoding, "replace")
    if not head[1:8:2].strip(b"\0") and len(head) > 1:  # ASCII in UTF-16 without a mark
        return head.decode("utf-16-le", "replace")
    if not head[:8:2].strip(b"\0"):
        return head.decode("utf-16-be", "replace")
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return head.decode("cp1252", "replace")  # nearly every byte is a letter in it: CONTROLS decides


# ── names ────────────────────────────────────────────────────────────────────────────────────────


def ending(path: str) -> str:
    """Return the ending of a file's name in small letters: ".jpg"; "" if there is none."""
    at = path.rfind(".")
    return path[at:].lower() if at > path.rfind("/") + 1 else ""


def is_image(path: str) -> bool:
    """Return whether the name is that of an image."""
    return ending(path) in ENDINGS


def misnamed(path: str, found: str) -> str:
    """Return the contradiction between an image's name and its media type: "PNG named .jpg"; "" if they agree."""
    promised = ENDINGS.get(ending(path))
    if promised in (None, found) or {promised, found} == {"image/heic", "image/heif"}:  # of one family: .heif is either
        return ""
    is_image = found.startswith("image/")
    kind = found.removeprefix("image/").removesuffix("+xml").upper() if is_image else "not an image, but"
    return f"{kind} named {ending(path)}"
