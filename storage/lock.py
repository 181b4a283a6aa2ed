"""Who writes a dataset: the process that tells so, and in a directory a file that it holds locked."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from errors import BusyError, escaped
from storage.bucket import Lease, reason
from storage.part_files import folder

log = logging.getLogger("spotted")

UNHELD = "%s: no lease can be held here: see that no other run writes here (%s)"
SAFE = os.O_NOFOLLOW | os.O_CLOEXEC
Holder = Mapping[str, str]


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


def described(where: str, holder: Holder) -> str:
    """Who holds a lease, and since when."""
    who = escaped(f"process {holder.get('pid', '?')} on {holder.get('host', '?')}")
    return f"{where}: {who} writes here since {escaped(holder.get('since', '?'))}"


def now() -> float:
    """Seconds, those in which the machine slept among them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


# ── a file ───────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def locked_file(root: str, name: str) -> Iterator[Lease]:
    """Hold the lock of a file below `root` while the context lasts; raises BusyError where another process holds it."""
    path, _, file = name.rpartition("/")
    with folder(root, path, is_made=True) as at:
        descriptor = _locked(at, file, f"{root}/{name}")
        try:
            with open(os.open(file, os.O_WRONLY | os.O_TRUNC | SAFE, dir_fd=at), "w") as lock:
                json.dump(myself(), lock)
            yield Lease()
        finally:
            with contextlib.suppress(OSError):
                os.unlink(file, dir_fd=at)
            os.close(descriptor)


def _locked(at: int, file: str, where: str) -> int:
    while True:
        descriptor = _flock(at, file, where)
        if _is_at(at, file, descriptor):
            return descriptor
        os.close(descriptor)


def _flock(at: int, file: str, where: str, access: int = os.O_RDONLY) -> int:
    # A file that is open for writing would keep its file system from becoming read-only. NFS locks no other (flock(2)).
    descriptor = os.open(file, access | os.O_CREAT | SAFE, 0o666, dir_fd=at)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _holder(os.pread(descriptor, 4096, 0))
        os.close(descriptor)
        raise BusyError(f"{described(where, holder)}: wait for its end, or end it") from error
    except OSError as error:
        if error.errno == errno.EBADF and access == os.O_RDONLY:
            os.close(descriptor)
            return _flock(at, file, where, os.O_RDWR)
        log.warning(UNHELD, where, reason(error))
    return descriptor


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
