"""Join the images of a dataset with their annotations, in the order of their paths, from rows with notes.

Images and annotations are two streams in packed pieces. Their orders are nearly the same, because their names differ
only in prefix and suffix. So only the annotations of a few hundred images are unpacked at a time.
"""

from __future__ import annotations

import marshal
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

from datasets import Layout
from manifest.labels.notes import (
    ANNOTATION_TOO_LARGE,
    MAX_ANNOTATION_BYTES,
    Annotation,
    ImageHeader,
    annotation_note,
    image_note,
    read_annotation_note,
    read_image_note,
)
from manifest.layout import annotation_of, group, is_annotation, is_photo
from manifest.records import COMPRESSION_LEVEL, Row
from storage.bucket import Bucket, encode_crc32c

CONCURRENT_READS = 32  # concurrent reads of objects that have no note
ROWS_PER_PIECE = 500  # rows that are packed together

T = TypeVar("T", bound=tuple[str | int, ...])

PackedImage = tuple[str, int, int, str]  # path, size, crc32c, note


class NotedImage(NamedTuple):
    """An image with its header and its annotation; `annotation` is "" if there is none."""

    path: str
    size: int  # bytes
    crc32c: str  # as in the table
    group: str
    header: ImageHeader
    annotation: str
    said: Annotation


class PackedRows(Generic[T]):
    """Tuples of texts and numbers, compressed in pieces to a fifth or a tenth of their size."""

    def __init__(self) -> None:
        self._packed, self._last = list[bytes](), list[T]()

    def add(self, row: T) -> None:
        """Append a row."""
        self._last.append(row)
        if len(self._last) == ROWS_PER_PIECE:
            self._packed.append(zlib.compress(marshal.dumps(self._last), COMPRESSION_LEVEL))
            self._last = []

    def __iter__(self) -> Iterator[list[T]]:
        """Yield the rows in pieces."""
        for piece in self._packed:
            yield marshal.loads(zlib.decompress(piece))  # noqa: S302 - made by this process
        if self._last:
            yield self._last


class NotedRows:
    """Receives the rows of a dataset in the order of their paths, and keeps the notes of images and annotations."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.groups = layout, set[str]()
        self.packed_images, self.packed_annotations = PackedRows[PackedImage](), PackedRows[tuple[str, str]]()

    def add(self, row: Row) -> None:
        """Keep the row if it is an image or an annotation."""
        if is_photo(self.layout, row.path):
            self.groups.add(group(self.layout, row.path))
            self.packed_images.add((row.path, row.size, row.crc32c, row.note))
        elif is_annotation(self.layout, row.path):
            is_large = row.size > MAX_ANNOTATION_BYTES  # which is not read back either
            self.packed_annotations.add((row.path, row.note or (ANNOTATION_TOO_LARGE if is_large else "")))

    @classmethod
    def of(cls, layout: Layout, rows: Iterable[Row]) -> NotedRows:
        """Create it from all rows."""
        noted = cls(layout)
        for row in rows:
            noted.add(row)
        return noted

    def images(self, bucket: Bucket) -> Iterator[NotedImage]:
        """Yield each image; objects without a note, as in older journals, are read back from the bucket."""
        annotations = _Ahead(chain.from_iterable(self.packed_annotations))
        with ThreadPoolExecutor(CONCURRENT_READS) as pool:
            for piece in self.packed_images:
                names = [annotation_of(self.layout, path) for path, *_ in piece]
                notes = annotations.of(names)
                said = self._read_back(bucket, pool, piece, notes)
                for (path, size, crc32c, note), name in zip(piece, names, strict=True):
                    header = read_image_note(note or said[path]) or ImageHeader()
                    found = (name, read_annotation_note(notes[name])) if name in notes else ("", Annotation())
                    yield NotedImage(path, size, encode_crc32c(crc32c), group(self.layout, path), header, *found)

    def _read_back(
        self, bucket: Bucket, pool: ThreadPoolExecutor, images: list[PackedImage], notes: dict[str, str]
    ) -> dict[str, str]:
        """Read objects without a note: fill in the notes of annotations, and return those of images by path."""
        unsaid = [name for name, note in notes.items() if not note]
        notes |= zip(unsaid, pool.map(lambda name: annotation_note(bucket.get(name) or b""), unsaid), strict=True)
        silent = [path for path, *_, note in images if not note]
        return dict(zip(silent, pool.map(lambda path: image_note(bucket.read(path) or ()), silent), strict=True))


class _Ahead:
    """Reads the notes of annotations as far ahead as the images need."""

    def __init__(self, lines: Iterator[tuple[str, str]]) -> None:
        self._lines, self._waiting, self._last = lines, dict[str, str](), ""

    def of(self, names: Sequence[str]) -> dict[str, str]:
        """The notes of these annotations, if they exist; names must come in about the order of the lines."""
        furthest = max(names)
        while self._last <= furthest and (line := next(self._lines, None)):
            self._last, self._waiting[line[0]] = line[0], line[1]
        # The last one is kept: two images, such as dog.jpg and dog.png, can have the same annotation.
        found = {name: self._waiting[name] for name in names if name in self._waiting}
        for name in found.keys() - {names[-1]}:
            del self._waiting[name]
        return found
