"""Runs a command on one dataset after the other, with progress and a summary; opens what an extraction needs."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from datasets import Dataset
from errors import BucketError, BusyError, ClusterError, ExtractionError, shown
from gcs import Destination, Opened, ready
from pipeline.cluster import start_cluster
from pipeline.context import WorkerContext
from pipeline.job import Job
from pipeline.options import RunOptions, WorkerConfig
from pipeline.progress import Report
from pipeline.results import Result
from pipeline.run import extract
from report.card import write as card
from report.summary import Screen, log_next_step, print_summary
from sources.local_files import is_http
from storage.rate_limit import WriteLimits

log = logging.getLogger("spotted")


class Session(NamedTuple):
    """What every command on datasets shares: `report` receives progress, `stack` is closed at the end."""

    report: Report
    interrupted: threading.Event
    stack: contextlib.ExitStack


Work = Callable[[Dataset], Result]
Open = Callable[[RunOptions, Session], Work]  # opens what a command needs, and returns its work on one dataset


def run_datasets(options: RunOptions, open_run: Open, interrupted: threading.Event) -> int:
    """Run a command on every dataset; return 0, or the exit status of the worst failure."""
    screen = Screen(options)
    with contextlib.ExitStack() as stack:
        stack.enter_context(screen.open())
        work = open_run(options, Session(screen.show, interrupted, stack))
        results = [screen.finished(result) for result in _each(options, work, interrupted)]
    print_summary(results, options)
    log_next_step(results, options)
    return min((result.status for result in results if result.status), default=0)


def open_run(options: RunOptions, session: Session) -> Work:
    """Open the destination and the workers for an extraction."""
    job = open_to_write(options, session)
    return lambda dataset: extract(dataset, job)


def _each(options: RunOptions, work: Work, interrupted: threading.Event) -> Iterator[Result]:
    for dataset in options.datasets:
        if interrupted.is_set():
            raise KeyboardInterrupt
        start = time.monotonic()
        try:
            result = work(dataset)
            result.seconds = time.monotonic() - start
            yield result
        except (BucketError, BusyError, ClusterError, BrokenPipeError):  # the other datasets would meet them too
            raise
        except (ExtractionError, OSError) as error:  # of one dataset: the others are tried
            if interrupted.is_set():
                raise KeyboardInterrupt from error
            yield Result(dataset, error=shown(str(error)))


def open_to_write(options: RunOptions, session: Session) -> Job:
    """Make the destination ready to be written, and start the workers; both last as long as the session."""
    wanted = Destination(
        options.to,
        limits=WriteLimits(options.write_rate, patience=options.outage),
        terms=options.terms._replace(is_hierarchical=options.hierarchical),
    )
    opened = session.stack.enter_context(ready(wanted, options.via, bool(options.scheduler), options.keep_mount))
    return start_workers(options, opened, session)


def start_workers(options: RunOptions, opened: Opened, session: Session) -> Job:
    """Start the workers; --sample adds its mirror to the options."""
    context = WorkerContext(WorkerConfig.of(options, opened.destination), opened.bucket, session.interrupted)
    options = with_mirror(options, session.stack)
    cluster = session.stack.enter_context(start_cluster(context, options.workers, options.scheduler, places(options)))
    return Job(options, cluster, session.report, card)


def places(options: RunOptions) -> Iterator[str]:
    """Yield the sources that may be on this machine alone."""
    if options.mirror:
        yield options.mirror
        return
    for archive in (archive for each in options.datasets for archive in each.archives):
        yield from (url for url in archive.urls if not is_http(url))


def with_mirror(options: RunOptions, stack: contextlib.ExitStack) -> RunOptions:
    """Return the options; with --sample, start the server of the sample and make it the mirror."""
    if not options.sample:
        return options
    from sources import sample  # with Pillow, which draws it

    return replace(options, mirror=stack.enter_context(sample.serve()))
