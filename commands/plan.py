"""Datasets become forecasts, without writing: from the sources' directories and the bucket's listing."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from archives.spans import SPAN
from commands.costs import BYTES_A_SECOND, PRICES, Rates, Work
from commands.extract import with_mirror
from commands.plan_view import print_moves, print_plan
from datasets import Archive, Dataset
from errors import BucketError, ExtractionError, SourceError
from gcs import Destination, open_bucket
from labels.selection import Filter
from manifest.journal import JournalEntry, checksum_id
from manifest.store import ManifestStore
from pipeline.choosing import check_unfinished, check_wider
from pipeline.context import http_client
from pipeline.existing import ExistingState, check_kind, existing_state, readable_manifest
from pipeline.options import READERS, RunOptions
from pipeline.planner import ArchiveLocation, PlannedArchive, locate, narrowed, plan_archive, plan_photos
from pipeline.unit import Unit, is_whole
from report.humanize import amount
from sources import source
from storage.bucket import Bucket, BucketState, Terms
from storage.bucket_admin import DEFAULT_REGION, HIERARCHICAL
from storage.names import object_name, parents

log = logging.getLogger("spotted")


@dataclass
class Forecast:
    """What a run would do for one dataset."""

    dataset: Dataset
    objects: int = 0
    there: int | None = None  # objects that need not be stored; None where the bucket cannot be looked at
    work: Work = field(default_factory=Work)
    moves: list[tuple[str, str]] = field(default_factory=list)  # source => destination, as far as they are known
    is_exact: bool = True
    is_counted: bool = True  # False: there are more objects, whose number is not known before the archive is read
    is_complete: bool = False
    notes: list[str] = field(default_factory=list)
    error: str = ""  # why an extraction begun now would fail
    is_hierarchical: bool = False  # whether the bucket has a hierarchical namespace, or would get one
    storage_class: str = "STANDARD"  # of the bucket's new objects


@dataclass(frozen=True)
class There:
    """What a bucket has of one dataset."""

    existing: ExistingState = field(default_factory=lambda: ExistingState({}))
    complete: int | None = None  # objects of a complete dataset


def existing_bucket(to: str, terms: Terms) -> tuple[Bucket | None, BucketState, str]:
    """The bucket and its state; or None if it does not exist, or cannot be read for this reason. Creates nothing."""
    try:
        bucket = open_bucket(Destination(to, terms=terms))
        state = bucket.probe()
        return (bucket if state.exists else None), state, ""
    except BucketError as error:
        return None, BucketState(False), str(error)


def forecast(
    dataset: Dataset, options: RunOptions, bucket: Bucket | None, is_known: bool, is_hierarchical: bool = False
) -> Forecast:
    """What extracting a dataset would do; with `is_known`, no bucket means that nothing is stored."""
    try:
        there = _there(dataset, options, bucket) if bucket else There()
    except ExtractionError as error:
        return Forecast(dataset, error=str(error))
    if there.complete is not None:
        return Forecast(dataset, there.complete, there.complete, Work(listed=there.existing.objects), is_complete=True)
    survey = _Survey(dataset, there, options)
    try:
        for located in locate(dataset, options.mirror, survey.client):
            survey.look_at(located)
        survey.count_archives()
        survey.count(plan_photos(dataset, options.mirror, survey.client, options.filter))
        found = survey.result()
    except SourceError as error:
        work = Work(dataset.objects, dataset.size, -(-dataset.size // SPAN), in_the_end=dataset.objects)
        found = Forecast(dataset, dataset.objects, 0, work, is_exact=False, error=str(error))
        found.notes.append("showing the published figures")
    if not (bucket or is_known):
        found.there = None
    if is_hierarchical:  # its folders need no placeholders
        found.is_hierarchical, found.work = True, replace(found.work, folders=0)
    return found


def forecast_all(
    datasets: Iterable[Dataset], options: RunOptions, to: str, is_hierarchical: bool = False
) -> list[Forecast]:
    """A forecast for each dataset; surprises are logged.

    With `is_hierarchical` a bucket that is created would get a hierarchical namespace.
    """
    bucket, state, why = existing_bucket(to, options.terms)
    if bucket is None:
        region = os.environ.get("GCS_REGION") or DEFAULT_REGION
        log.warning(
            "%s: %s", to, f"cannot tell what is there already: {why}" if why else f"would be created in {region}"
        )
    elif is_hierarchical and not bucket.has_folders:
        log.warning("%s: exists without a hierarchical namespace, which only a new bucket can get", to)
    has_folders = is_hierarchical if bucket is None else bucket.has_folders
    if has_folders:
        log.info("%s: has a hierarchical namespace, or gets it: its folders need no placeholders", to)
    storage_class = state.storage_class if bucket else options.storage_class
    found = []
    for dataset in datasets:
        each = forecast(dataset, options, bucket, not why, has_folders)
        each.storage_class = storage_class if storage_class in PRICES else each.storage_class
        if each.error:
            log.error("error: %s", each.error)
        for note in each.notes:
            log.warning("%s: %s", dataset.name, note)
        found.append(each)
    return found


def _there(dataset: Dataset, options: RunOptions, bucket: Bucket) -> There:
    store = ManifestStore(bucket, dataset.name)
    found = None if options.force else readable_manifest(store)
    if found:
        check_kind(dataset, options, bucket, found[1])
        there = Filter.of(found[1].get("filter"))
        if not there.covers(options.filter):
            check_wider(dataset, bucket.url, there, options.filter)
            return There(existing_state(bucket, dataset, {}, found[0]))
    if options.force:  # nothing of it counts
        return There()
    if found and (existing := existing_state(bucket, dataset, {"": JournalEntry("", "", found[0])})).kept:
        return There(existing, len(found[0]))
    journal = store.journal()
    check_unfinished(dataset, options.filter, store, journal)
    return There(existing_state(bucket, dataset, journal))


class _Survey:
    """Goes through a dataset's sources and sums up what is left to do."""

    def __init__(self, dataset: Dataset, there: There, options: RunOptions) -> None:
        self.dataset, self.there, self.options, self.limits = dataset, there, options, options.limits
        self.client = http_client(options)
        self.objects = self.bytes = self.units = self.done = self.checksums = 0
        self.names: dict[str, str] = {}  # object → where it comes from, of all that is known by name
        self.planned: list[PlannedArchive] = []
        self.kept: list[JournalEntry] = []
        self.parts: list[JournalEntry] = []  # of units that are begun
        self.unnamed: dict[str, str] = {}  # where objects whose names are not known come from → their prefix
        self.is_exact = self.is_counted = True
        self.notes = list[str]()

    def look_at(self, located: ArchiveLocation) -> None:
        """Count one archive; one without range requests is estimated, since reading it would download all of it."""
        probes = [source.probe(url, self.client) for url in located.urls]
        if all(probe.has_ranges for probe in probes):
            self.planned.append(plan_archive(self.dataset, located, self.limits, self.client))
            return
        size = sum(probe.size or 0 for probe in probes)
        self._guess(located.archive, located.urls[0], size)
        self.unnamed[located.urls[0]] = located.archive.prefix
        self.bytes, self.units = self.bytes + size, self.units + -(-size // SPAN)
        note = "the server does not support range requests: a run downloads it into a temporary file first"
        self.notes.append(f"{located.urls[0]}: {note}")

    def count_archives(self) -> None:
        """Count what the filter leaves of all archives that can be looked at."""
        for planned in narrowed(self.dataset, self.planned, self.options.filter):
            if planned.selection.filter.lacks_names:
                self.is_exact = False
                if planned.names is None:
                    self.bytes += planned.source.size
                    note = "is read twice, for the names in it and for the first of them"
                    self.notes.append(f"{planned.archive.file}: {note}")
            self._count_archive(planned)

    def _guess(self, archive: Archive, source: str, size: int) -> None:
        if archive.objects is None or self.options.filter:
            self.notes.append(f"{source}: the number of its objects is not known before it has been read")
            self.is_counted = False
        else:
            self.objects += round(archive.objects * (size / archive.size if archive.size else 1))
        self.is_exact = False

    def _count_archive(self, planned: PlannedArchive) -> None:
        kept = len(self.kept)
        self.count(planned.units)
        self._count_again(planned)
        if None not in (unit.objects for unit in planned.units):
            return
        if len(self.kept) - kept < len(planned.units):
            self.unnamed[planned.source.name] = planned.archive.prefix
        if planned.objects is None:
            self._guess(planned.archive, planned.source.name, planned.source.size)
        else:
            self.objects += planned.objects

    def _count_again(self, planned: PlannedArchive) -> None:
        """What is read once more, for the archive's checksum alone."""
        if not planned.sha256 or not planned.is_whole or self.options.no_checksum:
            return
        stored = [self._entry(unit) for unit in planned.units]
        known = self.there.existing.kept.get(checksum_id(planned.archive.file))
        is_same = known and (known.fingerprint, known.sha256) == (planned.units[0].fingerprint, planned.sha256)
        if is_same and all(entry and is_whole(entry) for entry in stored):
            return
        self.checksums += 1
        size = planned.source.size if self.options.is_spread else sum(entry.size for entry in stored if entry)
        if size:
            self.bytes += size
            cause = "several processes read it" if self.options.is_spread else "an earlier run stored them"
            what = f"{planned.archive.file}: {amount(size)} are read once more to be compared with its sha256: {cause}"
            self.notes.append(f"{what} (--no-checksum: not)")

    def _entry(self, unit: Unit) -> JournalEntry | None:
        entry = self.there.existing.kept.get(unit.id)
        return entry if entry and entry.fingerprint == unit.fingerprint else None

    def count(self, units: Iterable[Unit]) -> None:
        """Count units; those with a confirmed journal entry are done."""
        for unit in units:
            self.units, self.objects = self.units + 1, self.objects + (unit.objects or 0)
            entry = self._entry(unit)
            if entry and is_whole(entry):
                self.kept.append(entry)
                continue
            self.names |= _names(unit)
            self.bytes += unit.size or self._size_of_photos(unit)
            if entry:  # a part of it
                self.parts.append(entry)
                self.bytes -= entry.size
                for row in entry.rows:
                    self.names.pop(row.path, None)

    def _size_of_photos(self, unit: Unit) -> int:
        self.is_exact = False
        return self.dataset.size * (unit.objects or 0) // max(1, self.dataset.objects)

    def result(self) -> Forecast:
        """The sum of it."""
        existing, prefixes = self.there.existing, tuple(self.unnamed.values())
        loose = {name for name in existing.loose if name in self.names or (prefixes and name.startswith(prefixes))}
        there = sum(entry.rows.stored for entry in (*self.kept, *self.parts)) + len(loose)
        self.objects = self.objects if self.is_counted else max(self.objects, there)
        there = min(self.objects, there)
        folders = parents(self.names) - existing.folders
        work = Work(
            self.objects - there, self.bytes, self.units, len(folders) + 2, existing.objects, self.objects,
            len(self.kept), self.checksums, _lists(self.dataset),
        )  # fmt: skip
        moves = [*self.unnamed.items(), *((source, name) for name, source in self.names.items() if name not in loose)]
        found = Forecast(self.dataset, self.objects, there, work, moves, self.is_exact, self.is_counted)
        found.notes = self.notes
        return found


def _lists(dataset: Dataset) -> int:
    return sum(bool(split.list) for split in dataset.layout.splits) if dataset.layout else 0


def _names(unit: Unit) -> dict[str, str]:
    """The objects of a unit, as far as they are known beforehand, and where each comes from."""
    work = unit.work
    if work.span is None:
        pairs = ((work.image_prefix, ".png"), (work.annotation_prefix, ".json"))
        return {
            f"{prefix}{photo.name}{end}": photo.url
            for photo in work.photos
            if not photo.refusal
            for prefix, end in pairs
        }
    found = ((object_name(work.prefix, entry.name), entry) for entry in work.span.entries)
    return {
        path: f"{work.source.name}: {entry.name}"
        for (path, refusal), entry in found
        if not (refusal or entry.refusal or path.endswith("/"))
    }


def run(options: RunOptions) -> int:
    """Print what an extraction would do; the exit status."""
    with contextlib.ExitStack() as stack:
        found = forecast_all(options.datasets, with_mirror(options, stack), options.to, options.hierarchical)
    if options.verbose:
        print_moves(found, options.to)
    print_plan(found, options.to, _rates(options, found), options.log_format == "json")
    return max(ExtractionError.exit_status if each.error else 0 for each in found)


def _rates(options: RunOptions, found: Iterable[Forecast]) -> Rates:
    is_hierarchical = any(each.is_hierarchical for each in found)
    storage_class = next((each.storage_class for each in found), "STANDARD")
    source = float(options.assume_rate or 0) * 1_000_000 or (options.connections or READERS) * BYTES_A_SECOND
    source = min(source, options.bwlimit or source)
    usual = Rates.bucket * (HIERARCHICAL if is_hierarchical else 1)
    return Rates(source, options.write_rate or usual, is_hierarchical, storage_class)
