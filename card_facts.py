"""What a card says of a complete dataset: what it holds, of which kind, and what is odd about it.

All of it comes from the bucket: the manifest tells of every object, and a sample of the images is read back for
dimensions and thumbnails.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from buckets import Bucket
from datasets import Dataset, Layout
from formats import is_image
from manifest import READS_AT_ONCE, Book, Reasons, Some
from rows import Row, Rows
from thumbnails import Look, look

SAMPLE = 240  # images read back, in even steps through the manifest: all breeds are among them
THUMBNAILS = 12  # of those
LARGEST = 16 << 20  # bytes of an image that is read back; 32 are in memory at once
MOST_GROUPS = 200  # shown by name; of more, only how large they are
BINS = 24


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
class Card:
    """What card.json says of a dataset, and the page shows; names are object names, sizes bytes and pixels."""

    dataset: str
    title: str
    home: str
    licence: str
    citation: str
    sample: bool
    finished: str
    objects: int
    size: int
    sources: list[dict[str, Any]]
    images: int
    images_published: int | None
    grouped_by: str
    groups: int
    groups_published: int | None
    images_of: dict[str, int]  # by group, the largest first; empty where there are more than MOST_GROUPS
    images_per_group: Histogram | None
    annotations: int
    without_annotation: Some
    without_image: Some
    image_sizes: Histogram | None
    looked_at: int
    widths: Histogram | None
    heights: Histogram | None
    unreadable: dict[str, Some]  # of those looked at
    wrong_format: dict[str, Some]  # of all: what each is, and what its name says
    duplicates: list[tuple[str, ...]]  # images of the same size and checksum
    failures: dict[str, Some]

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self), indent=2).encode()


def describe(
    dataset: Dataset, layout: Layout, rows: Rows, about: Mapping[str, Any], book: Book
) -> tuple[Card, list[Look]]:
    """The card of these rows, and what was seen of the images on its contact sheet."""
    images = [row for row in rows if row.path.startswith(layout.images) and is_image(row.path)]
    groups = Counter(group(layout, row.path) for row in images)
    pairs, annotations = annotations_of(layout, images), all_annotations(layout, rows)
    looks = look_at(book.bucket, pairs, [row.path for row in images if row.size <= LARGEST], annotations)
    seen = [each for each in looks if not each.error]
    card = Card(
        dataset=dataset.name,
        title=dataset.title,
        home=dataset.home,
        licence=dataset.licence,
        citation=dataset.citation,
        sample=about["sample"],
        finished=about["finished"],
        objects=about["objects"],
        size=about["bytes"],
        sources=about["sources"],
        images=len(images),
        images_published=layout.photos,
        grouped_by=layout.grouped_by,
        groups=len(groups),
        groups_published=layout.groups,
        images_of=dict(groups.most_common()) if len(groups) <= MOST_GROUPS else {},
        images_per_group=Histogram.of(groups.values()),
        annotations=len(annotations),
        without_annotation=Some.of(path for path, its in pairs.items() if its not in annotations),
        without_image=Some.of(annotations - set(pairs.values())),
        image_sizes=Histogram.of(row.size for row in images),
        looked_at=len(looks),
        widths=Histogram.of(each.width for each in seen),
        heights=Histogram.of(each.height for each in seen),
        unreadable=Reasons(Row(each.path, 0, 0, "", 0, reason=each.error) for each in looks).told(),
        wrong_format={reason: Some(**some) for reason, some in about.get("wrong_format", {}).items()},
        duplicates=duplicates(images),
        failures=Reasons(row._replace(reason=row.outcome) for row in book.failures()).told(),
    )
    return card, [replace(each, title=title(layout, each.path)) for each in seen if each.thumbnail]


def group(layout: Layout, path: str) -> str:
    """What an image is counted with: its folder, or its name up to the last "_"."""
    folder, slash, name = path.removeprefix(layout.images).rpartition("/")
    return folder if slash else name.rpartition("_")[0] or name


def title(layout: Layout, path: str) -> str:
    """What an image shows, in words."""
    its = label(group(layout, path))
    return its if layout.grouped_by == "breed" else f"{layout.grouped_by} {its}"


def label(group: str) -> str:
    """A group as one would write it: "n02085620-Japanese_spaniel" is Japanese spaniel."""
    return re.sub(r"^(\d+-)?n\d+-", "", group).replace("_", " ")


def annotations_of(layout: Layout, images: Iterable[Row]) -> dict[str, str]:
    """The name that each image's annotation must have."""
    before, key, after = _annotation(layout)
    start = len(layout.images)
    return {
        row.path: f"{before}{row.path[start:] if key == 'name' else row.path[start : row.path.rindex('.')]}{after}"
        for row in images
    }


def all_annotations(layout: Layout, rows: Iterable[Row]) -> set[str]:
    """The names that an annotation can have."""
    before, _, after = _annotation(layout)
    return {row.path for row in rows if row.path.startswith(before) and row.path.endswith(after)}


def _annotation(layout: Layout) -> tuple[str, str, str]:
    before, _, rest = layout.annotation.partition("{")
    key, _, after = rest.partition("}")
    return before, key, after


def duplicates(images: Iterable[Row]) -> list[tuple[str, ...]]:
    """The names of images that are one and the same by size and checksum."""
    same: dict[tuple[int, int], list[str]] = defaultdict(list)
    for row in images:
        same[row.size, row.crc32c].append(row.path)
    return sorted(tuple(sorted(paths)) for paths in same.values() if len(paths) > 1)


def look_at(bucket: Bucket, pairs: dict[str, str], paths: Sequence[str], annotations: set[str]) -> list[Look]:
    """Read a sample of these images back; every twentieth of it gets a thumbnail, with its boxes."""
    count = min(SAMPLE, len(paths))
    chosen = [paths[index * len(paths) // count] for index in range(count)]
    shown = {chosen[index * count // THUMBNAILS] for index in range(THUMBNAILS)} if chosen else set()

    def read(path: str) -> Look:
        its = pairs[path] if path in shown and pairs[path] in annotations else ""
        return look(path, bucket.get(path) or b"", bucket.get(its) or b"" if its else b"", path in shown)

    with ThreadPoolExecutor(min(bucket.at_once, READS_AT_ONCE)) as pool:
        return list(pool.map(read, chosen))
