"""One writer at a time: a lease on a dataset, as an object that is renewed, or as a locked file.

An object is created and renewed with the generation that it must have (ifGenerationMatch), so that of two runs one gets
it. A run that was paused for longer than a lease lasts renews it before it writes anything more, and ends where another
run has taken it over meanwhile. https://cloud.google.com/storage/docs/request-preconditions
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import google.api_core.exceptions
from google.cloud import storage

from errors import BucketError, BusyError, escaped
from storage.bucket import Lease, reason
from storage.part_files import folder

log = logging.getLogger("spotted")

LASTS = 30.0  # seconds without a renewal, after which a lease is free
RENEWED = 8.0  # seconds between two renewals
LOOK = 0.5  # seconds between two looks at another's lease
UNHELD = "%s: no lease can be held here: see that no other run writes here (%s)"
Holder = Mapping[str, str]
DENIED = (google.api_core.exceptions.Forbidden, google.api_core.exceptions.Unauthorized)


def myself() -> dict[str, str]:
    """Which process of which machine this is, and since when it writes."""
    return {
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _read("/proc/sys/kernel/random/boot_id") + _link("/proc/self/ns/pid"),
        "started": _started(os.getpid()),
    }


def is_gone(holder: Holder) -> bool:
    """Whether the holder is a process of this machine, and of this container, that has ended."""
    mine = myself()
    if not mine["started"] or holder.get("machine") != mine["machine"]:
        return False
    pid = holder.get("pid", "")
    return pid.isdecimal() and _started(int(pid)) != holder.get("started")


def _started(pid: int) -> str:
    """When a process started, in ticks since the machine did (proc_pid_stat(5), field 22); "" where it is not there."""
    return " ".join(_read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19:20])


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _described(where: str, holder: Holder) -> str:
    who = escaped(f"process {holder.get('pid', '?')} on {holder.get('host', '?')}")
    return f"{where}: {who} writes here since {escaped(holder.get('since', '?'))}"


def _now() -> float:
    """Seconds, those in which the machine slept among them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


# ── an object ────────────────────────────────────────────────────────────────────────────────────


class ObjectLease(Lease):
    """A lease that is an object of a bucket; its metadata say who holds it."""

    def __init__(self, bucket: storage.Bucket, name: str, clock: Callable[[], float] = _now) -> None:
        self._bucket, self._name, self.where = bucket, name, f"gs://{bucket.name}/{name}"
        self._clock, self._renewed, self._generation = clock, clock(), 0
        self._lock, self._over = threading.Lock(), threading.Event()
        self._holder = myself()
        self._is_kept = False  # whether the bucket lets it be neither renewed nor removed

    @contextlib.contextmanager
    def held(self) -> Iterator[ObjectLease]:
        """Take it, and renew it while the context lasts; raises BusyError where another run holds it."""
        self._take()
        thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            ending = threading.Thread(target=self._release, daemon=True)  # an interrupted program does not wait for it
            ending.start()
            ending.join(1)

    def check(self) -> None:
        """Raise BucketError where another run has taken it over."""
        if self._clock() - self._renewed > LASTS and not self._is_kept:
            self.renew()

    def _take(self) -> None:
        seen, since = 0, self._clock()
        while not self._write(0):
            found = self._find()
            if found is None:
                continue
            generation, holder = found
            if not seen:
                log.info(
                    "%s; waiting for up to %.0f s to see whether it still does", _described(self.where, holder), LASTS
                )
            elif generation != seen:
                who = _described(self.where, holder)
                raise BusyError(
                    f"{who}: wait for its end, or end it; a run that has ended is replaced after {LASTS:.0f} s"
                )
            seen = generation
            if is_gone(holder) or self._clock() - since > LASTS:
                if self._write(generation):
                    log.info("%s: taken over, for its run has ended", self.where)
                    return
                seen, since = 0, self._clock()
            time.sleep(LOOK)

    def _find(self) -> tuple[int, Holder] | None:
        found = self._bucket.get_blob(self._name, timeout=30)
        return (int(found.generation or 0), found.metadata or {}) if found else None

    def _write(self, generation: int) -> bool:
        """Write it where it has this generation; whether it had."""
        blob = self._bucket.blob(self._name)
        blob.metadata = self._holder
        try:
            blob.upload_from_string(b"", if_generation_match=generation, timeout=30)
        except google.api_core.exceptions.PreconditionFailed:
            return False
        except DENIED as error:
            log.warning(
                "%s: no lease can be held here: see that no other run writes here (%s)", self.where, reason(error)
            )
            self._is_kept = True
            return True
        self._generation, self._renewed = int(blob.generation or 0), self._clock()
        return True

    def _keep(self) -> None:
        while not self._over.wait(RENEWED) and not self._is_kept:
            with contextlib.suppress(Exception):  # is tried again; a write that comes too late raises by `check`
                self.renew()

    def renew(self) -> None:
        """Hold it for LASTS seconds from now; raises BucketError where another run has taken it over."""
        with self._lock:
            if self._over.is_set() or self._is_kept or self._write(self._generation):
                return
            found = self._find()
        holder = found[1] if found else {}
        raise BucketError(f"{_described(self.where, holder)}, since this run was silent for too long; it ends")

    def _release(self) -> None:
        with self._lock, contextlib.suppress(Exception):  # the next run sees that it is no longer renewed
            if not self._is_kept:
                self._bucket.blob(self._name).delete(if_generation_match=self._generation, timeout=10)


# ── a file ───────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def locked_file(root: str, name: str) -> Iterator[Lease]:
    """Hold the lock of a file below `root` while the context lasts; raises BusyError where another process holds it.

    The lock ends with its process (flock(2)), so that its lease need not be renewed.
    """
    path, _, file = name.rpartition("/")
    with folder(root, path, is_made=True) as at:
        descriptor = _locked(at, file, f"{root}/{name}")
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(myself()).encode(), 0)
            yield Lease()
        finally:
            with contextlib.suppress(OSError):
                os.unlink(file, dir_fd=at)
            os.close(descriptor)


def _locked(at: int, file: str, where: str) -> int:
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=at)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(os.pread(descriptor, 4096, 0))
            os.close(descriptor)
            raise BusyError(f"{_described(where, holder)}: wait for its end, or end it") from error
        except OSError as error:
            log.warning(UNHELD, where, reason(error))
        if _is_at(at, file, descriptor):
            return descriptor
        os.close(descriptor)


def _is_at(at: int, file: str, descriptor: int) -> bool:
    """Whether the file is still the one of this name: another run removes its own at its end."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(file, dir_fd=at, follow_symlinks=False), os.fstat(descriptor))
    return False


def _holder(text: bytes) -> Holder:
    try:
        found = json.loads(text)
    except ValueError:  # it is just being written
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
