"""Rows, the outcomes of members, packed in the order of their paths.

A row takes 500 bytes, a packed row about 30. A run keeps all rows packed and reads them as a stream in the order of
their paths.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import IO, Any, NamedTuple, cast

from errors import redact, shown
from storage.bucket import decode_crc32c, encode_crc32c
from storage.names import parents

STORED, GONE, NOT_AN_IMAGE, REFUSED, FAILED = "stored", "gone", "not an image", "refused", "failed"
LINKED = "linked"  # a hard link before it is resolved; its reason is the target's object name
ABSENT = frozenset({GONE, NOT_AN_IMAGE})  # photos that the source does not have, which is normal for a few
COMPRESSION_LEVEL = 1  # gzip level; higher levels take three times as long for a fifth less
ROWS_PER_MARK = 250  # rows from one mark to the next


class Row(NamedTuple):
    """The outcome of one member or photo."""

    path: str  # object name, from the bucket's root
    size: int  # bytes
    crc32c: int
    source: str  # URL of the archive or photo
    offset: int  # bytes into the archive; 0 for a photo
    outcome: str = STORED
    reason: str = ""  # why it is not stored; of a stored member, how its name and its bytes disagree
    note: str = ""  # what the table of images needs from its bytes (manifest/labels/notes.py)

    @property
    def is_folder(self) -> bool:
        return self.path.endswith("/")


@dataclass(frozen=True)
class Rows:
    """Rows sorted by path and offset; can be iterated any number of times.

    `packed` is gzipped CSV: the columns of manifest.csv, then outcome, reason and note where a row has them.
    """

    packed: bytes = b""
    count: int = 0
    stored: int = 0  # without folders
    gone: int = 0
    bad: int = 0  # failed or refused
    size: int = 0  # bytes of the stored ones
    text_size: int = 0  # bytes of the CSV
    folders: frozenset[str] = frozenset()  # all folders above the stored objects
    marks: tuple[str, ...] = ()  # the first path and every 250th after it, between which a bucket can be listed
    links: int = 0  # hard links
    not_images: int = 0  # photos that are no images; older versions count these as gone

    @property
    def absent(self) -> int:
        """Number of photos that the source does not have."""
        return self.gone + self.not_images

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Rows:
        """Pack rows in any order; all of them are in memory meanwhile."""
        return cls.of_sorted(sorted(rows, key=itemgetter(0, 4)))

    @classmethod
    def of_sorted(cls, rows: Iterable[Row]) -> Rows:
        """Pack rows that are sorted by path; only one of them is in memory at a time."""
        packed, counts = io.BytesIO(), _Counts()
        file = gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=COMPRESSION_LEVEL, mtime=0)
        with io.TextIOWrapper(cast(IO[bytes], file), "utf-8", "surrogatepass", newline="") as text:
            csv.writer(text, lineterminator="\n").writerows(counts.lines(rows))
            text.flush()
            text_size = file.tell()
        outcomes, folders = counts.outcomes, parents(f"{folder}/" for folder in counts.folders)
        return cls(
            packed.getvalue(), counts.count, counts.stored, outcomes[GONE], outcomes[FAILED] + outcomes[REFUSED],
            counts.size, text_size, frozenset(folders), tuple(counts.marks), outcomes[LINKED], outcomes[NOT_AN_IMAGE],
        )  # fmt: skip

    def encode(self) -> dict[str, object]:
        """Encode for JSON; the keys are those of stored journals."""
        return {
            "packed": b64encode(self.packed).decode(), "count": self.count, "stored": self.stored, "gone": self.gone,
            "bad": self.bad, "size": self.size, "text_size": self.text_size, "folders": sorted(self.folders),
            "marks": list(self.marks), "links": self.links, "not_images": self.not_images,
        }  # fmt: skip

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> Rows:
        """Reverse encode(); raises ValueError, KeyError or TypeError for other input."""
        return cls(
            b64decode(fields["packed"]), fields["count"], fields["stored"], fields["gone"], fields["bad"],
            fields["size"], fields["text_size"], frozenset(fields["folders"]), tuple(fields["marks"]),
            fields.get("links", 0), fields.get("not_images", 0),  # missing in older journals
        )  # fmt: skip

    def __iter__(self) -> Iterator[Row]:
        if self.packed:
            text = io.TextIOWrapper(cast(IO[bytes], self._file()), "utf-8", "surrogatepass", newline="")
            yield from map(_row, csv.reader(text))

    def __len__(self) -> int:
        return self.count

    def _file(self) -> gzip.GzipFile:
        return gzip.GzipFile(fileobj=io.BytesIO(self.packed))

    def text(self) -> Iterator[bytes]:
        """The CSV in chunks."""
        with self._file() as file:
            while chunk := file.read(1 << 20):
                yield chunk


class _Counts:
    """Counts rows while they are packed."""

    def __init__(self) -> None:
        self.count = self.stored = self.size = 0
        self.outcomes = Counter[str]()  # other than stored
        self.folders, self.marks = set[str](), list[str]()

    def lines(self, rows: Iterable[Row]) -> Iterator[tuple[object, ...]]:
        """Count the rows and yield them as lines of CSV."""
        last = redacted = ""  # consecutive rows mostly share their source
        for path, size, crc32c, source, offset, outcome, reason, note in rows:
            if self.count % ROWS_PER_MARK == 0:
                self.marks.append(path)
            self.count += 1
            if outcome == STORED:
                folder, _, name = path.rpartition("/")
                self.folders.add(folder)
                self.stored, self.size = self.stored + bool(name), self.size + size
            else:
                self.outcomes[outcome] += 1
            if source != last:
                last, redacted = source, redact(source)
            line = path, size, encode_crc32c(crc32c), redacted, offset
            if outcome == STORED and not reason:
                yield (*line, outcome, "", note) if note else line
            else:
                text = reason if outcome == LINKED else shown(reason)  # that of a link is an exact name
                yield (*line, outcome, text, note) if note else (*line, outcome, text)


def read_rows(lines: Iterable[str]) -> Iterator[Row]:
    """Parse manifest.csv, whose first line has the column names; raises ValueError for other input."""
    table = csv.reader(lines)
    next(table, None)
    return map(_row, table)


def _row(line: list[str]) -> Row:
    path, size, crc32c, source, offset, *rest = line
    return Row(path, int(size), decode_crc32c(crc32c), sys.intern(source), int(offset), *rest)
