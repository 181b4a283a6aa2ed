"""Mount a bucket with GCSFuse, and unmount it after all files are flushed."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from errors import BucketError

log = logging.getLogger("spotted")

# For many small files from one writer. With any flags, a new file costs a look-up (1 get, 1 list) and 1 insert. At
# 50 ms a request, 128 threads write 410 files/s; less than half without the dentry cache. The other flags keep look-ups
# correct, memory small and retries finite. 64 threads write a quarter less, 256 a fifth more with 76 MB more
# (docs/mount.md).
FLAGS = (
    "--implicit-dirs",  # show folders that have no placeholder
    "--metadata-cache-ttl-secs=-1",  # there is no other writer, so look-ups stay valid …
    "--metadata-cache-negative-ttl-secs=-1",  # … those of missing names too
    "--stat-cache-max-size-mb=-1",
    "--experimental-enable-dentry-cache",  # or each new file looks up all its folders again
    "--max-conns-per-host=0",  # no limit
    "--max-idle-conns-per-host=128",
    "--write-block-size-mb=1",  # memory of each open file; the default is 32 MiB …
    "--write-global-max-blocks=128",  # … so that more than 4 open files need no staging on disk
    "--enable-metadata-prefetch=false",  # lists folders ahead, for readers
    "--max-retry-attempts=10",  # two and a half minutes; endless by default
    "--log-severity=warning",
    "--log-format=text",
)
MOUNT_TIMEOUT = 40  # seconds to wait for the mount; GCSFuse ends earlier if the bucket refuses it
UNMOUNT_TIMEOUT = 4  # seconds to wait for the last open files; `docker stop` allows ten for everything
FLUSH_TIMEOUT = 60  # seconds to wait for the end of GCSFuse after that
CAP_SYS_ADMIN = 1 << 21


class Mountable(NamedTuple):
    """A bucket, the prefix of it that is mounted, and the project that pays; the latter two may be empty."""

    bucket: str
    prefix: str = ""
    billing_project: str = ""

    @property
    def flags(self) -> tuple[str, ...]:
        """Their options of GCSFuse."""
        return f"--only-dir={self.prefix}", f"--billing-project={self.billing_project}"


def fuse_works() -> tuple[bool, str]:
    """Whether a bucket can be mounted on this machine, found without mounting; if not, why."""
    for program in ("gcsfuse", "fusermount3"):
        if not shutil.which(program):
            return False, f"{program} is not installed"
    if not os.path.exists("/dev/fuse"):
        return False, "there is no /dev/fuse (docker run needs --device /dev/fuse --cap-add SYS_ADMIN)"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return False, "this user may not open /dev/fuse"
    with contextlib.suppress(OSError):
        status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
        if not int(status["CapBnd"], 16) & CAP_SYS_ADMIN:  # which bounds the setuid program fusermount3 too
            return False, "mounting is not permitted (docker run needs --cap-add SYS_ADMIN)"
    return True, ""


def gcsfuse_version() -> str:
    """The name and version of GCSFuse."""
    done = subprocess.run(["gcsfuse", "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip().partition(" (")[0] or "a gcsfuse of unknown version"


def is_fuse(path: Path) -> bool:
    """Whether `path`, or its nearest existing parent, is in a FUSE file system; False outside Linux."""
    if not os.path.exists("/proc/self/mountinfo"):
        return False
    here = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    descriptor = os.open(here, os.O_PATH)
    try:
        info = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    finally:
        os.close(descriptor)
    number = re.search(r"^mnt_id:\s*(\d+)", info, re.MULTILINE)
    return number is not None and _kind(number[1]).startswith("fuse")


def _kind(mount: str) -> str:
    """The file system type of a mount; in mountinfo the mount's number comes first, the type after " - " (proc(5))."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.startswith(f"{mount} "):
            return line.partition(" - ")[2].split()[0]
    return ""


@contextmanager
def mounted(source: Mountable, where: Path, is_kept: bool = False) -> Iterator[None]:
    """Mount a bucket while the context lasts, or longer if `is_kept`; an existing mount is used and not unmounted.

    Raises BucketError if it cannot be mounted, or not be flushed at the end.
    """
    if is_fuse(where):
        yield
        return
    with tempfile.TemporaryFile("w+") as output:
        process = mount(source, where, output)
        try:
            yield
        finally:
            if is_kept:
                log.info("gs://%s: stays mounted at %s; to unmount it: fusermount3 -u %s", source.bucket, where, where)
            else:
                unmount(where, process)


def mount(source: Mountable, where: Path, output: TextIO) -> subprocess.Popen[str]:
    """Start GCSFuse and wait until the bucket is mounted at `where`; raises BucketError with GCSFuse's reason."""
    works, why = fuse_works()
    if not works:
        raise BucketError(f"gs://{source.bucket} cannot be mounted: {why}")
    _make_empty_folder(where)
    # In its own session, so that Ctrl-C reaches only this program, which then unmounts.
    process = subprocess.Popen(
        ["gcsfuse", "--foreground", *FLAGS, *_emulator(), *source.flags, source.bucket, str(where)],
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + MOUNT_TIMEOUT
    while not is_fuse(where):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise BucketError(f"gs://{source.bucket} cannot be mounted at {where}: {_reason(output)}")
        time.sleep(0.02)
    return process


def unmount(where: Path, process: subprocess.Popen[str]) -> None:
    """Unmount, and wait for GCSFuse to end, which it does after all is uploaded."""
    deadline = time.monotonic() + UNMOUNT_TIMEOUT
    while (answer := _fusermount("-u", where)) and time.monotonic() < deadline and is_fuse(where):
        time.sleep(0.1)
    if answer and is_fuse(where):
        _fusermount("-uz", where)
        raise BucketError(f"{where}: files were still open when it was unmounted ({answer}); run again")
    try:
        process.wait(FLUSH_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise BucketError(
            f"{where}: GCSFuse is still at work {FLUSH_TIMEOUT} s after it was unmounted; run again"
        ) from error


def _make_empty_folder(where: Path) -> None:
    try:
        where.mkdir(parents=True, exist_ok=True)
        if any(where.iterdir()):
            raise BucketError(f"{where}: expected an empty folder to mount the bucket at, it has files")
    except OSError as error:
        raise BucketError(f"{where}: cannot be made to mount the bucket at: {error.strerror}") from error


def _emulator() -> list[str]:
    host = os.environ.get("STORAGE_EMULATOR_HOST")
    if not host:
        return []
    url = host if "://" in host else f"http://{host}"
    return [f"--custom-endpoint={url.rstrip('/')}/storage/v1/", "--anonymous-access"]


def _fusermount(option: str, where: Path) -> str:
    """Run fusermount3; returns its error, or ""."""
    done = subprocess.run(["fusermount3", option, str(where)], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1][:200] if done.returncode and done.stderr.strip() else ""


def _reason(output: TextIO) -> str:
    """The reason for which GCSFuse ended, in one line of its output."""
    output.seek(0)
    lines = [line for line in output.read().splitlines() if line.strip() and "WARNING" not in line]
    for sign in ("fusermount3: ", "Error: ", ""):  # the cause; its consequence; anything
        for line in reversed(lines):
            if sign in line:
                return (line.partition('message="')[2] or line)[:300]
    return "no reason given"
