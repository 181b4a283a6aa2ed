"""Rows with notes become the images of a dataset, each with its annotation, in the order of their paths.

Images and annotations are two streams, packed like the rows themselves (manifest/records.py). Their names differ only
in what is before and after, so their orders are nearly the same: of the annotations only those are unpacked that a few
hundred images need.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from datasets import Layout
from labels.layout import annotation_of, group, is_annotation, is_photo
from labels.notes import (
    LARGEST_ANNOTATION,
    TOO_LARGE,
    Annotation,
    ImageHeader,
    annotation_note,
    image_note,
    read_annotation_note,
    read_image_note,
)
from labels.packed import PackedText
from manifest.records import Row
from storage.bucket import Bucket, encode_crc32c

PIECE = 500  # images whose annotations are looked for together
READS_AT_ONCE = 32  # of objects that have no note


class NotedImage(NamedTuple):
    """An image, and what it and its annotation say; `annotation` is "" where it has none."""

    path: str
    size: int  # bytes
    crc32c: str  # as in the table
    group: str
    header: ImageHeader
    annotation: str
    said: Annotation


class NotedRows:
    """Receives the rows of a dataset in the order of their paths, and keeps the notes of images and annotations."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.groups = layout, set[str]()
        self._images, self._annotations = PackedText(), PackedText()
        self._write_image, self._write_annotation = (
            csv.writer(text, lineterminator="\n").writerow for text in (self._images, self._annotations)
        )

    def add(self, row: Row) -> None:
        """Keep the row if it is that of an image or of an annotation."""
        if is_photo(self.layout, row.path):
            self.groups.add(group(self.layout, row.path))
            self._write_image((row.path, row.size, encode_crc32c(row.crc32c), row.note))
        elif is_annotation(self.layout, row.path):
            is_large = row.size > LARGEST_ANNOTATION  # then it is not even read back
            self._write_annotation((row.path, row.note or (TOO_LARGE if is_large else "")))

    @classmethod
    def of(cls, layout: Layout, rows: Iterable[Row]) -> NotedRows:
        """With all these rows."""
        noted = cls(layout)
        for row in rows:
            noted.add(row)
        return noted

    def images(self, bucket: Bucket) -> Iterator[NotedImage]:
        """Each image once; an object without a note, of an older journal for example, is read back from the bucket."""
        images, annotations = csv.reader(self._images.lines()), _Ahead(csv.reader(self._annotations.lines()))
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            while piece := list(islice(images, PIECE)):
                names = [annotation_of(self.layout, path) for path, *_ in piece]
                notes = annotations.of(names)
                self._read_back(bucket, pool, piece, notes)
                for (path, size, crc32c, note), name in zip(piece, names, strict=True):
                    said = read_annotation_note(notes[name]) if name in notes else Annotation()
                    yield NotedImage(
                        path, int(size), crc32c, group(self.layout, path), read_image_note(note) or ImageHeader(),
                        name if name in notes else "", said,
                    )  # fmt: skip

    def _read_back(
        self, bucket: Bucket, pool: ThreadPoolExecutor, images: list[list[str]], notes: dict[str, str]
    ) -> None:
        """Fill in the notes that are missing from the objects themselves."""
        silent = [image for image in images if not image[3]]
        for image, note in zip(silent, pool.map(lambda each: _image_note(bucket, each[0]), silent), strict=True):
            image[3] = note
        unsaid = [name for name, note in notes.items() if not note]
        notes |= zip(unsaid, pool.map(lambda name: annotation_note(bucket.get(name) or b""), unsaid), strict=True)


class _Ahead:
    """The annotations' notes, read as far ahead as the images need."""

    def __init__(self, lines: Iterator[list[str]]) -> None:
        self._lines, self._waiting, self._last = lines, dict[str, str](), ""

    def of(self, names: Sequence[str]) -> dict[str, str]:
        """The notes of these annotations, of those that are there; names come in about the order of the lines."""
        furthest = max(names)
        while self._last <= furthest and (line := next(self._lines, None)):
            self._last, self._waiting[line[0]] = line[0], line[1]
        # The last one's is kept: two images, as dog.jpg and dog.png, can have the same annotation.
        found = {name: self._waiting[name] for name in names if name in self._waiting}
        for name in found.keys() - {names[-1]}:
            del self._waiting[name]
        return found


def _image_note(bucket: Bucket, path: str) -> str:
    return image_note(bucket.read(path) or ())
