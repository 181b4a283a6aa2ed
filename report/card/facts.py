"""A complete dataset becomes the facts of its card: contents, formats, and what is odd.

All of it comes from the bucket: the manifest lists every object, and a sample of the images is read back for
dimensions and thumbnails.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from datasets import Dataset, Layout
from labels.layout import annotation_of, group, is_annotation, is_photo, label
from labels.notes import LARGEST_ANNOTATION
from labels.selection import Filter
from manifest.counters import CountWithExamples, ReasonCounter
from manifest.records import Row, Rows
from report.card.thumbnails import Preview, preview
from storage.bucket import Bucket

SAMPLE = 240  # images read back, at most, in even steps through the manifest: all breeds are among them
SHARE = 20  # of a smaller dataset, one in so many
THUMBNAILS = 12  # of those
LARGEST = 16 << 20  # bytes of an image that is read back
IN_MEMORY = 64 << 20  # bytes read back in parallel, at most: for usual images the whole sample
MAX_GROUPS = 200  # shown by name; of more, only how large they are
BINS = 24
ODD = ("outside", "unparsed")
NO_ANNOTATION, NO_IMAGE = "without annotation", "without image"


@dataclass(frozen=True)
class Histogram:
    """How many values are in each step, the last step taking in all that is beyond it."""

    step: int
    counts: tuple[int, ...]
    median: int
    most: int  # 95 % are not above it
    largest: int

    @classmethod
    def of(cls, values: Iterable[int]) -> Histogram | None:
        """Of whole numbers; None where there are none."""
        ordered = sorted(values)
        if not ordered:
            return None
        at = [ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] for percent in (50, 95, 99)]
        step = round_step(at[2] / BINS)
        counts = Counter(min(value // step, BINS - 1) for value in ordered)
        return cls(step, tuple(counts[index] for index in range(max(counts) + 1)), at[0], at[1], ordered[-1])


def round_step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 25, 50, 100, 200, 250 … that is not below."""
    power = int(10 ** max(len(str(math.ceil(least))) - 2, 0))
    return next(step * power for step in (1, 2, 5, 10, 20, 25, 50, 100) if step * power >= least)


@dataclass(frozen=True)
class Labels:
    """What the table of images shows together, as manifest.json has it (labels/table.py)."""

    images: int
    splits: dict[str, int]  # images by split; "" for those that no list names
    splits_origin: str  # whose the splits are; "" where there are none
    splits_published: dict[str, int]
    labels: dict[str, dict[str, int]]  # images by label and split; empty where there are very many labels
    boxes_per_image: dict[str, int]  # images by the number of their boxes
    outside: CountWithExamples  # images with a box that is not inside them
    unparsed: CountWithExamples  # annotations that cannot be parsed

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Labels:
        """From manifest.json."""
        odd = {key: CountWithExamples(fields[key]["count"], tuple(fields[key]["examples"])) for key in ODD}
        return cls(**{**fields, **odd})


@dataclass(frozen=True)
class Card:
    """What card.json says of a dataset, and the page shows; names are object names, sizes bytes and pixels."""

    dataset: str
    title: str
    home: str
    licence: str
    citation: str
    sample: bool
    filter: Filter  # what of the dataset is wanted
    finished: str
    objects: int
    size: int
    sources: list[dict[str, Any]]
    images: int
    images_published: int | None
    grouped_by: str
    groups: int
    groups_published: int | None
    images_of: dict[str, int]  # by group, the largest first; empty where there are more than MAX_GROUPS
    images_per_group: Histogram | None
    annotations: int
    without_annotation: CountWithExamples
    without_image: CountWithExamples
    image_sizes: Histogram | None
    looked_at: int
    widths: Histogram | None
    heights: Histogram | None
    unreadable: dict[str, CountWithExamples]  # of those looked at
    wrong_format: dict[str, CountWithExamples]  # of all: what each is, and what its name says
    duplicates: list[tuple[str, ...]]  # images of the same size and checksum
    failures: dict[str, CountWithExamples]
    labels: Labels | None  # None of a dataset that an older version completed

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self), indent=2).encode()


def describe(
    dataset: Dataset, metadata: Mapping[str, Any], survey: Survey, previews: list[Preview], failures: list[Row]
) -> tuple[Card, list[Preview]]:
    """The facts of a dataset of which these images were read, and the images of its contact sheet."""
    layout = survey.layout
    seen, odd = [each for each in previews if not each.error], survey.odd.counts()
    card = Card(
        dataset=dataset.name,
        title=dataset.title,
        home=dataset.home,
        licence=dataset.licence,
        citation=dataset.citation,
        sample=metadata["sample"],
        filter=Filter.of(metadata.get("filter")),
        finished=metadata["finished"],
        objects=metadata["objects"],
        size=metadata["bytes"],
        sources=metadata["sources"],
        images=len(survey.sizes),
        images_published=layout.photos,
        grouped_by=layout.grouped_by,
        groups=len(survey.groups),
        groups_published=layout.groups,
        images_of=dict(survey.groups.most_common()) if len(survey.groups) <= MAX_GROUPS else {},
        images_per_group=Histogram.of(survey.groups.values()),
        annotations=len(survey.annotations),
        without_annotation=odd.get(NO_ANNOTATION, CountWithExamples(0, ())),
        without_image=odd.get(NO_IMAGE, CountWithExamples(0, ())),
        image_sizes=Histogram.of(survey.sizes),
        looked_at=len(previews),
        widths=Histogram.of(each.width for each in seen),
        heights=Histogram.of(each.height for each in seen),
        unreadable=ReasonCounter(Row(each.path, 0, 0, "", 0, reason=each.error) for each in previews).counts(),
        wrong_format={reason: CountWithExamples(**some) for reason, some in metadata.get("wrong_format", {}).items()},
        duplicates=sorted(map(tuple, survey.same.values())),
        failures=ReasonCounter(row._replace(reason=row.outcome) for row in failures).counts(),
        labels=Labels.of(metadata["labels"]) if "labels" in metadata else None,
    )
    return card, [replace(each, title=title(layout, each.path)) for each in seen if each.thumbnail]


class Survey:
    """What all rows show: counts, an even sample of the images, and the names of what is odd, if anything is.

    There can be millions of rows, so of most names only a hash is kept; the names of odd ones take a second reading.
    """

    def __init__(self, layout: Layout, rows: Rows) -> None:
        self.layout = layout
        self.groups, self.sizes = Counter[str](), array("Q")
        self.annotations, self.expected = set[int](), set[int]()  # hashes of their names
        self.contents, self.repeated = set[int](), set[int]()
        self.sample, self.odd, self.same = _Sample(), ReasonCounter(), defaultdict[int, list[str]](list)
        for row in rows:
            if is_photo(self.layout, row.path):
                self._count(row)
            elif is_annotation(layout, row.path):
                self.annotations.add(hash(row.path))
        self._are_paired = self.expected == self.annotations
        if self.repeated or not self._are_paired:
            for row in rows:
                self._name(row)

    def _count(self, row: Row) -> None:
        self.groups[group(self.layout, row.path)] += 1
        self.sizes.append(row.size)
        self.expected.add(hash(annotation_of(self.layout, row.path)))
        content = _content(row)
        (self.repeated if content in self.contents else self.contents).add(content)
        if row.size <= LARGEST:
            self.sample.add(row)

    def _name(self, row: Row) -> None:
        if _content(row) in self.repeated and is_photo(self.layout, row.path):
            self.same[_content(row)].append(row.path)
        if self._are_paired:
            return
        if is_photo(self.layout, row.path):
            if hash(annotation_of(self.layout, row.path)) not in self.annotations:
                self.odd.add(row._replace(reason=NO_ANNOTATION))
        elif is_annotation(self.layout, row.path) and hash(row.path) not in self.expected:
            self.odd.add(row._replace(reason=NO_IMAGE))


def _content(row: Row) -> int:
    """Size and checksum as one number: where it is the same, so are the bytes."""
    return row.size << 32 | row.crc32c


class _Sample:
    """An even sample of rows that pass, however many there are: each time it is full, every second one leaves."""

    def __init__(self) -> None:
        self._rows, self._every, self._passed = list[Row](), 1, 0

    def add(self, row: Row) -> None:
        """Pass on a row."""
        if self._passed % self._every == 0:
            self._rows.append(row)
            if len(self._rows) == 4 * SAMPLE:
                self._rows, self._every = self._rows[::2], 2 * self._every
        self._passed += 1

    def rows(self) -> list[Row]:
        """At most SAMPLE of them, of a small dataset one in SHARE, but enough for the contact sheet."""
        count = min(SAMPLE, max(self._passed // SHARE, THUMBNAILS), len(self._rows))
        return [self._rows[index * len(self._rows) // count] for index in range(count)]


def title(layout: Layout, path: str) -> str:
    """What an image shows, in words."""
    its = label(group(layout, path))
    return its if layout.grouped_by == "breed" else f"{layout.grouped_by} {its}"


def read_previews(bucket: Bucket, survey: Survey) -> list[Preview]:
    """Read the sample of the images back; every twentieth of it gets a thumbnail, with its boxes."""
    chosen = survey.sample.rows()
    shown = {chosen[index * len(chosen) // THUMBNAILS].path for index in range(THUMBNAILS)} if chosen else set()
    largest = max([1, *(row.size for row in chosen)])
    with ThreadPoolExecutor(min(bucket.max_in_flight, IN_MEMORY // largest)) as pool:
        boxes = {
            path: pool.submit(_small, bucket, name)
            for path in shown
            if hash(name := annotation_of(survey.layout, path)) in survey.annotations
        }

        def read(row: Row) -> Preview:
            image, its = bucket.get(row.path), boxes.get(row.path)
            return preview(row.path, image or b"", (its and its.result()) or b"", row.path in shown)

        return list(pool.map(read, chosen))


def _small(bucket: Bucket, name: str) -> bytes:
    """An annotation; nothing of one that is too large to be looked at."""
    data = b""
    for chunk in bucket.read(name) or ():
        data += chunk
        if len(data) > LARGEST_ANNOTATION:
            return b""
    return data
