"""The table of images becomes a plan of tar files, in the form that WebDataset reads.

The members of a sample follow each other, and have the same name up to the first dot
(https://github.com/webdataset/webdataset#the-webdataset-format). What a shard holds, its size and its checksum follow
from the table alone, before an image is read. So a shard is the same whenever and wherever it is made, and a bucket's
listing shows whether it is right.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import google_crc32c

from labels.splits import UNLISTED
from storage.bucket import decode_crc32c, encode_crc32c

SIZE = 256 << 20  # bytes of a shard, about
END = bytes(2 * tarfile.BLOCKSIZE)  # of a tar: POSIX.1-2024, pax, "ustar Interchange Format"
ENDINGS = {"jpeg": "jpg", None: "bin"}  # of members, by the image's format; others are their own


class Sample(NamedTuple):
    """An image and its line of the table."""

    number: int  # of the line, from 0
    line: bytes
    path: str
    size: int  # bytes of the image
    crc32c: int
    form: str | None

    @classmethod
    def of(cls, number: int, line: bytes) -> Sample:
        """The sample of a line of metadata.jsonl."""
        fields = json.loads(line)
        return cls(number, line, fields["path"], fields["size"], decode_crc32c(fields["crc32c"]), fields["format"])

    @property
    def before(self) -> bytes:
        """What is before the image in the tar."""
        return _header(f"{self.number:08d}.{ENDINGS.get(self.form, self.form)}", self.size)

    @property
    def after(self) -> bytes:
        """What is after it: the line as JSON."""
        line = _header(f"{self.number:08d}.json", len(self.line)) + self.line
        return bytes(-self.size % tarfile.BLOCKSIZE) + line + bytes(-len(line) % tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Shard:
    """A tar file of samples; picklable."""

    split: str
    number: int
    samples: tuple[Sample, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.split}-{self.number:06d}.tar"

    @cached_property
    def size(self) -> int:
        """Its bytes."""
        return sum(map(_room, self.samples)) + len(END)

    @cached_property
    def crc32c(self) -> int:
        """Of its bytes, from the checksums of its images."""
        value = 0
        for sample in self.samples:
            value = google_crc32c.extend(value, sample.before)
            zeros = bytes(sample.size)  # a CRC is affine in the bytes: these stand for the image's
            value = google_crc32c.extend(value, zeros) ^ google_crc32c.value(zeros) ^ sample.crc32c
            value = google_crc32c.extend(value, sample.after)
        return int(google_crc32c.extend(value, END))

    def encode(self) -> dict[str, Any]:
        """As the index has it."""
        return {
            "name": self.name, "split": self.split, "samples": len(self.samples), "bytes": self.size,
            "crc32c": encode_crc32c(self.crc32c),
        }  # fmt: skip


def shards(lines: Iterable[bytes], size: int) -> list[Shard]:
    """The shards of a table's lines, each of about `size` bytes; those of a split are of about equal size.

    The order is that of the hashes of the paths, so that each shard has images of all labels.
    """
    splits = defaultdict[str, list[Sample]](list)
    for number, line in enumerate(lines):
        sample = Sample.of(number, line)
        splits[json.loads(line)["split"] or UNLISTED].append(sample)
    return [shard for split, samples in sorted(splits.items()) for shard in _shards(split, samples, size)]


def _shards(split: str, samples: list[Sample], size: int) -> Iterator[Shard]:
    samples.sort(key=lambda sample: hashlib.sha256(sample.path.encode("utf-8", "surrogatepass")).digest())
    total, at, parts = sum(map(_room, samples)), 0, defaultdict[int, list[Sample]](list)
    count = max(round(total / size), 1)
    for sample in samples:
        parts[at * count // total].append(sample)
        at += _room(sample)
    return (Shard(split, number, tuple(part)) for number, part in enumerate(parts.values()))


def _room(sample: Sample) -> int:
    """Bytes of a sample in a tar."""
    return sum(tarfile.BLOCKSIZE + size + -size % tarfile.BLOCKSIZE for size in (sample.size, len(sample.line)))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)
