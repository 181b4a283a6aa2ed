"""Tests everything that a run needs, one thing after the other, and reports each: ok, or what to do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from commands.check_environment import Finding, agree, attempt, environment_findings, versions
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
from sources.retry import FIRST_ATTEMPTS

SOURCES_AT_ONCE = 8
SOURCE_CURE = "; try again later, or take a copy with --mirror"
MIRROR_CURE = "; is --mirror right?"
PHOTOS_TRIED = 5  # about one in a hundred is gone at its source


def run(options: RunOptions) -> int:
    """Print all findings; the exit status."""
    with contextlib.ExitStack() as stack:
        findings = examine(with_mirror(options, stack))
        return 0 if print_findings(findings, options.log_format == "json") else ExtractionError.exit_status


def examine(options: RunOptions) -> Iterator[Finding]:
    """All findings, each as soon as it is made; test objects are removed."""
    yield from environment_findings(options)
    client = http_client(options)
    for dataset in options.datasets:
        yield from _sources(dataset, options.mirror, client)
    if options.scheduler:
        yield attempt("cluster", lambda: _cluster(options))


def print_findings(findings: Iterable[Finding], is_json: bool) -> bool:
    """Print each finding as soon as it is made; returns whether all are ok."""
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
    with ThreadPoolExecutor(SOURCES_AT_ONCE) as pool:
        yield from pool.map(lambda part: attempt(dataset.name, lambda: _archive(client, *part), cure), parts)
        urls = tables_of(dataset, mirror)
        tables = list(pool.map(lambda url: attempt(dataset.name, lambda: _table(url, client), cure), urls))
    yield from tables
    if tables and all(table.is_well for table in tables):
        yield attempt(dataset.name, lambda: _photos(dataset, mirror, client), cure)


def _archive(client: HttpClient, located: ArchiveLocation, url: str) -> str:
    found = source.probe(url, client)
    if len(located.urls) == 1 and found.size is not None:
        check_size(url, found.size, located.size)
    size = "of unknown size" if found.size is None else amount(found.size)
    pinned = ", as published" if located.size else ""
    ranges = (
        "range requests work"
        if found.has_ranges
        else "no range requests: a run downloads it into a temporary file first"
    )
    return f"{url}: {size}{pinned}, {ranges}"


def _table(url: str, client: HttpClient) -> str:
    size = source.probe(url, client).size
    return f"{url}: " + ("of unknown size" if size is None else amount(size))


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
        return bool(client.fetch(url, FIRST_ATTEMPTS))
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
        _check_versions(client.run(versions))
        return (
            f"{scheduler}: {len(threads)} workers with {sum(threads.values())} threads, all with the versions used here"
        )


def _check_versions(found: dict[str, dict[str, str]]) -> None:
    mine = versions()
    for worker, theirs in found.items():
        other = [
            f"{name} {theirs.get(name)} (here {mine[name]})"
            for name in mine
            if not agree(str(theirs.get(name)), mine[name])
        ]
        if other:
            raise ExtractionError(f"{worker}: the worker has {', '.join(other)}: start it from the same image")
