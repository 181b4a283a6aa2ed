"""What a file is by its first bytes, and whether its name says so too."""

from __future__ import annotations

IMAGES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG": "image/png",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
    b"BM": "image/bmp",
}
ENDINGS = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
}


def content_type(data: bytes) -> str:
    """The media type that the first bytes tell; a name can lie, and some of Austin's .png are JPEG."""
    for magic, kind in IMAGES.items():
        if data.startswith(magic):
            return kind
    is_xml = data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")
    return "application/xml" if is_xml else "application/octet-stream"


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
    if promised in (None, found):
        return ""
    kind = found.removeprefix("image/").upper() if found in IMAGES.values() else "not an image, but"
    return f"{kind} named {ending(path)}"
