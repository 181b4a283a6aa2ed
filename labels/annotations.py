"""An annotation becomes boxes: the XML of Pascal VOC; or facts: the JSON of a photo of Austin."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple
from xml.etree import ElementTree

CORNERS = ("xmin", "ymin", "xmax", "ymax")
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
