"""What a file is by its first bytes, and whether its name says so too.

An image is what its own signature says. What has none is not an image, and `describe` says in words what it is instead.
"""

from __future__ import annotations

import codecs
import re

SIGNATURES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"II*\0": "image/tiff",  # TIFF 6.0, section 2; a "+" is BigTIFF's
    b"MM\0*": "image/tiff",
    b"II+\0\x08\0\0\0": "image/tiff",
    b"MM\0+\0\x08\0\0": "image/tiff",
    b"\xff\x0a": "image/jxl",  # ISO/IEC 18181-2: a codestream alone, and in a container
    b"\0\0\0\x0cJXL \r\n\x87\n": "image/jxl",
    b"\0\0\0\x0cjP  \r\n\x87\n": "image/jp2",
    b"\xff\x4f\xff\x51": "image/jp2",
}
# Brands of ISO-BMFF still images and image sequences (ISO/IEC 23008-12 annex B, AV1 Image File Format 1.1): where a
# file has several, the first of these three sets says most.
AVIF = frozenset({b"avif", b"avis"})
HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
HEIF = frozenset({b"mif1", b"mif2", b"msf1", b"miaf", b"avci", b"avcs", b"jpeg", b"jpgs", b"j2ki", b"j2is", b"vvic"})
BRANDS = {"image/avif": AVIF, "image/heic": HEIC, "image/heif": HEIF}
LARGEST_FTYP = 4096  # bytes of brands that are looked at: a thousand of them
# Sizes of the header that follows a BMP's first 14 bytes: OS/2 1 and 2, Windows 3 to 5.
DIB_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
ENDINGS = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".avif": "image/avif",
    ".jxl": "image/jxl",
    ".jp2": "image/jp2",
    ".svg": "image/svg+xml",
}
HEAD = 2048  # bytes of a text that show what it is
# Longer marks first: UTF-32's begins with UTF-16's.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
PROLOGUE = r"\s*(?:<\?xml.*?\?>\s*|<!--.*?-->\s*)*"
SVG = re.compile(rf"{PROLOGUE}(?:<!doctype\s+svg\b|<(?:[a-z]\w*:)?svg[\s/>])", re.IGNORECASE | re.DOTALL)
JSON = re.compile(rb'\s*(?:\{\s*["}]|\[\s*[\[{"\]\d-])')
HTML = re.compile(
    rf"{PROLOGUE}<(?:!doctype\s+html|html|head|title|meta|link|style|script|body|table|div|center|h[1-6]|p|br|a)\b",
    re.IGNORECASE | re.DOTALL,
)
CONTROLS = re.compile(r"[^\t\n\f\r\x1b\x20-\x7e\x80-\U0010ffff]")
PACKED = {
    b"%PDF": "a PDF",
    b"\x1f\x8b": "gzip data",
    b"PK\x03\x04": "a zip archive",
    b"{\\rtf": "an RTF document",
    b"\0asm": "a WebAssembly module",
}


# ── images ───────────────────────────────────────────────────────────────────────────────────────


def content_type(data: bytes) -> str:
    """The media type that the first bytes show; a name can lie, and some of Austin's .png are JPEG."""
    if kind := image_type(data):
        return kind
    if _begins_as_xml(data):
        return "application/xml"
    return "application/json" if JSON.match(data) else "application/octet-stream"


def image_type(data: bytes) -> str:
    """The media type of an image, by its first bytes; "" where they are no image's."""
    for magic, kind in SIGNATURES.items():
        if data.startswith(magic):
            return kind
    if data.startswith(b"RIFF"):
        return "image/webp" if data[8:12] == b"WEBP" else ""
    if data.startswith(b"BM"):
        return "image/bmp" if _has_dib_header(data) else ""
    if data[4:8] == b"ftyp":
        return _brand(data)
    return "image/svg+xml" if _is_svg(data[:HEAD]) else ""


def _has_dib_header(data: bytes) -> bool:
    """Two letters make no BMP: its second header has one of a few sizes, and one plane (Windows, OS/2)."""
    size = int.from_bytes(data[14:18], "little")
    planes = data[22:24] if size == 12 else data[26:28]
    return size in DIB_HEADERS and planes == b"\1\0"


def _brand(data: bytes) -> str:
    """The kind of an ISO-BMFF file, whose first box names the brands that it is compatible with."""
    size = int.from_bytes(data[:4], "big")
    begin, size = (16, int.from_bytes(data[8:16], "big")) if size == 1 else (8, size or len(data))
    box = data[begin : min(size, LARGEST_FTYP)]
    brands = {box[:4], *(box[at : at + 4] for at in range(8, len(box), 4))}
    return next((kind for kind, own in BRANDS.items() if brands & own), "")


def _is_svg(head: bytes) -> bool:
    """An SVG is text whose root element is svg; a page that only shows one is none."""
    return b"svg" in head.replace(b"\0", b"").lower() and bool(SVG.match(_text(head) or ""))


def _begins_as_xml(data: bytes) -> bool:
    return data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<")


# ── what is none ─────────────────────────────────────────────────────────────────────────────────


def describe(data: bytes) -> str:
    """What bytes that are no image are, in words: "a web page", "a PDF", "unknown bytes"."""
    if not data:
        return "an empty body"
    if found := next((what for magic, what in PACKED.items() if data.startswith(magic)), ""):
        return found
    text = _text(data[:HEAD])
    if text is None or CONTROLS.search(text):
        return "unknown bytes"
    return _describe_text(text)


def _describe_text(text: str) -> str:
    if HTML.match(text):
        return "a web page"
    text = text.lstrip()
    if not text:
        return "blank text"
    if text.startswith("<"):
        return "an XML document"
    return "JSON" if re.match(r'\{\s*["}]|\[\s*[\[{"\]\d]', text) else "text"


def _text(head: bytes) -> str | None:
    """The first bytes as text, or None where they are no text in any usual encoding."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
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
    """The ending of a file's name, in small letters: ".jpg"; "" where there is none."""
    at = path.rfind(".")
    return path[at:].lower() if at > path.rfind("/") + 1 else ""


def is_image(path: str) -> bool:
    """Whether the name promises an image."""
    return ending(path) in ENDINGS


def misnamed(path: str, found: str) -> str:
    """What a file of this media type is that its name says is an image of another kind; "" where they agree."""
    promised = ENDINGS.get(ending(path))
    if promised in (None, found) or {promised, found} == {"image/heic", "image/heif"}:  # of one family: .heif is either
        return ""
    kind = (
        found.removeprefix("image/").removesuffix("+xml").upper() if found.startswith("image/") else "not an image, but"
    )
    return f"{kind} named {ending(path)}"
