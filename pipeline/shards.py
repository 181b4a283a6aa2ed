"""Make tar shards of a dataset's images, in the format of WebDataset.

The members of a sample are consecutive, and have the same name up to the first dot
(https://github.com/webdataset/webdataset#the-webdataset-format). The members, the size and the checksum of a shard
follow from the table of images, before any image is read. So shards are reproducible, and a bucket's listing shows
whether a shard is right. A shard is written as one tar while its images are read from the bucket in parallel.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import google_crc32c

from errors import BucketError, DamagedError, ExtractionError, MemberError
from manifest.journal import JournalEntry
from manifest.labels.splits import UNLISTED
from manifest.records import Row, Rows
from pipeline.context import WorkerContext
from pipeline.progress import ReportUnit, UnitProgress
from pipeline.unit import PhotoWork, Unit
from storage.bucket import decode_crc32c, encode_crc32c

SHARD_BYTES = 256 << 20  # bytes of a shard, about
END = bytes(2 * tarfile.BLOCKSIZE)  # the end of a tar: POSIX.1-2024, pax, "ustar Interchange Format"
ENDINGS = {"jpeg": "jpg", None: "bin"}  # suffixes of members by the image's format, where they differ from it
READ_AHEAD_BYTES = 4 << 20  # bytes of images that are read ahead for each shard
FOLDER = "shards/"
NO_PHOTOS = PhotoWork((), "", "")


# ── planning ─────────────────────────────────────────────────────────────────────────────────────


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


# ── making ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class ShardUnit(Unit):
    """A unit that makes a shard from stored images; it has no source."""

    shard: Shard

    @classmethod
    def of(cls, dataset: str, shard: Shard) -> ShardUnit:
        """The unit of a shard."""
        name = f"{shard.split}/{shard.number:06d}"
        return cls(name, dataset, "", NO_PHOTOS, shard.size, 1, shard=shard)

    @property
    def row(self) -> Row:
        """The row of the shard."""
        return Row(f"{FOLDER}{self.dataset}/{self.shard.name}", self.shard.size, self.shard.crc32c, "", 0)

    @property
    def entry(self) -> JournalEntry:
        """The finished unit's entry; it is never written, because the bucket's listing shows the same."""
        return JournalEntry(self.id, self.fingerprint, Rows.of([self.row]), self.size)


def make_shard(unit: ShardUnit, context: WorkerContext, report: ReportUnit) -> JournalEntry:
    """Write the shard of a unit. Raises DamagedError for an image that is not as the table says, and BucketError."""
    name = unit.row.path
    try:
        context.put(name, _Content(unit, context, UnitProgress(unit.id, report)), "application/x-tar")
    except MemberError as error:
        raise BucketError(f"{context.bucket.url}: {name} cannot be written: {error}") from error
    return unit.entry


@dataclass(frozen=True)
class _Content:
    """The chunks of a shard; can be iterated again, for an upload that starts again."""

    unit: ShardUnit
    context: WorkerContext
    progress: UnitProgress

    def __iter__(self) -> Iterator[bytes]:
        for sample, image in self._images():
            self.progress.add(sample.size)
            yield sample.before + image + sample.after
        yield END

    def _images(self) -> Iterator[tuple[Sample, bytes]]:
        waiting, ahead = deque[tuple[Sample, Future[bytes]]](), 0
        for sample in self.unit.shard.samples:
            while waiting and ahead + sample.size > READ_AHEAD_BYTES:
                ahead -= waiting[0][0].size
                yield _arrived(*waiting.popleft())
            waiting.append((sample, self.context.photos.submit(self._image, sample)))
            ahead += sample.size
        while waiting:
            yield _arrived(*waiting.popleft())

    def _image(self, sample: Sample) -> bytes:
        if self.context.stop.is_set():
            raise ExtractionError("interrupted")
        data = self.context.bucket.get(sample.path) or b""
        if (len(data), google_crc32c.value(data)) != (sample.size, sample.crc32c):
            raise DamagedError(
                f"{self.context.bucket.url}/{sample.path}: missing, or not the image that the table has; --repair puts"
                " it right"
            )
        return data


def _arrived(sample: Sample, image: Future[bytes]) -> tuple[Sample, bytes]:
    return sample, image.result()
