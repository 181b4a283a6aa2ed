"""Notes: short texts with what the table of images needs from an object, made while the object is stored.

A note is part of the object's row in the journal, so that a resumed run has it too. It depends only on the object's
bytes, so the same note can be made from the stored object.

| object | note |
|---|---|
| an image | `jpeg 500 375`: format, width, height |
| an annotation of Pascal VOC | a JSON list of its boxes: `[["body",8,8,112,112]]` |
| an annotation of Austin | a JSON object of its facts |
| an annotation that cannot be parsed | `!` and why |
| anything else | `-` |

An object without a note was stored by an older version, or its first bytes do not show its size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from manifest.labels.annotations import COMPACT, Box, boxes, facts
from manifest.labels.headers import Size, read_size
from sources.content_type import content_type

IMAGE = "image/"
MAX_SEARCHED_BYTES = 16 << 20  # bytes of an image that are searched for its size
MAX_ANNOTATION_BYTES = 1 << 20  # bytes; parsing takes many times as much memory
ANNOTATION_TOO_LARGE = "!larger than 1 MB"
MAX_NOTE_CHARACTERS = 100_000  # characters; the csv module reads fields of up to 131,072
NOTE_TOO_LONG = "!more than 100 KB of boxes or facts"
XML = "application/xml"
NOTHING = "-"
DECODER = json.JSONDecoder()


class ImageHeader(NamedTuple):
    """The format of an image and its size in pixels; None if unknown."""

    format: str | None = None
    width: int | None = None
    height: int | None = None


class Annotation(NamedTuple):
    """A parsed annotation; `error` is the reason if it could not be parsed."""

    boxes: tuple[Box, ...] = ()
    facts: Mapping[str, Any] = MappingProxyType({})
    error: str = ""


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


def note_of(data: bytes, media_type: str, is_whole: bool = True) -> str:
    """Return the note of an object of this media type; "" for an image if the bytes do not show its size yet."""
    if media_type.startswith(IMAGE):
        size = read_size(data, media_type) or (Size(0, 0) if is_whole else None)
        return f"{media_type.removeprefix(IMAGE).removesuffix('+xml')} {size.width} {size.height}" if size else ""
    if not is_whole:
        return ""
    return boxes_note(data) if media_type == XML else NOTHING


def boxes_note(data: bytes) -> str:
    """The note of an annotation of Pascal VOC."""
    return _note(boxes, data)


def facts_note(data: bytes) -> str:
    """The note of an annotation of Austin."""
    return _note(lambda annotation: COMPACT(facts(annotation)), data)


def annotation_note(data: bytes) -> str:
    """The note of an annotation, by its first byte: a JSON object begins with a brace, XML does not."""
    return facts_note(data) if data.lstrip()[:1] == b"{" else boxes_note(data)


def _note(parse: Callable[[bytes], str], data: bytes) -> str:
    if len(data) > MAX_ANNOTATION_BYTES:
        return ANNOTATION_TOO_LARGE
    try:
        note = parse(data)
    except ValueError as error:
        return f"!{error}"
    return note if len(note) <= MAX_NOTE_CHARACTERS else NOTE_TOO_LONG


def image_note(chunks: Iterable[bytes]) -> str:
    """Return the note of an image from its chunks; reads no more of them than necessary."""
    data = b""
    for chunk in chunks:
        data += chunk
        note = note_of(data, content_type(data), is_whole=False)
        if note or len(data) > MAX_SEARCHED_BYTES:
            return note
    return note_of(data, content_type(data))


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def read_image_note(note: str) -> ImageHeader | None:
    """Parse the note of an image; None if it is another note."""
    try:
        form, width, height = note.split(" ")
        return ImageHeader(form, int(width) or None, int(height) or None)
    except ValueError:
        return None


def read_annotation_note(note: str) -> Annotation:
    """Parse the note of an annotation; other notes give an Annotation with an error."""
    if note.startswith("["):
        return Annotation(tuple([Box(*each) for each in DECODER.raw_decode(note)[0]]))
    if note.startswith("{"):
        return Annotation(facts=json.loads(note))
    return Annotation(error=note[1:] if note.startswith("!") else "not XML")
