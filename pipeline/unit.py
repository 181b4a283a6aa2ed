"""A unit of work: a span of an archive or a batch of photos; small, picklable, idempotent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from archives.spans import Span
from manifest.journal import JournalEntry
from manifest.records import Row
from manifest.selection import ALL, EVERYTHING, Filter, Selection
from sources.photo_tables import Photo
from sources.source import Source

Wanted = Mapping[str, Row] | None  # object name → expected member; None: all members


@dataclass(frozen=True)
class SpanWork:
    """A span of an archive, whose members become objects under `prefix`."""

    source: Source
    span: Span
    prefix: str
    selection: Selection = ALL
    photos: ClassVar[tuple[Photo, ...]] = ()


@dataclass(frozen=True)
class PhotoWork:
    """Photos and their annotations, which become objects under two prefixes."""

    photos: tuple[Photo, ...]
    image_prefix: str
    annotation_prefix: str
    table: str = ""  # URL of the table that lists them
    filter: Filter = EVERYTHING
    span: ClassVar[None] = None  # photos have no archive

    def image_of(self, photo: Photo) -> str:
        """The object name of a photo."""
        return f"{self.image_prefix}{photo.name}.png"

    def annotation_of(self, photo: Photo) -> str:
        """The object name of its annotation."""
        return f"{self.annotation_prefix}{photo.name}.json"

    def names_of(self, photo: Photo) -> tuple[str, str]:
        """The object names of both."""
        return self.image_of(photo), self.annotation_of(photo)


@dataclass(frozen=True)
class Unit:
    """A piece of work. `fingerprint` identifies the source and its version."""

    id: str
    dataset: str
    fingerprint: str
    work: SpanWork | PhotoWork
    size: int = 0  # bytes to fetch; 0 where unknown
    objects: int | None = None  # number of objects, if known in advance
    so_far: JournalEntry | None = None  # what earlier runs or other processes stored of it
    is_reread: bool = False  # True: read all and compare it with `so_far`; False: `work` is what `so_far` lacks

    @property
    def archive(self) -> str:
        """The file name of its archive, or "photos"."""
        return self.id.rpartition("/")[0]


def is_whole(entry: JournalEntry | None) -> bool:
    """Whether the entry covers a whole unit."""
    return entry is not None and entry.upto is None
