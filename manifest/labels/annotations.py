"""Parse annotations: boxes in the XML of Pascal VOC, and facts in the JSON of Austin's photos."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

CORNERS = ("xmin", "ymin", "xmax", "ymax")
VARYING = b"0123456789 \t\r\n"
PLAIN = bytes(sorted({*VARYING, *range(0x21, 0x7F)} - {*b"&!?="}))  # no references, comments, attributes, name spaces
ZEROS, OTHERS = bytes.maketrans(VARYING, b"0" * len(VARYING)), bytes(sorted({*range(256)} - {*b"<>", *VARYING}))
PLAIN_BOX = re.compile(
    rb"bndbox>\s*"
    + b"".join(rb"<%s>(0|[1-9]\d{0,8})</%s>\s*" % (each, each) for each in map(str.encode, CORNERS))
    + rb"</([A-Za-z_]*)bndbox>"
)
COMPACT = json.JSONEncoder(separators=(",", ":")).encode
MISSING = "null"  # the text of an unknown value in Austin's annotations


class Box(NamedTuple):
    """A box in pixels of the image, with the numbers of the annotation; `kind` is "body", "head" or ""."""

    kind: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float

    def is_inside(self, width: int, height: int) -> bool:
        """Whether it lies in an image of this size; with corners counted from 1 it may reach the last pixel."""
        return 0 <= self.xmin <= self.xmax <= width and 0 <= self.ymin <= self.ymax <= height


def boxes(annotation: bytes) -> str:
    """Return the boxes of a Pascal VOC annotation in their order, as a JSON list with the fields of a Box each.

    Stanford and Oxford have `bndbox`, Tsinghua `headbndbox` and `bodybndbox`. Whole numbers are int. Raises ValueError
    for text that is not XML, and for a box without four numbers.
    """
    return plain_boxes(annotation) or COMPACT(parsed_boxes(annotation))


def plain_boxes(annotation: bytes) -> str | None:
    """Do the same as boxes() in a third of the time; None for annotations that need a full parser.

    If no tag contains a digit or a blank, these can be removed before the text is checked to be well-formed. Most
    annotations are equal then, and the result of the check is cached.
    """
    text = annotation.removeprefix(codecs.BOM_UTF8).strip(b" \t\r\n")
    found = PLAIN_BOX.findall(text)
    if 2 * len(found) != text.count(b"bndbox") or not (text[:1] == b"<" and text[-1:] == b">"):
        return None
    if text.translate(None, PLAIN) or b"<0" in text.translate(ZEROS, OTHERS):
        return None
    if not _is_well_formed(text.translate(None, VARYING)):
        return None
    return (b"[%s]" % b",".join([b'["%s",%s,%s,%s,%s]' % (k, a, b, c, d) for a, b, c, d, k in found])).decode()


@lru_cache(maxsize=1024)
def _is_well_formed(text: bytes) -> bool:
    try:
        expat.ParserCreate().Parse(text, True)
    except expat.ExpatError:
        return False
    return True


def parsed_boxes(annotation: bytes) -> list[Box]:
    """Do the same as boxes() with an XML parser."""
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
    """Return the values of an annotation of Austin, unknown ones as None; raises ValueError if it is no JSON object."""
    try:
        fields = json.loads(annotation)
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(fields, dict):
        raise ValueError("not JSON")
    return {key: None if value == MISSING else value for key, value in fields.items()}
