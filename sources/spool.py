"""A stream becomes a temporary file without a name, of which nothing can be left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref

from errors import SourceError


class TemporaryCopy:
    """Bytes in a file without a name in TMPDIR: its space is free again when this object, or the process, is gone.

    Other processes of this machine read it at `path`, as long as that leads to `target` (proc_pid_fd(5)).
    """

    def __init__(self, url: str) -> None:
        """Raises SourceError if no temporary file can be made."""
        self.url, self.size = url, 0
        try:
            self.descriptor, path = tempfile.mkstemp(prefix="spotted-spool-")
            os.unlink(path)
        except OSError as error:
            raise SourceError(
                f"{url}: no temporary file can be made: {error}; set TMPDIR to a folder for it"
            ) from error
        weakref.finalize(self, os.close, self.descriptor)
        self.path, self.target = f"/proc/{os.getpid()}/fd/{self.descriptor}", f"{path} (deleted)"

    def write(self, chunk: bytes) -> None:
        """Append these bytes; raises SourceError where the disk is full or fails."""
        view = memoryview(chunk)
        while view:
            try:
                written = os.pwrite(self.descriptor, view, self.size)
            except OSError as error:
                raise SourceError(
                    f"{self.url}: its temporary copy in {tempfile.gettempdir()} cannot be written after {self.size:,}"
                    f" bytes: {error.strerror}; set TMPDIR to a folder with more space"
                ) from error
            self.size, view = self.size + written, view[written:]


def check_space(url: str, needed: int) -> None:
    """Raise SourceError where TMPDIR has not so many bytes free."""
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise SourceError(f"{url}: no temporary file can be made: {error}; set TMPDIR to a folder for it") from error
    if needed > free:
        raise SourceError(
            f"{url}: the server gives it only as a whole: expected {needed:,} bytes of free space in {folder} for a"
            f" temporary copy, got {free:,}; set TMPDIR to a folder with more space"
        )


def leads_to(path: str, target: str) -> bool:
    """Whether a process of this machine still has that copy open."""
    try:
        return os.readlink(path) == target
    except OSError:
        return False
