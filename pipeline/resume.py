"""What earlier runs stored is taken over; the units that are still to do."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from manifest.journal import JournalEntry, checksum_id
from manifest.records import STORED, Row, Rows
from manifest.store import ManifestStore
from pipeline.dataset_run import DatasetRun
from pipeline.existing import Listing, existing_state, readable_manifest
from pipeline.interrupted import covered, rest_of
from pipeline.planner import PlannedArchive
from pipeline.unit import Unit, is_whole
from storage.names import is_unfinished

log = logging.getLogger("spotted")


class Resumed(NamedTuple):
    """What is left to do, and what the bucket has beside the entries that were taken over."""

    todo: list[Unit]
    loose: Listing  # objects without an entry: the last ones of a killed run
    outdated: set[str]  # objects of a manifest that --force overrules, or of an older source


def resume(run: DatasetRun, store: ManifestStore) -> Resumed:
    """Mark the dataset as incomplete, and take over what journal and listing confirm: entries, checksums, folders.

    With --force nothing of an earlier run counts.
    """
    outdated = _mark_incomplete(run, store)
    journal = store.journal()
    outdated |= _of_older_sources(run, journal.values())
    if outdated:  # written down, so that a later run deletes them
        store.write(JournalEntry("outdated", "", Rows.of(Row(path, 0, 0, "", 0) for path in outdated)))
    fingerprints = {unit.id: unit.fingerprint for unit in run.units.values()}
    same = {unit: entry for unit, entry in journal.items() if fingerprints.get(unit) == entry.fingerprint}
    existing = existing_state(store.bucket, run.dataset, same)
    store.bucket.delete(filter(is_unfinished, existing.loose))
    if run.options.force:
        return Resumed(list(run.units.values()), {}, outdated)
    run.folders.existing = existing.folders
    parts = {unit: entry for unit, entry in existing.kept.items() if not is_whole(entry)}
    run.entries = {unit: entry for unit, entry in existing.kept.items() if is_whole(entry)}
    for each in run.planned:
        run.entries |= covered(each.units, run.entries)
    _log_what_is_done(run, parts)
    _reuse_checksums(run, journal)
    return Resumed(list(_to_do(run, parts)), existing.loose, outdated)


def _mark_incomplete(run: DatasetRun, store: ManifestStore) -> set[str]:
    """Open the dataset for change; the objects of the manifest that --force overrules."""
    found = readable_manifest(store) if run.options.force else None
    store.reopen()
    if run.options.force:
        store.tidy()
    return {row.path for row in found[0]} if found else set()


def _of_older_sources(run: DatasetRun, journal: Iterable[JournalEntry]) -> set[str]:
    known = {(unit.id, unit.fingerprint) for unit in run.units.values()}
    stale = (entry.rows for entry in journal if (entry.unit, entry.fingerprint) not in known)
    return {row.path for rows in stale for row in rows if row.outcome == STORED and not row.is_folder}


def _log_what_is_done(run: DatasetRun, parts: Mapping[str, JournalEntry]) -> None:
    if run.entries or parts:
        begun = f", and parts of {len(parts)}" if parts else ""
        log.info(
            "%s: continuing: %d of %d pieces%s are done already",
            run.dataset.name, len(run.entries), len(run.units), begun,
        )  # fmt: skip


def _reuse_checksums(run: DatasetRun, journal: Mapping[str, JournalEntry]) -> None:
    """Take over the checksums of archives that an earlier run compared and whose objects are all there."""
    for each in run.planned:
        file, known = each.archive.file, journal.get(checksum_id(each.archive.file))
        is_same = known and (known.fingerprint, known.sha256) == (each.units[0].fingerprint, each.sha256)
        if is_same and each.sha256 and all(unit.id in run.entries for unit in each.units):
            run.checks[file] = "matches"
            log.info("%s: %s: sha256 matches, as an earlier run found", run.dataset.name, file)


def _to_do(run: DatasetRun, parts: Mapping[str, JournalEntry]) -> Iterator[Unit]:
    """The units that are not stored, and those whose bytes a checksum needs once more, in the archive's order."""
    for each in run.planned:
        begun = [unit for unit in each.units if unit.id in run.entries or unit.id in parts]
        if begun and run.compares(each) and run.cluster.is_local:
            yield from _compared_units(run, each, parts)
        else:
            yield from (
                rest_of(unit, parts[unit.id]) if unit.id in parts else unit
                for unit in each.units if unit.id not in run.entries
            )  # fmt: skip
    yield from (unit for unit in run.photo_units if unit.id not in run.entries)


def _compared_units(run: DatasetRun, each: PlannedArchive, parts: Mapping[str, JournalEntry]) -> Iterator[Unit]:
    stored = {**parts, **run.entries}
    size = sum(stored[unit.id].size for unit in each.units if unit.id in stored)
    log.info(
        "%s: %s: reading %d bytes again to compare its sha256 and what was stored (--no-checksum: not)",
        run.dataset.name, each.archive.file, size,
    )  # fmt: skip
    return run.again(each, each.units, stored)
