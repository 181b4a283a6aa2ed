"""What this machine allows a process: files that are open at once, a folder for temporary ones."""

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

ENOUGH = 8192  # files at once
MEMORY = "/dev/shm"  # noqa: S108 - tmpfs, as POSIX shared memory has it on Linux
OTHER = 96  # files that are no put's: connections to sources, dask's, the libraries'


def raise_limit() -> None:
    """Allow as many open files as the system lets a user allow (getrlimit(2)); macOS begins with 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_proc() -> None:
    """Raise ExtractionError where Linux has no /proc: dask measures its processes by it."""
    if sys.platform == "linux" and not Path("/proc/self/stat").exists():
        raise ExtractionError("/proc is not there, and dask cannot start without it; run: mount -t proc proc /proc")


def find_temporary_folder() -> None:
    """Where no folder for temporary files can be written, as with `docker run --read-only`, use memory."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        log.info("no folder for temporary files can be written: they go to %s", MEMORY)
        os.environ["TMPDIR"] = MEMORY  # for this process and those that it starts


def at_once(wanted: int, share: int = 1) -> int:
    """How many connections of a kind may be open at once, of which there are `share` kinds; says where it is less."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if soft == resource.RLIM_INFINITY else max(1, (soft - OTHER) // share)
    if allowed < wanted:
        log.info("%d at once, not %d: this machine allows %d open files (ulimit -n)", allowed, wanted, soft)
    return min(wanted, allowed)
