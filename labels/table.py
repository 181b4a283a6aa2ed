"""The images of a dataset become one table in two formats: metadata.csv and metadata.jsonl.

A line an image, in the order of the paths. Both have the same columns; boxes are JSON in the one as in the other.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import google_crc32c

from labels.annotations import Box
from labels.layout import label
from labels.noted import NotedImage, NotedRows
from labels.notes import COMPACT
from labels.packed import PackedText
from manifest.counters import EXAMPLES
from storage.bucket import Bucket, encode_crc32c

COLUMNS = (
    "path", "label", "label_index", "split", "width", "height", "format", "boxes", "annotation", "size", "crc32c",
)  # fmt: skip
CSV, JSONL = "metadata.csv", "metadata.jsonl"
KINDS = {CSV: "text/csv", JSONL: "application/x-ndjson"}
AT_ONCE = 500  # lines
MOST_LABELS = 200  # counted by name


@dataclass
class Tally:
    """What all lines of a table show together."""

    images: int = 0
    splits: Counter[str] = field(default_factory=Counter)  # images by split; "" for those that no split names
    labels: defaultdict[str, Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )  # images by split, by label
    boxes: Counter[int] = field(default_factory=Counter)  # images by the number of their boxes
    outside: list[str] = field(default_factory=list)  # the first few images with a box that is not inside them
    outside_count: int = 0
    unparsed: list[str] = field(default_factory=list)  # the first few annotations that cannot be parsed, and why
    unparsed_count: int = 0

    def add(self, image: NotedImage, label: str, split: str) -> None:
        """Count an image."""
        self.images += 1
        self.splits[split] += 1
        self.labels[label][split] += 1
        self.boxes[len(image.said.boxes)] += 1
        width, height = image.header.width, image.header.height
        if width and height and not all(box.is_inside(width, height) for box in image.said.boxes):
            self.outside_count += 1
            self.outside += [image.path][: EXAMPLES - len(self.outside)]
        if image.said.error:
            self.unparsed_count += 1
            self.unparsed += [f"{image.annotation}: {image.said.error}"][: EXAMPLES - len(self.unparsed)]

    def encode(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {
            "images": self.images,
            "splits": dict(sorted(self.splits.items())),
            "labels": _by_label(self.labels) if len(self.labels) <= MOST_LABELS else {},
            "boxes_per_image": {str(number): count for number, count in sorted(self.boxes.items())},
            "outside": {"count": self.outside_count, "examples": self.outside},
            "unparsed": {"count": self.unparsed_count, "examples": self.unparsed},
        }


def _by_label(labels: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {label: dict(sorted(counts.items())) for label, counts in sorted(labels.items())}


class TableFile:
    """A file of the table: its text, packed, and the size and checksums of its bytes."""

    def __init__(self, name: str) -> None:
        self.name, self.size, self.text = name, 0, PackedText()
        self._sha256, self._crc32c = hashlib.sha256(), google_crc32c.Checksum()
        self._lines = list[str]()
        self.write = self._lines.append

    def flush(self) -> None:
        """Count and pack what was written since the last time: a call costs as much as a line."""
        text = "".join(self._lines)
        self._lines.clear()
        data = text.encode("utf-8", "surrogatepass")
        self.size += len(data)
        self._sha256.update(data)
        self._crc32c.update(data)
        self.text.write(text)

    def encode(self) -> dict[str, Any]:
        """As the manifest seals it."""
        crc32c = encode_crc32c(int.from_bytes(self._crc32c.digest(), "big"))
        return {"size": self.size, "sha256": self._sha256.hexdigest(), "crc32c": crc32c}


def sealed(data: bytes) -> dict[str, Any]:
    """What the manifest says of a file of these bytes."""
    file = TableFile("")
    file.write(data.decode())
    file.flush()
    return file.encode()


SplitOf = Callable[[str], str]  # of an image's path


def tables(noted: NotedRows, bucket: Bucket, split_of: SplitOf) -> tuple[list[TableFile], Tally]:
    """Both files, and what all lines show together; the bytes depend on the dataset alone."""
    columns, tally = (*COLUMNS, *noted.layout.columns), Tally()
    indexes = {name: index for index, name in enumerate(sorted(noted.groups, key=lambda it: (it.casefold(), it)))}
    table, lines = TableFile(CSV), TableFile(JSONL)
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    names = {name: label(name) for name in indexes}
    for number, image in enumerate(noted.images(bucket)):
        name, split = names[image.group], split_of(image.path)
        tally.add(image, name, split)
        values = dict(
            zip(columns, _values(image, name, indexes[image.group], split, noted.layout.columns), strict=True)
        )
        lines.write(f"{COMPACT(values)}\n")
        writer.writerow((values | {"boxes": COMPACT(values["boxes"])}).values())
        if number % AT_ONCE == 0:
            table.flush()
            lines.flush()
    table.flush()
    lines.flush()
    return [table, lines], tally


def _values(image: NotedImage, label: str, index: int, split: str, more: Iterable[str]) -> list[Any]:
    """The values of COLUMNS, and those of more facts."""
    header, boxes = image.header, [dict(zip(Box._fields, box, strict=True)) for box in image.said.boxes]
    return [
        image.path, label, index, split or None, header.width, header.height, header.format, boxes,
        image.annotation or None, image.size, encode_crc32c(image.crc32c), *map(image.said.facts.get, more),
    ]  # fmt: skip
