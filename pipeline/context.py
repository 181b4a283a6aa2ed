"""The resources that the units in one process share: the bucket, connections, thread pools and memory bounds."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import ParamSpec, TypeVar

from distributed import Worker, WorkerPlugin

from archives.spans import SPAN_BYTES
from gcs import open_bucket
from manifest.checksums import Digest
from manifest.journal import JournalEntry
from manifest.store import ManifestStore
from pipeline.carried import Checkpoint
from pipeline.machine import at_once
from pipeline.options import RunOptions, WorkerConfig
from sources import network
from sources.http import HttpClient
from storage.bucket import Bucket, Data, Lease

P = ParamSpec("P")
T = TypeVar("T")
MAX_WAITING_BYTES = 64 << 20  # bytes of members that wait for their put, in each process
BATCH_MEMBERS = 4  # members that one thread puts in sequence; larger batches delay the end of a unit, at 50 ms a put
BATCH_BYTES = 256 << 10  # bytes of a batch; a larger member is a batch of its own
LOCAL_BATCH_MEMBERS, LOCAL_BATCH_BYTES = 64, 4 << 20  # for a directory, where taking turns costs more than the puts
CONCURRENT_PHOTOS = 160  # concurrent requests in each process; at 50 ms each, 3,200/s: more than two cores can store
# All connections read the same few spans, each a stripe, in the order of the archive. What arrives before its turn is
# not stored yet, or not in the checksum, so a run after a kill reads it again. So a stripe takes a small share of the
# seconds that the process has run. A request costs 1.3 ms of CPU: fast sources are read in whole spans.
STRIPE_SHARE, MIN_STRIPE_SECONDS = 0.02, 0.4
MIN_STRIPE_BYTES = 128 << 10  # bytes
SPARE_UNITS = 4  # units that store while others are read; each holds 8 MB
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h
GC_THRESHOLD = 10_000  # new objects until a collection; with Python's 700, collections take 1.5 % of a run


def http_client(options: RunOptions | WorkerConfig) -> HttpClient:
    """Create this process's client of the sources, with the limits of the options."""
    return HttpClient(options.timeout, options.connections, options.bwlimit, options.allow_private_addresses)


class ByteSemaphore:
    """A semaphore of `size` units, such as bytes in memory; a request above that is admitted alone."""

    def __init__(self, size: int) -> None:
        self.size, self._used, self._free = size, 0, threading.Condition()

    def acquire(self, size: int) -> None:
        """Take `size` units; block until they are free."""
        with self._free:
            while self._used and self._used + size > self.size:
                self._free.wait()
            self._used += size

    def release(self, size: int) -> None:
        """Return `size` units."""
        with self._free:
            self._used -= size
            self._free.notify_all()


class WorkerContext:
    """The resources that the units in one process share.

    `stop` ends all its units soon once it is set; `digests` are the checksums of the archives that it reads whole.
    """

    def __init__(self, config: WorkerConfig, bucket: Bucket, stop: threading.Event | None = None) -> None:
        self.config = config
        self.stop, self.digests = stop or threading.Event(), dict[str, Digest]()  # by the source's name
        self.checkpoints = dict[str, Checkpoint]()  # by the archive's file name: how far it is stored
        self.lease: Lease | None = None  # of the run in this process
        self.bucket, self.started = bucket, time.monotonic()
        self.http = http_client(config)
        max_in_flight = at_once(config.uploads or self.bucket.max_in_flight, share=2)
        photos = at_once(config.connections or CONCURRENT_PHOTOS, share=2)
        self._uploads = ThreadPoolExecutor(max_in_flight, "put") if max_in_flight > 1 else None
        self.batch = (BATCH_MEMBERS, BATCH_BYTES) if self._uploads else (LOCAL_BATCH_MEMBERS, LOCAL_BATCH_BYTES)
        self.bytes, self.putting = ByteSemaphore(MAX_WAITING_BYTES), threading.BoundedSemaphore(max_in_flight)
        self.photos = ThreadPoolExecutor(photos + max_in_flight, "photo")  # each fetches a photo, then puts it
        self.fetching = threading.BoundedSemaphore(photos)
        self.connections = threading.BoundedSemaphore(config.readers)
        self.readers = ThreadPoolExecutor(config.readers, "read")
        self.connection_rate = 0.0  # bytes a second of one connection to a source, as last measured

    def stripe_bytes(self) -> int:
        """The number of bytes that one request to a source is for: a span at most."""
        seconds = max(MIN_STRIPE_SECONDS, STRIPE_SHARE * (time.monotonic() - self.started))
        return min(max(MIN_STRIPE_BYTES, int(seconds * self.connection_rate)), SPAN_BYTES)

    def max_spans(self) -> int:
        """The number of spans that this process reads and stores at a time."""
        return -(-self.config.readers * self.stripe_bytes() // SPAN_BYTES) + SPARE_UNITS

    def put(self, name: str, data: Data, content_type: str) -> None:
        """Store an object; raises BucketError if the lease was lost."""
        if self.lease:
            self.lease.check()
        self.bucket.put(name, data, content_type)

    def record(self, dataset: str, entry: JournalEntry) -> None:
        """Write a journal entry; raises BucketError if the lease was lost."""
        if self.lease:
            self.lease.check()
        before = self.checkpoints.get(entry.unit.rpartition("/")[0])
        state = entry.state or (before.state if before else None)
        ManifestStore(self.bucket, dataset).write(replace(entry, state=state))

    def submit(self, size: int, put: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """Run `put` in another thread, once `size` bytes of memory are free; for a directory, run it in this thread."""
        if self._uploads is None:
            done = Future[T]()
            # Concurrent writers would wait for the GIL after each system call.
            with self.putting:
                done.set_result(put(*arguments, **named))
            return done
        self.bytes.acquire(size)

        def released() -> T:
            try:
                return put(*arguments, **named)
            finally:
                self.bytes.release(size)

        return self._uploads.submit(released)


class ContextPlugin(WorkerPlugin):
    """Creates the context of one run in a dask worker; the run names the plugin, as runs may share a cluster.

    A worker in this process has the `context` that is there already.
    """

    def __init__(self, name: str, config: WorkerConfig, context: WorkerContext | None = None) -> None:
        self.name, self.config, self._context = name, config, context

    def setup(self, worker: Worker) -> None:
        """Create the context; dask calls this in the worker's process."""
        tune_process()
        if self._context is None:
            network.share()  # on a cluster each worker has an environment of its own
        self.context = self._context or WorkerContext(self.config, open_bucket(self.config.destination))


def context_of(worker: Worker, run: str) -> WorkerContext:
    """Return the context of this run in a worker."""
    plugin = worker.plugins[run]
    assert isinstance(plugin, ContextPlugin)  # noqa: S101 - for the type checker: the name is the run's own
    return plugin.context


def tune_process() -> None:
    """Tune the allocator and the garbage collector of this process."""
    # By default glibc raises its threshold and keeps large freed buffers: 370 MB instead of 290 (mallopt(3)).
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, SPAN_BYTES // 8)
        mallopt(M_ARENA_MAX, 2)
    # Members and rows are no cycles. Without freeze() each collection traverses all imported modules: 4 % of a run.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
