"""Make the table of a dataset's images, in two formats: metadata.csv and metadata.jsonl.

It has a line for each image, in the order of the paths. Both formats have the same columns; boxes are JSON in both.
"""

from __future__ import annotations

import csv
import hashlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import google_crc32c

from manifest.counters import NONE, CountWithExamples
from manifest.labels.annotations import COMPACT, Box
from manifest.labels.noted import NotedImage, NotedRows
from manifest.layout import label
from manifest.records import COMPRESSION_LEVEL
from manifest.store import TABLES
from storage.bucket import Bucket, encode_crc32c

COLUMNS = (
    "path", "label", "label_index", "split", "width", "height", "format", "boxes", "annotation", "size", "crc32c",
)  # fmt: skip
BOXES = COLUMNS.index("boxes")
LINE = "{" + ",".join(f'"{column}":%s' for column in COLUMNS)
BOX = "{" + ",".join(f'"{field}":%s' for field in Box._fields) + "}"
CSV, JSONL, CROISSANT = TABLES
LINES_PER_FLUSH = 500  # lines
MAX_LABELS = 200  # counted by name


@dataclass
class Tally:
    """Counts over all lines of a table."""

    counts: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # images by label, split, number of boxes
    outside: CountWithExamples = NONE  # images with a box that is not inside them
    unparsed: CountWithExamples = NONE  # annotations that cannot be parsed, and why

    def add(self, image: NotedImage, label: str, split: str) -> None:
        """Count an image."""
        _, width, height = image.header
        self.counts[label, split, len(image.said.boxes)] += 1
        if width and height and [box for box in image.said.boxes if not box.is_inside(width, height)]:
            self.outside = self.outside.plus(image.path)
        if image.said.error:
            self.unparsed = self.unparsed.plus(f"{image.annotation}: {image.said.error}")

    def encode(self) -> dict[str, Any]:
        """Encode for the manifest."""
        splits, labels, boxes = Counter[str](), defaultdict[str, Counter[str]](Counter), Counter[int]()
        for (name, split, number), count in sorted(self.counts.items()):
            splits[split] += count
            labels[name][split] += count
            boxes[number] += count
        return {
            "images": self.counts.total(),
            "splits": dict(sorted(splits.items())),
            "labels": {name: dict(counts) for name, counts in labels.items()} if len(labels) <= MAX_LABELS else {},
            "boxes_per_image": {str(number): count for number, count in sorted(boxes.items())},
            "outside": asdict(self.outside),
            "unparsed": asdict(self.unparsed),
        }


class TableFile:
    """A file of the table, compressed in memory, and the size and checksums of its bytes; can be read several times."""

    def __init__(self, name: str) -> None:
        self.name, self.size, self._packed = name, 0, list[bytes]()
        self._sha256, self._crc32c = hashlib.sha256(), google_crc32c.Checksum()
        self._lines = list[str]()
        self.write = self._lines.append

    def flush(self) -> None:
        """Count and pack the lines since the last call, together, because each call costs as much as a line."""
        text = "".join(self._lines)
        self._lines.clear()
        data = text.encode("utf-8", "surrogatepass")
        self.size += len(data)
        self._sha256.update(data)
        self._crc32c.update(data)
        self._packed.append(zlib.compress(data, COMPRESSION_LEVEL))

    def __iter__(self) -> Iterator[bytes]:
        return map(zlib.decompress, self._packed)

    def encode(self) -> dict[str, Any]:
        """Size and checksums, for the manifest."""
        crc32c = encode_crc32c(int.from_bytes(self._crc32c.digest(), "big"))
        return {"size": self.size, "sha256": self._sha256.hexdigest(), "crc32c": crc32c}


def sealed(data: bytes) -> dict[str, Any]:
    """Size and checksums of a file with these bytes, for the manifest."""
    crc32c = encode_crc32c(google_crc32c.value(data))
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "crc32c": crc32c}


SplitOf = Callable[[str], str]  # of an image's path


def tables(noted: NotedRows, bucket: Bucket, split_of: SplitOf) -> tuple[list[TableFile], Tally]:
    """Make both files, and counts over their lines; the bytes depend on the dataset alone."""
    tally, table, lines = Tally(), TableFile(CSV), TableFile(JSONL)
    groups, more = sorted(noted.groups, key=lambda it: (it.casefold(), it)), noted.layout.columns
    labels = {name: (label(name), index) for index, name in enumerate(groups)}

    def rows() -> Iterator[tuple[object, ...]]:
        for number, image in enumerate(noted.images(bucket)):
            (name, index), split = labels[image.group], split_of(image.path)
            tally.add(image, name, split)
            values = _values(image, name, index, split)
            facts = {column: image.said.facts.get(column) for column in more}
            lines.write(_line(values, facts))
            if number % LINES_PER_FLUSH == 0:
                table.flush()
                lines.flush()
            yield (*values, *facts.values())

    writer = csv.writer(table, lineterminator="\n")
    writer.writerow((*COLUMNS, *more))
    writer.writerows(rows())
    table.flush()
    lines.flush()
    return [table, lines], tally


def _values(image: NotedImage, label: str, index: int, split: str) -> tuple[str | int | None, ...]:
    """The values of COLUMNS."""
    form, width, height = image.header
    boxes = ",".join([BOX % (COMPACT(kind), *corners) for kind, *corners in image.said.boxes])
    return (
        image.path, label, index, split or None, width, height, form, f"[{boxes}]",
        image.annotation or None, image.size, image.crc32c,
    )  # fmt: skip


def _line(values: Sequence[str | int | None], facts: Mapping[str, Any]) -> str:
    """The line of metadata.jsonl, formatted as text, because one call of a JSON encoder costs as much as all of it."""
    texts: list[object] = [
        COMPACT(each) if isinstance(each, str) else "null" if each is None else each for each in values
    ]
    texts[BOXES] = values[BOXES]
    return f"{LINE % tuple(texts)},{COMPACT(facts)[1:]}\n" if facts else f"{LINE % tuple(texts)}}}\n"
