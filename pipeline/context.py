"""What the units in one process share: the bucket, threads and bounds."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from distributed import Worker, WorkerPlugin

from archives.spans import SPAN
from gcs import open_bucket
from manifest.checksums import Digest
from manifest.journal import JournalEntry
from manifest.store import ManifestStore
from pipeline.machine import at_once
from pipeline.options import RunOptions, WorkerConfig
from sources import network
from sources.http import HttpClient
from storage.bucket import Data, Lease

P = ParamSpec("P")
T = TypeVar("T")
BYTES_AT_ONCE = 64 << 20  # of members on their way into the bucket, in each process
BATCH = 4  # members that one thread puts one after the other; each takes 50 ms, and the last ones are waited for
BATCH_BYTES = 256 << 10  # of data in them; larger members go alone
LOCAL_BATCH, LOCAL_BATCH_BYTES = 64, 4 << 20  # where puts take no time: a turn each is what takes time
PHOTOS_AT_ONCE = 160  # fetched in each process; at 50 ms a photo this is 3,200 a second, more than two cores bear
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h


def http_client(options: RunOptions | WorkerConfig) -> HttpClient:
    """The connections of this process to the sources, as the options bound them."""
    return HttpClient(options.timeout, options.connections, options.bwlimit, options.allow_private_addresses)


class ByteSemaphore:
    """Bounds what is in flight, such as bytes in memory; a request larger than the bound runs alone."""

    def __init__(self, size: int) -> None:
        self.size, self._used, self._free = size, 0, threading.Condition()

    def acquire(self, size: int) -> None:
        """Wait until `size` fits."""
        with self._free:
            self._free.wait_for(lambda: not self._used or self._used + size <= self.size)
            self._used += size

    def release(self, size: int) -> None:
        """Give `size` back."""
        with self._free:
            self._used -= size
            self._free.notify_all()


class WorkerContext:
    """What the units in one process share: bucket, connections, the threads that put and fetch, and the bounds.

    `stop` is set to make all its units end soon; `digests` are the checksums of the archives that it reads whole.
    """

    def __init__(self, config: WorkerConfig, stop: threading.Event | None = None) -> None:
        self.stop, self.digests = stop or threading.Event(), dict[str, Digest]()  # by the source's name
        self.lease: Lease | None = None  # of the run in this process
        network.share()  # on a cluster each worker has an environment of its own
        self.bucket, self.started = open_bucket(config.destination), time.monotonic()
        self.http = http_client(config)
        max_in_flight = at_once(config.uploads or self.bucket.max_in_flight, share=2)
        photos = at_once(config.connections or PHOTOS_AT_ONCE, share=2)
        self._uploads = ThreadPoolExecutor(max_in_flight, "put") if max_in_flight > 1 else None
        self.batch = (BATCH, BATCH_BYTES) if self._uploads else (LOCAL_BATCH, LOCAL_BATCH_BYTES)
        self.bytes, self.putting = ByteSemaphore(BYTES_AT_ONCE), threading.BoundedSemaphore(max_in_flight)
        self.photos = ThreadPoolExecutor(photos + max_in_flight, "photo")  # each fetches a photo, then puts it
        self.fetching = threading.BoundedSemaphore(photos)
        self.connections = threading.BoundedSemaphore(config.readers)
        self.readers = ThreadPoolExecutor(config.readers, "read")

    def put(self, name: str, data: Data, content_type: str) -> None:
        """Store an object, while the lease is held."""
        if self.lease:
            self.lease.check()
        self.bucket.put(name, data, content_type)

    def record(self, dataset: str, entry: JournalEntry) -> None:
        """Write a journal entry, while the lease is held."""
        if self.lease:
            self.lease.check()
        ManifestStore(self.bucket, dataset).write(entry)

    def submit(self, size: int, put: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """Put in another thread once there is room for so many bytes; in this one for a local directory."""
        if self._uploads is None:
            done = Future[T]()
            # Units that write side by side would wait for Python's lock after each call of the system.
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
    """Gives a dask worker the context of one run, whose name it has; several runs may share a cluster."""

    def __init__(self, name: str, config: WorkerConfig, stop: threading.Event | None = None) -> None:
        self.name, self.config, self.stop = name, config, stop

    def setup(self, worker: Worker) -> None:
        """Make the context, where the worker starts."""
        tune_process()
        self.context = WorkerContext(self.config, self.stop)


def context_of(worker: Worker, run: str) -> WorkerContext:
    """The context that the plugin of this run made in a worker."""
    plugin = worker.plugins[run]
    assert isinstance(plugin, ContextPlugin)  # noqa: S101 - for the type checker: the name is the run's own
    return plugin.context


def tune_process() -> None:
    """Set what holds for the whole process: its allocator, its garbage collector."""
    # Otherwise glibc learns to keep freed large buffers, and 290 MB become 370 (mallopt(3)).
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, SPAN // 8)
        mallopt(M_ARENA_MAX, 2)
    gc.freeze()  # or Python goes through all its modules each time that it looks for cycles: 4 % of a run
