"""Collects the facts of a complete dataset for its card: contents, formats and findings.

Everything comes from the bucket: the manifest lists every object, and a sample of the images is read back for
dimensions and thumbnails.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset, Layout
from manifest.counters import CountWithExamples, ReasonCounter
from manifest.labels.notes import MAX_ANNOTATION_BYTES
from manifest.layout import annotation_of, group, is_annotation, is_photo
from manifest.records import Row, Rows
from manifest.selection import Filter
from report.card.thumbnails import Preview, preview
from storage.bucket import Bucket

MAX_SAMPLE = 240  # images read back at most, in even steps through the manifest, so that all breeds are among them
SAMPLE_STEP = 20  # of a smaller dataset, one image in SAMPLE_STEP is read back
THUMBNAILS = 12  # images of the contact sheet
MAX_IMAGE_BYTES = 16 << 20  # bytes; larger images are not read back
MAX_PARALLEL_BYTES = 64 << 20  # bytes read back in parallel, at most: for usual images the whole sample
MAX_GROUPS = 200  # groups shown by name; of more, only their sizes are shown
BINS = 24
NO_ANNOTATION, NO_IMAGE = "without annotation", "without image"
NONE = CountWithExamples(0, ())


@dataclass(frozen=True)
class Histogram:
    """The number of values in each step; the last step has all larger values too."""

    step: int
    counts: tuple[int, ...]
    median: int
    most: int  # 95 % of the values are at most this
    largest: int

    @classmethod
    def of(cls, values: Iterable[int]) -> Histogram | None:
        """Return the histogram of whole numbers, or None where there are none."""
        ordered = sorted(values)
        if not ordered:
            return None
        at = [ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] for percent in (50, 95, 99)]
        step = round_step(at[2] / BINS)
        counts = Counter(min(value // step, BINS - 1) for value in ordered)
        return cls(step, tuple(counts[index] for index in range(max(counts) + 1)), at[0], at[1], ordered[-1])


def round_step(least: float) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 25, 50, 100, 200, 250 … that is at least `least`."""
    power = int(10 ** max(len(str(math.ceil(least))) - 2, 0))
    return next(step * power for step in (1, 2, 5, 10, 20, 25, 50, 100) if step * power >= least)


def describe(
    dataset: Dataset, metadata: Mapping[str, Any], survey: Survey, previews: Sequence[Preview], failures: Iterable[Row]
) -> dict[str, Any]:
    """Return the fields of card.json, which the page shows too. Names are object names; sizes are bytes and pixels."""
    seen, odd = [each for each in previews if not each.error], survey.odd.counts()
    return {
        "dataset": dataset.name,
        "title": dataset.title,
        "home": dataset.home,
        "licence": dataset.licence,
        "citation": dataset.citation,
        "sample": metadata["sample"],
        "filter": Filter.of(metadata.get("filter")),
        "finished": metadata["finished"],
        "objects": metadata["objects"],
        "size": metadata["bytes"],
        "sources": metadata["sources"],
        "images": len(survey.sizes),
        "images_published": survey.layout.photos,
        "grouped_by": survey.layout.grouped_by,
        "groups": len(survey.groups),
        "groups_published": survey.layout.groups,
        "images_of": dict(survey.groups.most_common()) if len(survey.groups) <= MAX_GROUPS else {},  # largest first
        "images_per_group": Histogram.of(survey.groups.values()),
        "annotations": len(survey.annotations),
        "without_annotation": odd.get(NO_ANNOTATION, NONE),
        "without_image": odd.get(NO_IMAGE, NONE),
        "image_sizes": Histogram.of(survey.sizes),
        "looked_at": len(previews),
        "widths": Histogram.of(each.width for each in seen),
        "heights": Histogram.of(each.height for each in seen),
        "unreadable": ReasonCounter(Row(each.path, 0, 0, "", 0, reason=each.error) for each in previews).counts(),
        "wrong_format": {
            reason: CountWithExamples(**some) for reason, some in metadata.get("wrong_format", {}).items()
        },
        "duplicates": sorted(survey.same.values()),
        "failures": ReasonCounter(row._replace(reason=row.outcome) for row in failures).counts(),
        "labels": metadata.get("labels"),  # None for a dataset that an older version completed
    }


def encode(card: Mapping[str, Any]) -> bytes:
    """Return the bytes of card.json."""
    return json.dumps(card, indent=2, default=asdict).encode()


class Survey:
    """Counts all rows, samples the images evenly, and names unpaired and identical files.

    There can be millions of rows, so only hashes of most names are kept. A second pass, where one is needed, collects
    the names of the findings.
    """

    def __init__(self, layout: Layout, rows: Rows) -> None:
        self.layout = layout
        self.groups, self.sizes = Counter[str](), array("Q")
        self.annotations, self.expected = set[int](), set[int]()  # hashes of their names
        self.contents, self.repeated = set[int](), set[int]()
        self.sample, self.odd, self.same = _Sample(), ReasonCounter(), defaultdict[int, list[str]](list)
        for row in rows:
            if is_photo(layout, row.path):
                self._count(row)
            elif is_annotation(layout, row.path):
                self.annotations.add(hash(row.path))
        if self.repeated or self.expected != self.annotations:
            for row in rows:
                self._name(row)

    def _count(self, row: Row) -> None:
        self.groups[group(self.layout, row.path)] += 1
        self.sizes.append(row.size)
        self.expected.add(hash(annotation_of(self.layout, row.path)))
        content = _content(row)
        (self.repeated if content in self.contents else self.contents).add(content)
        if row.size <= MAX_IMAGE_BYTES:
            self.sample.add(row)

    def _name(self, row: Row) -> None:
        if is_photo(self.layout, row.path):
            if _content(row) in self.repeated:
                self.same[_content(row)].append(row.path)
            if hash(annotation_of(self.layout, row.path)) not in self.annotations:
                self.odd.add(row._replace(reason=NO_ANNOTATION))
        elif is_annotation(self.layout, row.path) and hash(row.path) not in self.expected:
            self.odd.add(row._replace(reason=NO_IMAGE))


def _content(row: Row) -> int:
    """Return size and checksum as one number: files with the same number have the same bytes."""
    return row.size << 32 | row.crc32c


class _Sample:
    """An even sample of any number of rows: each time it is full, every second row is dropped."""

    def __init__(self) -> None:
        self._rows, self._every, self._passed = list[Row](), 1, 0

    def add(self, row: Row) -> None:
        """Consider the next row for the sample."""
        if self._passed % self._every == 0:
            self._rows.append(row)
            if len(self._rows) == 4 * MAX_SAMPLE:
                self._rows, self._every = self._rows[::2], 2 * self._every
        self._passed += 1

    def rows(self) -> list[Row]:
        """Return at most MAX_SAMPLE rows; of a small dataset one in SAMPLE_STEP, but enough for the contact sheet."""
        count = min(MAX_SAMPLE, max(self._passed // SAMPLE_STEP, THUMBNAILS), len(self._rows))
        return [self._rows[index * len(self._rows) // count] for index in range(count)]


def read_previews(bucket: Bucket, survey: Survey) -> list[Preview]:
    """Read the sample of the images back; THUMBNAILS of them get a thumbnail and their boxes."""
    chosen = survey.sample.rows()
    shown = {chosen[index * len(chosen) // THUMBNAILS].path for index in range(THUMBNAILS)} if chosen else set()
    largest = max([1, *(row.size for row in chosen)])

    def read(row: Row) -> Preview:
        is_shown, name = row.path in shown, annotation_of(survey.layout, row.path)
        annotation = _small(bucket, name) if is_shown and hash(name) in survey.annotations else b""
        return preview(row.path, bucket.get(row.path) or b"", annotation, is_shown)

    with ThreadPoolExecutor(min(bucket.max_in_flight, MAX_PARALLEL_BYTES // largest)) as pool:
        return list(pool.map(read, chosen))


def _small(bucket: Bucket, name: str) -> bytes:
    """Return an annotation, or nothing if it is larger than MAX_ANNOTATION_BYTES."""
    data = b""
    for chunk in bucket.read(name) or ():
        data += chunk
        if len(data) > MAX_ANNOTATION_BYTES:
            return b""
    return data
