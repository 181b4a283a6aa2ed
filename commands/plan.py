"""--plan: forecasts what a run would do, from the sources' directories and the bucket's listing. Writes nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from archives.spans import SPAN_BYTES
from commands.costs import CONNECTION_RATE, PRICES, STANDARD, Rates, Work
from commands.extract import with_mirror
from commands.plan_view import print_moves, print_plan
from datasets import Archive, Dataset
from errors import BucketError, ExtractionError, SourceError
from gcs import Destination, open_bucket
from manifest.journal import JournalEntry, checksum_id
from manifest.selection import Filter
from manifest.store import ManifestStore
from pipeline.carried import carried
from pipeline.choosing import check_unfinished, check_wider
from pipeline.context import http_client
from pipeline.existing import ExistingState, check_kind, existing_state, readable_manifest
from pipeline.interrupted import covered
from pipeline.options import READERS, RunOptions
from pipeline.planner import ArchiveLocation, PlannedArchive, locate, narrowed, plan_archive, plan_photos
from pipeline.unit import Unit, is_whole
from report.humanize import amount
from sources import source
from storage.bucket import Bucket, BucketState, wanted_region
from storage.names import object_name, parents
from storage.rate_limit import HIERARCHICAL_FACTOR

log = logging.getLogger("spotted")


@dataclass
class Forecast:
    """What a run would do for one dataset."""

    dataset: Dataset
    objects: int = 0
    there: int | None = None  # objects that need not be stored; None if the bucket cannot be read
    work: Work = field(default_factory=Work)
    moves: list[tuple[str, str]] = field(default_factory=list)  # source => destination, as far as they are known
    is_exact: bool = True
    is_counted: bool = True  # False: an archive must be read before the number of its objects is known
    is_complete: bool = False
    notes: list[str] = field(default_factory=list)
    error: str = ""  # why an extraction would fail


class Place(NamedTuple):
    """The destination as it is, or as a run would create it."""

    bucket: Bucket | None  # None: it does not exist, or cannot be read
    is_readable: bool  # False: what it has is unknown
    has_folders: bool  # which need no placeholders
    storage_class: str


def run(options: RunOptions) -> int:
    """Print what an extraction would do; return the exit status."""
    with contextlib.ExitStack() as stack:
        options, place = with_mirror(options, stack), find_place(options)
        found = [_logged(forecast(dataset, options, place)) for dataset in options.datasets]
    if options.verbose:
        print_moves(found, options.to)
    print_plan(found, options.to, _rates(options, place), options.log_format == "json")
    return max(ExtractionError.exit_status if each.error else 0 for each in found)


def find_place(options: RunOptions) -> Place:
    """Describe the destination without creating it, and log what a user may not expect."""
    bucket, state, why = None, BucketState(False), ""
    try:
        opened = open_bucket(Destination(options.to, terms=options.terms))
        state = opened.probe()
        bucket = opened if state.exists else None
    except BucketError as error:
        why = str(error)
    has_folders = options.hierarchical if bucket is None else bucket.has_folders
    if bucket is None:
        found = f"cannot tell what is there already: {why}" if why else f"would be created in {wanted_region()}"
        log.warning("%s: %s", options.to, found)
    elif options.hierarchical and not has_folders:
        log.warning("%s: exists without a hierarchical namespace, which only a new bucket can get", options.to)
    if has_folders:
        log.info("%s: has a hierarchical namespace, or gets it: its folders need no placeholders", options.to)
    storage_class = state.storage_class if bucket else options.storage_class
    return Place(bucket, not why, has_folders, storage_class if storage_class in PRICES else STANDARD)


def _logged(found: Forecast) -> Forecast:
    if found.error:
        log.error("error: %s", found.error)
    for note in found.notes:
        log.warning("%s: %s", found.dataset.name, note)
    return found


def _rates(options: RunOptions, place: Place) -> Rates:
    source = float(options.assume_rate or 0) * 1_000_000 or (options.connections or READERS) * CONNECTION_RATE
    source = min(source, options.bwlimit or source)
    bucket = options.write_rate or Rates.bucket * (HIERARCHICAL_FACTOR if place.has_folders else 1)
    return Rates(source, bucket, place.has_folders, place.storage_class)


def forecast(dataset: Dataset, options: RunOptions, place: Place) -> Forecast:
    """Return what extracting a dataset would do; a source that does not answer becomes an `error`."""
    existing = ExistingState({})
    if place.bucket and not options.force:
        try:
            existing, complete = _existing(dataset, options, place.bucket)
        except ExtractionError as error:
            return Forecast(dataset, error=str(error))
        if complete is not None:
            return Forecast(dataset, complete, complete, Work(listed=existing.objects), is_complete=True)
    survey = _Survey(dataset, existing, options)
    try:
        found = survey.run()
    except SourceError as error:
        work = Work(dataset.objects, dataset.size, -(-dataset.size // SPAN_BYTES), in_the_end=dataset.objects)
        found = Forecast(dataset, dataset.objects, 0, work, is_exact=False, error=str(error))
        found.notes.append("showing the published figures")
    if not place.is_readable:
        found.there = None
    if place.has_folders:
        found.work.folders = 0
    return found


def _existing(dataset: Dataset, options: RunOptions, bucket: Bucket) -> tuple[ExistingState, int | None]:
    """Return what a bucket has of a dataset, and the number of objects if the dataset is complete."""
    store = ManifestStore(bucket, dataset.name)
    if found := readable_manifest(store):
        rows, metadata = found
        check_kind(dataset, options, bucket, metadata)
        there = Filter.of(metadata.get("filter"))
        if not there.covers(options.filter):
            check_wider(dataset, bucket.url, there, options.filter)
            return existing_state(bucket, dataset, {}, rows), None
        existing = existing_state(bucket, dataset, {"": JournalEntry("", "", rows)})
        if existing.kept:
            return existing, len(rows)
    journal = store.journal()
    check_unfinished(dataset, options.filter, store, journal)
    return existing_state(bucket, dataset, journal), None


class _Survey:
    """Goes through the sources of a dataset, and adds up in `found` what is left to do."""

    def __init__(self, dataset: Dataset, existing: ExistingState, options: RunOptions) -> None:
        self.dataset, self.existing, self.options = dataset, existing, options
        self.client = http_client(options)
        self.found = Forecast(dataset)
        self.work = self.found.work
        self.names: dict[str, str] = {}  # object → its source, of all whose names are known
        self.unnamed: dict[str, str] = {}  # source of objects whose names are not known → their prefix
        self.planned: list[PlannedArchive] = []
        self.kept: list[JournalEntry] = []  # of units that are done
        self.parts: list[JournalEntry] = []  # of units that are begun

    def run(self) -> Forecast:
        """Return the forecast. Raises SourceError."""
        for located in locate(self.dataset, self.options.mirror, self.client):
            self._look_at(located)
        self._count_archives()
        self._count(plan_photos(self.dataset, self.options.mirror, self.client, self.options.filter))
        return self._result()

    def _look_at(self, located: ArchiveLocation) -> None:
        """Plan one archive; estimate it if its server has no range requests, since reading it would download it all."""
        probes = [source.probe(url, self.client) for url in located.urls]
        if all(probe.has_ranges for probe in probes):
            self.planned.append(plan_archive(self.dataset, located, self.options.limits, self.client))
            return
        size = sum(probe.size or 0 for probe in probes)
        self._guess(located.archive, located.urls[0], size)
        self.unnamed[located.urls[0]] = located.archive.prefix
        self.work.bytes += size
        self.work.units += -(-size // SPAN_BYTES)
        note = "the server does not support range requests: a run downloads it into a temporary file first"
        self.found.notes.append(f"{located.urls[0]}: {note}")

    def _count_archives(self) -> None:
        """Count what the filter selects in the archives that were planned."""
        for planned in narrowed(self.dataset, self.planned, self.options.filter):
            if planned.selection.filter.lacks_names:
                self.found.is_exact = False
                if planned.names is None:
                    self.work.bytes += planned.source.size
                    note = "is read twice, for the names in it and for the first of them"
                    self.found.notes.append(f"{planned.archive.file}: {note}")
            self._count_archive(planned)

    def _guess(self, archive: Archive, source: str, size: int) -> None:
        if archive.objects is None or self.options.filter:
            self.found.notes.append(f"{source}: the number of its objects is not known before it has been read")
            self.found.is_counted = False
        else:
            self.found.objects += round(archive.objects * (size / archive.size if archive.size else 1))
        self.found.is_exact = False

    def _count_archive(self, planned: PlannedArchive) -> None:
        kept = len(self.kept)
        self._count(planned.units)
        self._count_again(planned)
        if None not in (unit.objects for unit in planned.units):
            return
        if len(self.kept) - kept < len(planned.units):
            self.unnamed[planned.source.name] = planned.archive.prefix
        if planned.objects is None:
            self._guess(planned.archive, planned.source.name, planned.source.size)
        else:
            self.found.objects += planned.objects

    def _count_again(self, planned: PlannedArchive) -> None:
        """Count what is read once more, only for the checksum of the archive."""
        if not planned.sha256 or not planned.is_whole or self.options.no_checksum:
            return
        stored = [self._entry(unit) for unit in planned.units]
        known = self.existing.kept.get(checksum_id(planned.archive.file))
        is_same = known and (known.fingerprint, known.sha256) == (planned.units[0].fingerprint, planned.sha256)
        if is_same and all(entry and is_whole(entry) for entry in stored):
            return
        self.work.checksums += 1
        entries = {entry.unit: entry for entry in stored if entry}
        whole = {unit: entry for unit, entry in entries.items() if is_whole(entry)}
        done = carried(planned, entries | covered(planned.units, whole), self.existing.kept)
        size = sum(entry.size for entry in stored[done.units :] if entry and entry.unit != done.inside)
        if self.options.is_spread:
            size = planned.source.size - done.position
        if size:
            self.work.bytes += size
            cause = "several processes read it" if self.options.is_spread else "an earlier run stored them"
            what = f"{planned.archive.file}: {amount(size)} are read once more to be compared with its sha256: {cause}"
            self.found.notes.append(f"{what} (--no-checksum: not)")

    def _entry(self, unit: Unit) -> JournalEntry | None:
        entry = self.existing.kept.get(unit.id)
        return entry if entry and entry.fingerprint == unit.fingerprint else None

    def _count(self, units: Iterable[Unit]) -> None:
        """Count units; those with a confirmed journal entry are done."""
        for unit in units:
            self.work.units += 1
            self.found.objects += unit.objects or 0
            entry = self._entry(unit)
            if entry and is_whole(entry):
                self.kept.append(entry)
                continue
            self.names |= _names(unit)
            self.work.bytes += unit.size or self._size_of_photos(unit)
            if entry:  # a part of it
                self.parts.append(entry)
                self.work.bytes -= entry.size
                for row in entry.rows:
                    self.names.pop(row.path, None)

    def _size_of_photos(self, unit: Unit) -> int:
        self.found.is_exact = False
        return self.dataset.size * (unit.objects or 0) // max(1, self.dataset.objects)

    def _result(self) -> Forecast:
        found, work, existing, prefixes = self.found, self.work, self.existing, tuple(self.unnamed.values())
        loose = {name for name in existing.loose if name in self.names or (prefixes and name.startswith(prefixes))}
        there = sum(entry.rows.stored for entry in (*self.kept, *self.parts)) + len(loose)
        if not found.is_counted:
            found.objects = max(found.objects, there)
        found.there = min(found.objects, there)
        work.objects, work.in_the_end = found.objects - found.there, found.objects
        work.folders = len(parents(self.names) - existing.folders) + 2
        work.listed, work.kept = existing.objects, len(self.kept)
        work.lists = sum(bool(split.list) for split in self.dataset.layout.splits) if self.dataset.layout else 0
        named = ((source, name) for name, source in self.names.items() if name not in loose)
        found.moves = [*self.unnamed.items(), *named]
        return found


def _names(unit: Unit) -> dict[str, str]:
    """Return the objects of a unit whose names are known beforehand, each with its source."""
    work = unit.work
    if work.span is None:
        photos = (photo for photo in work.photos if not photo.refusal)
        return {name: each.url for each in photos for name in work.names_of(each)}
    found = ((object_name(work.prefix, entry.name), entry) for entry in work.span.entries)
    return {
        path: f"{work.source.name}: {entry.name}"
        for (path, refusal), entry in found
        if not (refusal or entry.refusal or path.endswith("/"))
    }
