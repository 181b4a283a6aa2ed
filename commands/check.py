"""--check: tests everything that a run needs and reports each finding: ok, or what to do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from commands.check_environment import Finding, attempt, differing, environment_findings, versions
from commands.extract import places, with_mirror
from datasets import Dataset
from errors import ExtractionError, SourceError, shown
from pipeline.cluster import check_workers, connect
from pipeline.context import http_client
from pipeline.options import RunOptions
from pipeline.planner import ArchiveLocation, locate, plan_photos, tables_of
from report.humanize import amount
from sources import source
from sources.http import HttpClient
from sources.http_answers import check_size
from sources.retry import MAX_FIRST_ATTEMPTS

CONCURRENT_SOURCES = 8
SOURCE_CURE = "; try again later, or take a copy with --mirror"
MIRROR_CURE = "; is --mirror right?"
PHOTOS_TRIED = 5  # about one in a hundred is gone at its source


def run(options: RunOptions) -> int:
    """Print all findings; return the exit status."""
    with contextlib.ExitStack() as stack:
        findings = examine(with_mirror(options, stack))
        return 0 if print_findings(findings, options.log_format == "json") else ExtractionError.exit_status


def examine(options: RunOptions) -> Iterator[Finding]:
    """Yield each finding as soon as it is made; test objects are removed."""
    yield from environment_findings(options)
    client = http_client(options)
    for dataset in options.datasets:
        yield from _sources(dataset, options.mirror, client)
    if options.scheduler:
        yield attempt("cluster", lambda: _cluster(options))


def print_findings(findings: Iterable[Finding], is_json: bool) -> bool:
    """Print each finding as soon as it is made; return whether all are ok."""
    all_well = True
    for each in findings:
        all_well = all_well and each.is_well
        fields = {"check": each.what, "ok": each.is_well, "message": each.says}
        line = f"{'ok' if each.is_well else 'FAIL':<4}  {each.what:<13}  {each.says}"
        print(shown(json.dumps(fields) if is_json else line), flush=True)
    return all_well


# ── the sources ──────────────────────────────────────────────────────────────────────────────────


def _sources(dataset: Dataset, mirror: str, client: HttpClient) -> Iterator[Finding]:
    try:
        parts = [(located, url) for located in locate(dataset, mirror, client) for url in located.urls]
    except SourceError as error:
        yield Finding(dataset.name, False, f"{error}{MIRROR_CURE}")
        return
    cure = MIRROR_CURE if mirror else SOURCE_CURE
    tests = [partial(_archive, client, *part) for part in parts]
    tests += [partial(_table, client, url) for url in tables_of(dataset, mirror)]
    all_well = True
    with ThreadPoolExecutor(CONCURRENT_SOURCES) as pool:
        for finding in pool.map(lambda test: attempt(dataset.name, test, cure), tests):
            all_well = all_well and finding.is_well
            yield finding
    if dataset.tables and all_well:
        yield attempt(dataset.name, lambda: _photos(dataset, mirror, client), cure)


def _archive(client: HttpClient, located: ArchiveLocation, url: str) -> str:
    found = source.probe(url, client)
    if len(located.urls) == 1 and found.size is not None:
        check_size(url, found.size, located.size)
    pinned = ", as published" if located.size else ""
    without = "no range requests: a run downloads it into a temporary file first"
    return f"{url}: {_size(found.size)}{pinned}, {'range requests work' if found.has_ranges else without}"


def _table(client: HttpClient, url: str) -> str:
    return f"{url}: {_size(source.probe(url, client).size)}"


def _size(size: int | None) -> str:
    return "of unknown size" if size is None else amount(size)


def _photos(dataset: Dataset, mirror: str, client: HttpClient) -> str:
    units = plan_photos(dataset, mirror, client)
    photos = [photo for unit in units for photo in unit.work.photos if not photo.refusal]
    tried = photos[:: max(1, len(photos) // PHOTOS_TRIED)][:PHOTOS_TRIED]
    there = [photo for photo in tried if _is_there(tables_of(dataset, mirror)[1], photo.url, client)]
    if not there:
        raise SourceError(f"{tried[0].url if tried else dataset.name}: none of the {len(tried)} photos tried is there")
    return f"the tables name {len(photos):,} photos; tried {len(tried)}, found {len(there)}"


def _is_there(table: str, url: str, client: HttpClient) -> bool:
    try:
        client.border.check(table, url)
        return bool(client.fetch(url, MAX_FIRST_ATTEMPTS))
    except SourceError:
        return False


# ── the cluster ──────────────────────────────────────────────────────────────────────────────────


def _cluster(options: RunOptions) -> str:
    scheduler = options.scheduler
    with connect(scheduler) as client:
        threads = client.nthreads()
        if not threads:
            raise ExtractionError(
                f"{scheduler}: the scheduler has no workers; start some with: dask worker {scheduler}"
            )
        check_workers(client, places(options))
        for worker, theirs in client.run(versions).items():
            if wrong := differing(theirs, versions(), "here"):
                raise ExtractionError(f"{worker}: the worker has {wrong}: start it from the same image")
        return (
            f"{scheduler}: {len(threads)} workers with {sum(threads.values())} threads, all with the versions used here"
        )
