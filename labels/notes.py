"""What the table needs of an object becomes a short text, while the object passes through.

A note goes with the object's row into the journal, so that a resumed run does not lose it. It depends on the object's
bytes alone: read back from the bucket, they make the same note.

| object | note |
|---|---|
| an image | `jpeg 500 375`: format, width, height |
| an annotation of Pascal VOC | a JSON list of its boxes: `[["body",8,8,112,112]]` |
| an annotation of Austin | a JSON object of its facts |
| an annotation that cannot be parsed | `!` and why |
| anything else | `-` |

An object without a note has not passed through, or only its first bytes have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from labels.annotations import COMPACT, Box, boxes, facts
from labels.headers import Size, read_size
from sources.content_type import content_type

IMAGE = "image/"
LARGEST = 16 << 20  # bytes of an image in which its size is looked for
LARGEST_ANNOTATION = 1 << 20  # bytes of one that is parsed: its tree takes many times as much memory
TOO_LARGE = "!larger than 1 MB"
LARGEST_NOTE = 100_000  # characters, in which csv reads 131,072 at most
TOO_MUCH = "!more than 100 KB of boxes or facts"
XML = "application/xml"
NOTHING = "-"
DECODER = json.JSONDecoder()


class ImageHeader(NamedTuple):
    """The format of an image and its size in pixels; None where it is not known."""

    format: str | None = None
    width: int | None = None
    height: int | None = None


class Annotation(NamedTuple):
    """What an annotation says; `error` is why it could not be parsed."""

    boxes: tuple[Box, ...] = ()
    facts: Mapping[str, Any] = MappingProxyType({})
    error: str = ""


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


def note_of(data: bytes, media_type: str, is_whole: bool = True) -> str:
    """The note of an object of this media type; of an image whose first bytes do not show its size yet it is ""."""
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
    if len(data) > LARGEST_ANNOTATION:
        return TOO_LARGE
    try:
        note = parse(data)
    except ValueError as error:
        return f"!{error}"
    return note if len(note) <= LARGEST_NOTE else TOO_MUCH


def image_note(chunks: Iterable[bytes]) -> str:
    """The note of an image that comes in chunks, of which no more are read than show its size."""
    data = b""
    for chunk in chunks:
        data += chunk
        note = note_of(data, content_type(data), is_whole=False)
        if note or len(data) > LARGEST:
            return note
    return note_of(data, content_type(data))


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def read_image_note(note: str) -> ImageHeader | None:
    """The reverse of note_of and image_note; None where the note is not that of an image."""
    try:
        form, width, height = note.split(" ")
        return ImageHeader(form, int(width) or None, int(height) or None)
    except ValueError:
        return None


def read_annotation_note(note: str) -> Annotation:
    """The reverse of boxes_note and facts_note; the note of anything else is that of no annotation."""
    if note.startswith("["):
        return Annotation(tuple([Box(*each) for each in DECODER.raw_decode(note)[0]]))
    if note.startswith("{"):
        return Annotation(facts=json.loads(note))
    return Annotation(error=note[1:] if note.startswith("!") else "not XML")
