"""Make a shard: read its images from the bucket in parallel, and write them as one tar while they arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import google_crc32c

from errors import BucketError, DamagedError, ExtractionError, MemberError
from manifest.journal import JournalEntry
from manifest.labels.shards import END, Sample, Shard
from manifest.records import Row, Rows
from pipeline.context import WorkerContext
from pipeline.progress import ReportUnit, UnitProgress
from pipeline.unit import PhotoWork, Unit

READ_AHEAD_BYTES = 4 << 20  # bytes of images that are read ahead for each shard
FOLDER = "shards/"
NO_PHOTOS = PhotoWork((), "", "")


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
