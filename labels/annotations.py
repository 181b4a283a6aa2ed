"""An annotation becomes boxes: the XML of Pascal VOC; or facts: the JSON of a photo of Austin."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple
from xml.etree import ElementTree

CORNERS = ("xmin", "ymin", "xmax", "ymax")
TAG = re.compile(rb"<[^>]*>")
PLAIN = bytes(sorted({*b"\t\n\r", *range(0x20, 0x7F)} - {*b"&"}))  # XML 1.0, 2.2 and 2.4, of ASCII
PLAIN_BOX = re.compile(
    rb"<([A-Za-z_]*)bndbox>\s*"
    + b"".join(rb"<%s>(\d{1,9})</%s>\s*" % (each, each) for each in map(str.encode, CORNERS))
    + rb"</\1bndbox>"
)
MISSING = "null"  # the text of an unknown value in Austin's annotations


class Box(NamedTuple):
    """A box of an annotation, in pixels of the image, as the annotation has it; kind: "body", "head" or ""."""

    kind: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float

    def is_inside(self, width: int, height: int) -> bool:
        """Whether it lies in an image of this size; 1-based corners may reach its last pixel."""
        return 0 <= self.xmin <= self.xmax <= width and 0 <= self.ymin <= self.ymax <= height


def boxes(annotation: bytes) -> list[Box]:
    """The boxes of an annotation in the form of Pascal VOC, in its order; whole numbers are int.

    Stanford and Oxford have `bndbox`, Tsinghua `headbndbox` and `bodybndbox`. Raises ValueError for what is not XML,
    and for a box without four numbers.
    """
    found = plain_boxes(annotation)
    return parsed_boxes(annotation) if found is None else found


def plain_boxes(annotation: bytes) -> list[Box] | None:
    """The same of nearly all annotations, several times as fast; None for those that only a parser of XML can judge.

    Where the tags alone are well-formed, so is all of it: what is between them is plain text.
    """
    text = annotation.removeprefix(codecs.BOM_UTF8).strip(b" \t\r\n")
    tags, found = TAG.findall(text), PLAIN_BOX.findall(text)
    if text.translate(None, PLAIN) or len(tags) != text.count(b">") or not (text[:1] == b"<" and text[-1:] == b">"):
        return None
    if 2 * len(found) != text.count(b"bndbox") or not _are_well_formed(b"".join(tags)):
        return None
    return [Box(kind.decode(), int(xmin), int(ymin), int(xmax), int(ymax)) for kind, xmin, ymin, xmax, ymax in found]


@lru_cache(maxsize=256)
def _are_well_formed(tags: bytes) -> bool:
    """Of these tags; those of most annotations are the same. False too where a tag may be no element's."""
    if any(mark in tags for mark in (b"!", b"?", b"'", b'"')):
        return False
    try:
        ElementTree.fromstring(tags)  # noqa: S314 - there is no entity in it
    except ElementTree.ParseError:
        return False
    return True


def parsed_boxes(annotation: bytes) -> list[Box]:
    """The same by a parser of XML."""
    try:
        root = ElementTree.fromstring(annotation)  # noqa: S314 - expat since 2.4.1 stops at entities that multiply
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # LookupError: of an unknown encoding
        raise ValueError("not XML") from error
    return list(_boxes(root))


def _boxes(root: ElementTree.Element) -> Iterator[Box]:
    for element in root.iter():
        if element.tag.endswith("bndbox"):
            texts = {each.tag: each.text for each in element}
            yield Box(element.tag.removesuffix("bndbox"), *(_number(texts.get(corner)) for corner in CORNERS))


def _number(text: str | None) -> float:
    try:
        if text and text.isdecimal():  # nearly all
            return int(text)
        value = float(text or "")
    except ValueError as error:
        raise ValueError("a box without four numbers") from error
    if not math.isfinite(value):
        raise ValueError("a box without four numbers")
    return int(value) if value.is_integer() else value


def facts(annotation: bytes) -> dict[str, Any]:
    """The values of an annotation of Austin, unknown ones as None. Raises ValueError for what is no JSON object."""
    try:
        fields = json.loads(annotation)
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(fields, dict):
        raise ValueError("not JSON")
    return {key: None if value == MISSING else value for key, value in fields.items()}
