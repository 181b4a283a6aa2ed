"""Renders the facts of a card as one self-contained HTML page, with the template card.html."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from datasets import Layout
from manifest.counters import MAX_EXAMPLES, CountWithExamples
from manifest.layout import group, label
from manifest.records import GONE, NOT_AN_IMAGE
from report.card.facts import Preview
from report.humanize import amount

CHART = {"width": 300, "height": 120, "below": 18, "ticks": 4}  # of a histogram; `below` is the line for its scale
ONE_COLUMN_GROUPS = 8  # groups that are shown in one column


@dataclass(frozen=True)
class Check:
    """One line of the list of checks; `found` counts the findings by kind."""

    title: str
    found: dict[str, CountWithExamples]
    none: str = "none"  # the text where nothing is found

    @property
    def summary(self) -> str:
        return ", ".join(f"{some.count:,} {what}".rstrip() for what, some in self.found.items())

    @property
    def names(self) -> list[str]:
        each = MAX_EXAMPLES // len(self.found) or 1
        return [name for some in self.found.values() for name in some.examples[:each]]

    @property
    def has_more(self) -> bool:
        total: int = sum(some.count for some in self.found.values())
        return len(self.names) < total


def render(layout: Layout, card: Mapping[str, Any], previews: Iterable[Preview]) -> str:
    """Return the page as HTML; jinja2 escapes every value."""
    shown = [each for each in previews if each.thumbnail]
    name, _, lead = card["title"].partition(": ")
    kinds = dict.fromkeys(box.kind for each in shown for box in each.boxes)
    page = _environment(layout).get_template("card.html")
    return page.render(card=card, name=name, lead=lead, previews=shown, kinds=kinds, checks=list(_checks(card)))


def _environment(layout: Layout) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    formats: dict[str, Any] = {"amount": amount, "count": "{:,}".format, "pixels": "{:,} px".format}
    environment.filters |= formats | {
        "number": "{:g}".format, "label": label, "group": partial(group, layout),
        "basename": lambda path: path.rpartition("/")[2], "base64": lambda data: base64.b64encode(data).decode(),
    }  # fmt: skip
    environment.globals |= {**formats, **CHART, "few": ONE_COLUMN_GROUPS}
    return environment


def _checks(card: Mapping[str, Any]) -> Iterator[Check]:
    if not (card["filter"].include or card["filter"].exclude):  # which may exclude one of a pair
        yield Check("Images without annotation", _one("", card["without_annotation"]))
        yield Check("Annotations without image", _one("", card["without_image"]))
    yield Check("Format differs from the name", card["wrong_format"], "every image is what its name says")
    yield Check("Unreadable images", card["unreadable"], f"none of the {card['looked_at']:,} that were opened")
    if labels := card["labels"]:
        unparsed, outside = (CountWithExamples(**labels[key]) for key in ("unparsed", "outside"))
        yield Check("Annotations that cannot be parsed", _one("", unparsed))
        yield Check("Images with boxes outside", _one("", outside), "every box lies in its image")
    twins = CountWithExamples.of(" = ".join(paths) for paths in card["duplicates"])
    images = sum(map(len, card["duplicates"]))
    yield Check("Identical images", _one(f"sets of equal images, {images:,} images together", twins))
    absent = {GONE: "that the source no longer has", NOT_AN_IMAGE: "that are no images there"}
    failures = card["failures"]
    yield Check(
        "Missing at the source", {what: failures[outcome] for outcome, what in absent.items() if outcome in failures}
    )


def _one(what: str, some: CountWithExamples) -> dict[str, CountWithExamples]:
    return {what: some} if some.count else {}
