"""Resume: take over what earlier runs stored, and return the units that are left."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import NamedTuple

from datasets import sharing
from manifest.compare import last_wins
from manifest.journal import JournalEntry, checksum_id
from manifest.records import Row, Rows
from manifest.store import ManifestStore
from pipeline.carried import carried
from pipeline.choosing import FILTER
from pipeline.dataset_run import DatasetRun
from pipeline.existing import Listing, existing_state, readable_manifest
from pipeline.interrupted import covered, rest_of, rest_of_photos
from pipeline.planner import PlannedArchive
from pipeline.unit import Unit, is_whole
from storage.names import is_unfinished

log = logging.getLogger("spotted")


OUTDATED = "outdated"  # journal entry: objects of earlier versions
BEGUN = "begun"  # journal entry: the version that the first run began with, and the objects that were there before it


class Resumed(NamedTuple):
    """The units that are left, and the objects in the bucket that no entry has."""

    todo: list[Unit]
    loose: Listing  # objects without an entry: the last ones of a killed run
    earlier: Rows  # objects of an earlier manifest, or of another version of a source


def resume(run: DatasetRun, store: ManifestStore, journal: Mapping[str, JournalEntry]) -> Resumed:
    """Mark the dataset as incomplete; take over the entries, checksums and folders that journal and listing confirm.

    With --force nothing is taken over.
    """
    fingerprints = {} if run.options.force else {unit.id: unit.fingerprint for unit in run.units.values()}
    same = {unit: entry for unit, entry in journal.items() if fingerprints.get(unit) == entry.fingerprint}
    earlier = _earlier(store, (entry.rows for unit, entry in journal.items() if unit not in (*same, BEGUN, FILTER)))
    _mark_incomplete(run, store, earlier)
    existing = existing_state(store.bucket, run.dataset, same, earlier, reads=True)
    store.bucket.delete(filter(is_unfinished, existing.loose))
    earlier = _with_strays(run, store, journal.get(BEGUN), existing.loose.keys() - existing.vouched.keys(), earlier)
    if run.options.force:
        return Resumed(list(run.units.values()), {}, earlier)
    run.folders.existing = existing.folders
    parts = {unit: entry for unit, entry in existing.kept.items() if not is_whole(entry)}
    run.entries = {unit: entry for unit, entry in existing.kept.items() if is_whole(entry)}
    for each in run.planned:
        run.entries |= covered(each.units, run.entries)
    _log_what_is_done(run, parts)
    _reuse_checksums(run, journal)
    run.carried |= {
        each.archive.file: carried(each, parts | run.entries, journal) for each in run.planned if run.compares(each)
    }
    photos = (rest_of_photos(unit, parts.get(unit.id), existing.vouched) for unit in run.photo_units)
    todo = [*_to_do(run, parts), *(unit for unit in photos if unit.id not in run.entries)]
    return Resumed(todo, existing.loose, earlier)


def _earlier(store: ManifestStore, outdated: Iterable[Rows]) -> Rows:
    """The rows of an earlier manifest and of outdated entries."""
    found = readable_manifest(store)
    runs = [*([found[0]] if found else []), *outdated]
    return Rows.of_sorted(each.row for each in last_wins(runs) if not each.row.is_folder)


def _mark_incomplete(run: DatasetRun, store: ManifestStore, earlier: Rows) -> None:
    """Remove the manifest. The objects of earlier versions are recorded first, so that a later run deletes them."""
    if earlier.count:
        store.write(JournalEntry(OUTDATED, "", earlier))
    store.mark_incomplete()
    if run.options.force:
        store.clean_up(OUTDATED, BEGUN, FILTER)


def _with_strays(
    run: DatasetRun, store: ManifestStore, begun: JournalEntry | None, loose: Set[str], earlier: Rows
) -> Rows:
    """Add what a killed run of another version stored and did not record.

    These are objects that exist now, did not exist before the first run, and belong to no other dataset.
    """
    version = hashlib.sha256("\n".join(sorted({unit.fingerprint for unit in run.units.values()})).encode()).hexdigest()
    known = begun.rows if begun else Rows.of(Row(name, 0, 0, "", 0) for name in loose)
    if begun and begun.fingerprint != version and not sharing(run.dataset, run.options.known):
        strays = loose - {row.path for row in known}
        runs = [Rows.of(Row(name, 0, 0, "", 0) for name in strays), earlier]
        earlier = Rows.of_sorted(each.row for each in last_wins(runs))
        store.write(JournalEntry(OUTDATED, "", earlier))
    if begun is None or begun.fingerprint != version:
        store.write(JournalEntry(BEGUN, version, known))
    return earlier


def _log_what_is_done(run: DatasetRun, parts: Mapping[str, JournalEntry]) -> None:
    if run.entries or parts:
        begun = f", and parts of {len(parts)}" if parts else ""
        log.info(
            "%s: continuing: %d of %d pieces%s are done already",
            run.dataset.name, len(run.entries), len(run.units), begun,
        )  # fmt: skip


def _reuse_checksums(run: DatasetRun, journal: Mapping[str, JournalEntry]) -> None:
    """Take over the checksum comparisons of earlier runs, for archives whose objects all exist."""
    for each in run.planned:
        file, known = each.archive.file, journal.get(checksum_id(each.archive.file))
        is_same = known and (known.fingerprint, known.sha256) == (each.units[0].fingerprint, each.sha256)
        if is_same and each.sha256 and all(unit.id in run.entries for unit in each.units):
            run.checks[file] = "matches"
            log.info("%s: %s: sha256 matches, as an earlier run found", run.dataset.name, file)


def _to_do(run: DatasetRun, parts: Mapping[str, JournalEntry]) -> Iterator[Unit]:
    """The units that are not stored, and those that a checksum needs once more, in the order of the archive."""
    for each in run.planned:
        begun = [unit for unit in each.units if unit.id in run.entries or unit.id in parts]
        if begun and run.compares(each) and run.cluster.is_local:
            yield from _compared_units(run, each, parts)
        else:
            yield from (
                rest_of(unit, parts[unit.id]) if unit.id in parts else unit
                for unit in each.units if unit.id not in run.entries
            )  # fmt: skip


def _compared_units(run: DatasetRun, each: PlannedArchive, parts: Mapping[str, JournalEntry]) -> Iterator[Unit]:
    stored, known = {**parts, **run.entries}, run.carried[each.archive.file]
    begun = [unit for unit in each.units if unit.id == known.inside]
    yield from (rest_of(unit, parts[unit.id]) for unit in begun)
    units = each.units[known.units + len(begun) :]
    size = sum(stored[unit.id].size for unit in units if unit.id in stored)
    if size:
        run.log_again(each, size)
    yield from run.again(each, units, stored)
