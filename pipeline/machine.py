"""The limits of this machine: open files, /proc, a folder for temporary files."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import sys
import tempfile
from pathlib import Path

from errors import ExtractionError

log = logging.getLogger("spotted")

MAX_OPEN_FILES = 8192  # open files
MEMORY = "/dev/shm"  # noqa: S108 - the tmpfs of POSIX shared memory on Linux
OTHER_OPEN_FILES = 96  # open files beside the puts: connections to sources, of dask, of the libraries


def raise_limit() -> None:
    """Raise the soft limit of open files towards the hard one (getrlimit(2)); on macOS it is 256 by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_proc() -> None:
    """Raise ExtractionError where Linux has no /proc: dask measures its processes by it."""
    if sys.platform == "linux" and not Path("/proc/self/stat").exists():
        raise ExtractionError("/proc is not there, and dask cannot start without it; run: mount -t proc proc /proc")


def find_temporary_folder() -> None:
    """Use memory for temporary files if no folder is writable, as with `docker run --read-only`."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        log.info("no folder for temporary files can be written: they go to %s", MEMORY)
        os.environ["TMPDIR"] = MEMORY  # also for the processes that this one starts


def at_once(wanted: int, share: int = 1) -> int:
    """The number of connections, at most `wanted`, that the limit of open files allows for one of `share` kinds."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if soft == resource.RLIM_INFINITY else max(1, (soft - OTHER_OPEN_FILES) // share)
    if allowed < wanted:
        log.info("%d in parallel, not %d: this machine allows %d open files (ulimit -n)", allowed, wanted, soft)
    return min(wanted, allowed)
