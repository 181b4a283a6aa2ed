"""The run itself: every dataset extracted, verified or repaired in turn, with its progress and a summary at the end."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from datasets import Dataset
from errors import BucketError, BusyError, ClusterError, ExtractionError, shown
from gcs import Destination, open_bucket, ready
from pipeline.cluster import Cluster, start_cluster
from pipeline.options import RunOptions, WorkerConfig
from pipeline.progress import Report
from pipeline.results import Result
from pipeline.run import Hooks, extract
from report.card import write as card
from report.summary import Screen, log_next_step, print_summary
from sources import sample
from sources.local_files import is_http
from storage.rate_limit import Pace

log = logging.getLogger("spotted")
DOING = {"extract": "extracting %s to %s", "verify": "verifying %s in %s", "repair": "repairing %s in %s",
         "shards": "making shards of %s in %s"}  # fmt: skip


class Session(NamedTuple):
    """What every running command needs: where to report progress, what stops it, what is closed at its end."""

    report: Report
    interrupted: threading.Event
    stack: contextlib.ExitStack


Work = Callable[[Dataset], Result]  # on one dataset
Open = Callable[[RunOptions, Session], Work]  # makes ready what a command needs


def run_datasets(options: RunOptions, open_run: Open, interrupted: threading.Event) -> int:
    """Work on every dataset; 0, or the exit status of the worst failure."""
    screen = Screen(options)
    log.info(DOING[options.command], ", ".join(dataset.name for dataset in options.datasets), options.to)
    with contextlib.ExitStack() as stack:
        stack.enter_context(screen.open())
        work = open_run(options, Session(screen.show, interrupted, stack))
        results = [screen.finished(result) for result in _each(options, work, interrupted)]
    print_summary(results, options)
    log_next_step(results, options)
    return min((result.status for result in results if result.status), default=0)


def open_run(options: RunOptions, session: Session) -> Work:
    """Make the destination and the workers ready for an extraction."""
    destination = session.stack.enter_context(ready_destination(options))
    options, cluster = start_workers(options, destination, session)
    bucket, hooks = open_bucket(destination), Hooks(session.report, card)
    return lambda dataset: extract(dataset, options, bucket, cluster, hooks)


def _each(options: RunOptions, work: Work, interrupted: threading.Event) -> Iterator[Result]:
    for dataset in options.datasets:
        if interrupted.is_set():
            raise KeyboardInterrupt
        try:
            yield work(dataset)
        except (BucketError, BusyError, ClusterError):  # of two runs that passed each other, neither would be complete
            raise
        except ExtractionError as error:  # of one dataset: the others are tried
            if interrupted.is_set():
                raise KeyboardInterrupt from error
            yield Result(dataset, error=str(error))
        except BrokenPipeError:  # of the reader of the output
            raise
        except OSError as error:  # of this machine, during this dataset: the others are tried as well
            if interrupted.is_set():
                raise KeyboardInterrupt from error
            yield Result(dataset, error=shown(str(error)))


def ready_destination(options: RunOptions) -> contextlib.AbstractContextManager[Destination]:
    """The destination, made ready to be written for as long as the context lasts."""
    wanted = Destination(
        options.to,
        pace=Pace(options.write_rate, patience=options.outage),
        terms=options.terms._replace(is_hierarchical=options.hierarchical),
    )
    return ready(wanted, options.via, bool(options.scheduler), options.keep_mount)


def start_workers(options: RunOptions, destination: Destination, session: Session) -> tuple[RunOptions, Cluster]:
    """The options with the sample's mirror in them, and the workers."""
    config = WorkerConfig.of(options, destination)
    options = with_mirror(options, session.stack)
    cluster = start_cluster(config, options.workers, options.scheduler, session.interrupted, places(options))
    return options, session.stack.enter_context(cluster)


def places(options: RunOptions) -> Iterator[str]:
    """What of the sources may be on this machine alone."""
    if options.mirror:
        yield options.mirror
    for archive in () if options.mirror else (archive for each in options.datasets for archive in each.archives):
        yield from (url for url in archive.urls if not is_http(url))


def with_mirror(options: RunOptions, stack: contextlib.ExitStack) -> RunOptions:
    """The options, with --sample with the mirror that serves it."""
    return replace(options, mirror=stack.enter_context(sample.serve())) if options.sample else options
