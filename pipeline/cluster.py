"""Start or reach the dask workers: in this process, in several processes of this machine, or on a cluster."""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import resource_tracker
from typing import NoReturn
from urllib.parse import urlsplit
from uuid import uuid4

import dask
from distributed import Client, LocalCluster, Worker

from errors import ClusterError, ExtractionError
from pipeline.context import SPARE_UNITS, ContextPlugin, WorkerContext, context_of
from pipeline.options import WorkerConfig
from sources.source import unreachable
from storage.bucket import reason
from storage.rate_limit import WriteStats

DASK = {
    "distributed.worker.profile.enabled": False,  # sampling takes a tenth of the interpreter's time
    "distributed.admin.tick.interval": "1s",  # by default the event loop is measured fifty times a second
    "distributed.worker.use-file-locking": False,  # workers keep nothing on disk
    "distributed.scheduler.no-workers-timeout": "60s",  # an overloaded machine may fail to restart a worker
    "distributed.scheduler.worker-ttl": None,  # measured by the wall clock: after a sleep all workers would be lost
}
SILENT = logging.CRITICAL  # for dask's own log: errors of dask that matter are reported here, in one line
log = logging.getLogger("spotted")
WORKER_TIMEOUT = 30  # seconds to wait for a cluster's first worker
OTHER_WORKERS_WAIT = 2  # seconds to wait for the workers that were started with it
PREPARATIONS = 3  # attempts to reach all workers, some of which may end meanwhile

OnProgress = Callable[[str, int, int], None]


@dataclass
class Cluster:
    """The dask workers of a run."""

    client: Client
    context: WorkerContext  # of this process, whether or not it is a worker
    is_local: bool  # whether this process is the only worker
    run: str  # name of the run's plugin in every worker, and of its topic of progress events
    _on_progress: OnProgress = field(default=lambda *_: None, init=False)

    def __post_init__(self) -> None:
        self.client.subscribe_topic(self.run, lambda event: self._on_progress(*event[1]))

    def subscribe(self, on_progress: OnProgress) -> None:
        """Call `on_progress` with the progress of each unit, in a thread of dask's; it replaces an earlier callable."""
        self._on_progress = on_progress

    def max_in_flight(self) -> int:
        """Number of units that the current workers run in parallel."""
        try:
            threads: dict[str, int] = self.client.nthreads()
        except OSError as error:
            raise_lost(error)
        return max(sum(threads.values()), 1)


@contextmanager
def start_cluster(
    context: WorkerContext, workers: int = 0, scheduler: str = "", places: Iterable[str] = ()
) -> Iterator[Cluster]:
    """Start dask in this process or with `workers` processes, or connect to the cluster at `scheduler`.

    `context` is that of this process. Every worker of a cluster must be able to read `places`.
    """
    run, config = f"spotted-{uuid4().hex}", context.config
    own = ContextPlugin(run, config, context)
    with dask.config.set(DASK):
        with _client(config.readers + SPARE_UNITS, workers, scheduler, own) as client:
            if scheduler:
                _wait_for_workers(client, scheduler)
                check_workers(client, places)
            if workers or scheduler:
                _prepare_workers(client, run, config)
            cluster = Cluster(client, context, not (workers or scheduler), run)
            yield cluster
            _log_writes(cluster)
            if scheduler:
                client.unregister_worker_plugin(run)
        if client.cluster:  # started here; an interrupted program does not wait for it
            client.cluster.close()


def _prepare_workers(client: Client, run: str, config: WorkerConfig, tries: int = PREPARATIONS) -> None:
    """Create the context in each worker and forward its log."""
    # Each process starts with its share of the rate, and grows into what the others leave. They need not communicate:
    # an overloaded bucket refuses all of them alike (storage/congestion.py).
    count, at = len(client.nthreads()), config.destination
    destination = replace(at, limits=at.limits._replace(writers=count))
    # This process reads only while the workers do not, so its limit is all of --bwlimit.
    share = replace(config, destination=destination, bwlimit=-(-config.bwlimit // max(count, 1)))
    try:
        client.register_plugin(ContextPlugin(run, share))
        client.run(log.setLevel, log.level)
        client.forward_logging(log.name)
    except OSError as error:  # a worker ended meanwhile; the next attempt has the remaining ones
        if tries == 1:
            raise_lost(error)
        _prepare_workers(client, run, config, tries - 1)


def _wait_for_workers(client: Client, scheduler: str) -> None:
    try:
        client.wait_for_workers(1, timeout=WORKER_TIMEOUT)
    except TimeoutError as error:
        raise ExtractionError(
            f"{scheduler}: the scheduler has no workers, after {WORKER_TIMEOUT} s; start some with:"
            f" dask worker {scheduler}"
        ) from error
    time.sleep(OTHER_WORKERS_WAIT)


def check_workers(client: Client, places: Iterable[str]) -> None:
    """Raise ExtractionError unless every worker has this program's modules and can read these URLs and paths."""
    for worker, found in client.run(unreachable, tuple(places), on_error="return").items():
        if isinstance(found, Exception):
            raise ExtractionError(
                f"{worker}: the worker cannot run this program's code ({found!r}): start it from the same image"
            )
        if found:
            raise ExtractionError(
                f"{worker}: the worker cannot read {found}: on a cluster, --mirror and files must be where every worker"
                " sees them, and --sample is for workers of this machine"
            )


def _log_writes(cluster: Cluster) -> None:
    to = cluster.context.config.destination.to
    try:
        stats = cluster.client.run(_write_stats, cluster.run).values()
    except OSError as error:  # a worker or the scheduler has ended; all objects are verified by now
        log.info("%s: how many writes it took is not known: %s", to, reason(error))
        return
    total = sum((each for each in stats if each), WriteStats())
    if total.writes:
        log.info("%s: %d writes, at most %d per second; %d were refused for now (429, 503) and repeated", to, *total)


def _write_stats(run: str, dask_worker: Worker) -> WriteStats | None:
    limiter = context_of(dask_worker, run).bucket.limiter
    return limiter.stats() if limiter else None


def connect(scheduler: str) -> Client:
    """Connect to an existing cluster; raises ExtractionError if none answers."""
    try:
        client = Client(scheduler, timeout=10)
    except OSError as error:
        raise ExtractionError(f"{scheduler}: no dask scheduler answers there: {error}") from error
    except TypeError as error:  # distributed's, where its configuration has no certificate for a tls:// address
        raise ExtractionError(
            f"{scheduler}: speaks TLS, and this side has no certificate: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE,"
            " DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY"
        ) from error
    except ValueError as error:
        raise ExtractionError(f"{scheduler}: expected an address such as tcp://host:8786, got: {error}") from error
    if _is_open(scheduler):
        log.warning("%s: has no TLS: every client that reaches it can run code on its workers", scheduler)
    return client


def _is_open(scheduler: str) -> bool:
    """Whether the address has no TLS and is not on this machine."""
    parts = urlsplit(scheduler)
    host = parts.hostname or ""
    return parts.scheme == "tcp" and host != "localhost" and not re.fullmatch(r"127[.\d]*|::1", host)


def _client(threads: int, workers: int, scheduler: str, own: ContextPlugin) -> Client:
    for handler in logging.getLogger("distributed").handlers:
        if type(handler) is logging.StreamHandler:  # dask's own; others, such as a test's, are left alone
            handler.setLevel(SILENT)
    # asyncio reports futures of dask's that ended with an exception and are no longer awaited.
    logging.getLogger("asyncio").setLevel(SILENT)
    if scheduler:
        return connect(scheduler)
    # An interrupted program exits immediately. multiprocessing then removes its shared objects, with a warning.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    try:
        return Client(_local_cluster(threads, workers, own))
    except RuntimeError as error:  # its processes cannot be started or reached
        raise ExtractionError(f"dask cannot start its workers on this machine: {reason(error)}") from error


def _local_cluster(threads: int, workers: int, own: ContextPlugin) -> LocalCluster:
    # A terminal sends Ctrl-C to the workers' processes too, and one that is just starting would print a traceback.
    # They end with this process. A process inherits the blocked signals of the thread that starts it.
    block_signals = partial(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGINT})
    signals_blocked = ThreadPoolExecutor(1, initializer=block_signals)
    if workers:
        resource_tracker.ensure_running()  # or the first process starts it, which unblocks the signals
    return signals_blocked.submit(
        LocalCluster,
        n_workers=workers or 1,
        threads_per_worker=threads,
        processes=bool(workers),
        # With a temporary certificate: a client that reaches a scheduler can run code in its workers.
        security=True if workers else None,
        dashboard_address="127.0.0.1:0",  # dask always opens these ports, by default to the whole network
        worker_dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=SILENT if workers else False,
        **({} if workers else {"plugins": (own,)}),
    ).result()


def raise_lost(error: BaseException) -> NoReturn:
    """Raise ClusterError in place of an error of dask's."""
    raise ClusterError(f"the dask cluster was lost ({reason(error)}); what is stored stays: run again") from error
