"""Reads the dimensions of an image and, for the contact sheet, makes a thumbnail with the boxes of its annotation."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass

from PIL import Image

from manifest.labels.annotations import Box
from manifest.labels.notes import boxes_note, read_annotation_note

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")  # some other readers of Pillow start programs
THUMBNAIL_PIXELS = 300  # pixels of a thumbnail's longer side: twice what the page shows, for dense screens
JPEG_QUALITY = 78
MAX_PIXELS = 24_000_000  # of an image that is decoded: 72 MB, of which there is one at a time
_decoding = threading.Lock()


@dataclass(frozen=True)
class Preview:
    """The findings of one image; the thumbnail is a JPEG."""

    path: str
    width: int = 0
    height: int = 0
    error: str = ""
    thumbnail: bytes = b""
    boxes: tuple[Box, ...] = ()


def preview(path: str, data: bytes, annotation: bytes, is_shown: bool) -> Preview:
    """Read an image. Never raises for what is in it: an image that cannot be read has an `error`."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            thumbnail = _thumbnail(image) if is_shown and width * height <= MAX_PIXELS else b""
    except Exception as error:  # Pillow's readers raise nearly anything over broken bytes
        what = "truncated" if "truncated" in str(error) else "not readable as an image"
        return Preview(path, error=what)
    return Preview(path, width, height, "", thumbnail, read_annotation_note(boxes_note(annotation)).boxes)


def _thumbnail(image: Image.Image) -> bytes:
    file = io.BytesIO()
    with _decoding:
        image.draft("RGB", (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))  # a JPEG is decoded at a fraction of its size
        image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        image.convert("RGB").save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
