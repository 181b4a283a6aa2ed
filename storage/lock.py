"""The holder of a lease, and the lock file that is the lease of a dataset in a directory."""

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
from storage.part_files import folder, is_in_place

log = logging.getLogger("spotted")

UNHELD = "%s: no lease can be held here: see that no other run writes here (%s)"
SAFE = os.O_NOFOLLOW | os.O_CLOEXEC
Holder = Mapping[str, str]


def myself() -> dict[str, str]:
    """Describe this process as a holder."""
    return {
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _read("/proc/sys/kernel/random/boot_id") + _link("/proc/self/ns/pid"),
        "started": _started(os.getpid()),
    }


def is_gone(holder: Holder) -> bool:
    """Whether the holder is an ended process of this machine and container."""
    mine = myself()
    if not mine["started"] or holder.get("machine") != mine["machine"]:
        return False
    pid = holder.get("pid", "")
    return pid.isdecimal() and _started(int(pid)) != holder.get("started")


def _started(pid: int) -> str:
    """The start time of a process in clock ticks since boot (proc_pid_stat(5), field 22); "" if it does not exist."""
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
    """Describe the holder of a lease, for messages."""
    who = escaped(f"process {holder.get('pid', '?')} on {holder.get('host', '?')}")
    return f"{where}: {who} writes here since {escaped(holder.get('since', '?'))}"


def now() -> float:
    """Seconds of a monotonic clock that also counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


# ── a file ───────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def locked_file(root: str, name: str) -> Iterator[Lease]:
    """Lock a file below `root` while the context lasts; raises BusyError if another process holds the lock."""
    path, _, file = name.rpartition("/")
    at = folder(root, path, is_made=True)
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
        if is_in_place(descriptor, file, at):  # another run may have removed it at its end
            return descriptor
        os.close(descriptor)


def _flock(at: int, file: str, where: str, access: int = os.O_RDONLY) -> int:
    # A file that is open for writing prevents a read-only remount; NFS locks only files that are (flock(2)).
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


def _holder(text: bytes) -> Holder:
    try:
        found = json.loads(text)
    except ValueError:  # not written yet
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
