"""Plan tar shards of a dataset's images, in the format of WebDataset.

The members of a sample are consecutive, and have the same name up to the first dot
(https://github.com/webdataset/webdataset#the-webdataset-format). The members, the size and the checksum of a shard
follow from the table of images, before any image is read. So shards are reproducible, and a bucket's listing shows
whether a shard is right.
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

from manifest.labels.splits import UNLISTED
from storage.bucket import decode_crc32c, encode_crc32c

SHARD_BYTES = 256 << 20  # bytes of a shard, about
END = bytes(2 * tarfile.BLOCKSIZE)  # the end of a tar: POSIX.1-2024, pax, "ustar Interchange Format"
ENDINGS = {"jpeg": "jpg", None: "bin"}  # suffixes of members by the image's format, where they differ from it


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
        """The bytes before the image in the tar."""
        return _header(f"{self.number:08d}.{ENDINGS.get(self.form, self.form)}", self.size)

    @property
    def after(self) -> bytes:
        """The bytes after the image in the tar: padding, and the line as a member of its own."""
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
        """The file name."""
        return f"{self.split}-{self.number:06d}.tar"

    @cached_property
    def size(self) -> int:
        """The size of the file in bytes."""
        return sum(map(_room, self.samples)) + len(END)

    @cached_property
    def crc32c(self) -> int:
        """The checksum of the file, computed from the checksums of its images."""
        value = 0
        for sample in self.samples:
            value = google_crc32c.extend(value, sample.before)
            zeros = bytes(sample.size)  # stand for the image, because a CRC is affine in the bytes
            value = google_crc32c.extend(value, zeros) ^ google_crc32c.value(zeros) ^ sample.crc32c
            value = google_crc32c.extend(value, sample.after)
        return int(google_crc32c.extend(value, END))

    def encode(self) -> dict[str, Any]:
        """Encode for the index."""
        return {
            "name": self.name, "split": self.split, "samples": len(self.samples), "bytes": self.size,
            "crc32c": encode_crc32c(self.crc32c),
        }  # fmt: skip


def shards(lines: Iterable[bytes], size: int) -> list[Shard]:
    """Divide the lines of a table into shards of about `size` bytes, of equal size within a split.

    Images are sorted by the hash of their path, so that each shard has images of all labels.
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
    """The size of a sample in a tar, in bytes."""
    return sum(tarfile.BLOCKSIZE + size + -size % tarfile.BLOCKSIZE for size in (sample.size, len(sample.line)))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)
