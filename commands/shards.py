"""Packs the images of a complete dataset into tar shards beside it, which training reads many times as fast."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from commands.extract import Session, Work, open_to_write
from datasets import Dataset
from errors import BucketError, DamagedError, ExtractionError, MemberError
from manifest.compare import checked, matches
from manifest.labels.table import JSONL, sealed
from manifest.seal import seal
from manifest.store import ManifestStore
from pipeline.dispatch import run
from pipeline.job import Job
from pipeline.options import RunOptions
from pipeline.progress import DatasetProgress
from pipeline.results import Result
from pipeline.shards import FOLDER, SHARD_BYTES, Shard, ShardUnit, shards
from storage.bucket import Bucket
from storage.names import is_unfinished, parents

INDEX = "index.json"
SHARD = re.compile(r"/[^/]+-\d{6}\.tar$")  # an older version of the dataset may have had others
log = logging.getLogger("spotted")


def open_run(options: RunOptions, session: Session) -> Work:
    """Open the destination, which has the dataset too, and the workers."""
    job = open_to_write(options, session)
    return lambda dataset: make_shards(dataset, job)


def make_shards(dataset: Dataset, job: Job) -> Result:
    """Write the shards that are missing or wrong; the index is written last, when all of them are right."""
    bucket = job.bucket
    table = _table(dataset, bucket)
    units = [ShardUnit.of(dataset.name, shard) for shard in shards(table.splitlines(), SHARD_BYTES)]
    folder = f"{FOLDER}{dataset.name}/"
    listing = {stored.name: stored for stored in checked(bucket, bucket.list(folder))}
    index = _index(dataset, [unit.shard for unit in units], table)
    result = Result(replace(dataset, folder=folder), len(units), sum(unit.size for unit in units))
    todo = [unit for unit in units if not matches(unit.row, listing.get(unit.row.path))]
    strangers = listing.keys() - {unit.row.path for unit in units}
    stale = [name for name in strangers if SHARD.search(name) or is_unfinished(name)]
    result.was_complete = not todo and not stale and bucket.get(folder + INDEX) == index
    if not result.was_complete:
        bucket.delete([folder + INDEX, *stale])
        for name in () if bucket.has_folders else sorted(parents([folder])):
            _put(bucket, name, b"")
        result.fetched = _run(dataset, units, todo, job)
        _prove(todo, bucket)
        bucket.sync()
        _put(bucket, folder + INDEX, index)
    return result


def _table(dataset: Dataset, bucket: Bucket) -> bytes:
    """Return metadata.jsonl, whose checksum must be that of the manifest."""
    store = ManifestStore(bucket, dataset.name)
    found = store.manifest()
    if found is None:
        raise ExtractionError(
            f"{dataset.name}: {bucket.url} has no manifest of this dataset, so it is not complete: extract it first"
        )
    seals: Mapping[str, Any] = found[1].get("tables", {})
    if JSONL not in seals:
        raise ExtractionError(f"{dataset.name}: {bucket.url} has no table of its images; --repair makes it")
    table = bucket.get(store.folder + JSONL) or b""
    if sealed(table) != seals[JSONL]:
        raise DamagedError(f"{bucket.url}/{store.folder}{JSONL}: missing or changed; --repair makes it again")
    return table


def _index(dataset: Dataset, made: Sequence[Shard], table: bytes) -> bytes:
    return seal(
        {
            "dataset": dataset.name,
            "format": "webdataset",
            "table_sha256": sealed(table)["sha256"],
            "samples": sum(len(shard.samples) for shard in made),
            "bytes": sum(shard.size for shard in made),
            "shards": [shard.encode() for shard in made],
        },
        indent=2,
    )


def _run(dataset: Dataset, units: Sequence[ShardUnit], todo: Sequence[ShardUnit], job: Job) -> int:
    """Make the shards of `todo` in the workers; return the number of bytes written."""
    progress = DatasetProgress(replace(dataset, tables=None), (), {unit.id: unit for unit in units}, job.report)
    job.cluster.subscribe(progress.update)
    wanted = {unit.id for unit in todo}
    progress.begin({unit.id: unit.entry for unit in units if unit.id not in wanted})
    for unit, entry in run(job.cluster, todo, {}):
        progress.record(unit, entry)
    return progress.fetched


def _prove(made: Sequence[ShardUnit], bucket: Bucket) -> None:
    listing = {stored.name: stored for stored in bucket.list(f"{FOLDER}{made[0].dataset}/")} if made else {}
    for unit in made:
        if not matches(unit.row, listing.get(unit.row.path)):
            raise BucketError(f"{bucket.url}/{unit.row.path}: not listed as it was written: run the same command again")


def _put(bucket: Bucket, name: str, data: bytes) -> None:
    try:
        bucket.put(name, data, "application/json")
    except MemberError as error:
        raise BucketError(f"{bucket.url}: {name} cannot be written: {error}") from error
