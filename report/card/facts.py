"""Collects the facts of a complete dataset for its card: contents, formats and findings.

Everything comes from the bucket: the manifest lists every object, and a sample of the images is read back for
dimensions and thumbnails.
"""

from __future__ import annotations

import io
import json
import math
import threading
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from PIL import Image

from datasets import Dataset
from manifest.counters import NONE, CountWithExamples, ReasonCounter
from manifest.labels.annotations import Box
from manifest.labels.noted import NotedRows, PackedImage
from manifest.labels.notes import MAX_ANNOTATION_BYTES, boxes_note, read_annotation_note
from manifest.layout import annotation_of, group
from manifest.records import Row
from manifest.selection import Filter
from storage.bucket import Bucket

MAX_SAMPLE = 240  # images read back at most, in even steps through the manifest, so that all breeds are among them
SAMPLE_STEP = 20  # of a smaller dataset, one image in SAMPLE_STEP is read back
THUMBNAILS = 12  # images of the contact sheet
MAX_IMAGE_BYTES = 16 << 20  # bytes; larger images are not read back
MAX_PARALLEL_BYTES = 64 << 20  # bytes read back in parallel, at most: for usual images the whole sample
MAX_GROUPS = 200  # groups shown by name; of more, only their sizes are shown
BINS = 24
NO_ANNOTATION, NO_IMAGE = "without annotation", "without image"
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")  # some other readers of Pillow start programs
THUMBNAIL_PIXELS = 300  # pixels of a thumbnail's longer side: twice what the page shows, for dense screens
JPEG_QUALITY = 78
MAX_PIXELS = 24_000_000  # of an image that is decoded: 72 MB, of which there is one at a time
_decoding = threading.Lock()


# ── facts ────────────────────────────────────────────────────────────────────────────────────────


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
    """Counts images and annotations, samples the images evenly, and names unpaired and identical files.

    There can be millions of them, so only hashes of most names are kept. A second pass, where one is needed, collects
    the names of the findings.
    """

    def __init__(self, noted: NotedRows) -> None:
        self.layout = noted.layout
        self.groups, self.sizes = Counter[str](), array("Q")
        self.annotations, self.expected = set[int](), set[int]()  # hashes of their names
        self.contents, self.repeated = set[int](), set[int]()
        self.sample, self.odd, self.same = _Sample(), ReasonCounter(), defaultdict[int, list[str]](list)
        for piece in noted.packed_images:
            for image in piece:
                self._count(image)
        for names in noted.packed_annotations:
            self.annotations.update(hash(path) for path, _ in names)
        if self.repeated or self.expected != self.annotations:
            self._name(noted)

    def _count(self, image: PackedImage) -> None:
        path, size, *_ = image
        self.groups[group(self.layout, path)] += 1
        self.sizes.append(size)
        self.expected.add(hash(annotation_of(self.layout, path)))
        content = _content(image)
        (self.repeated if content in self.contents else self.contents).add(content)
        if size <= MAX_IMAGE_BYTES:
            self.sample.add(image)

    def _name(self, noted: NotedRows) -> None:
        for image in chain.from_iterable(noted.packed_images):
            if _content(image) in self.repeated:
                self.same[_content(image)].append(image[0])
            if hash(annotation_of(self.layout, image[0])) not in self.annotations:
                self.odd.add(Row(image[0], 0, 0, "", 0, reason=NO_ANNOTATION))
        for path, _ in chain.from_iterable(noted.packed_annotations):
            if hash(path) not in self.expected:
                self.odd.add(Row(path, 0, 0, "", 0, reason=NO_IMAGE))


def _content(image: PackedImage) -> int:
    """Return size and checksum as one number: files with the same number have the same bytes."""
    _, size, crc32c, _ = image
    return size << 32 | crc32c


class _Sample:
    """An even sample of any number of images: each time it is full, every second one is dropped."""

    def __init__(self) -> None:
        self._images, self._every, self._passed = list[PackedImage](), 1, 0

    def add(self, image: PackedImage) -> None:
        """Consider the next image for the sample."""
        if self._passed % self._every == 0:
            self._images.append(image)
            if len(self._images) == 4 * MAX_SAMPLE:
                self._images, self._every = self._images[::2], 2 * self._every
        self._passed += 1

    def images(self) -> list[PackedImage]:
        """Return at most MAX_SAMPLE images; of a small dataset one in SAMPLE_STEP, but enough for the contact sheet."""
        count = min(MAX_SAMPLE, max(self._passed // SAMPLE_STEP, THUMBNAILS), len(self._images))
        return [self._images[index * len(self._images) // count] for index in range(count)]


# ── images that are read back ────────────────────────────────────────────────────────────────────


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


def read_previews(bucket: Bucket, survey: Survey) -> list[Preview]:
    """Read the sample of the images back; THUMBNAILS of them get a thumbnail and their boxes."""
    chosen = survey.sample.images()
    shown = {chosen[index * len(chosen) // THUMBNAILS][0] for index in range(THUMBNAILS)} if chosen else set()
    largest = max([1, *(size for _, size, *_ in chosen)])

    def read(image: PackedImage) -> Preview:
        path, *_ = image
        is_shown, name = path in shown, annotation_of(survey.layout, path)
        annotation = _small(bucket, name) if is_shown and hash(name) in survey.annotations else b""
        return preview(path, bucket.get(path) or b"", annotation, is_shown)

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
