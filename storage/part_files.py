"""Files in a folder that other users may write: no link is followed, and no file is partly written under its name.

Each file is opened relative to the descriptor of its folder, which is reached without following links (openat(2)).
Other users can neither redirect a write, nor guess the name of an unfinished file.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterable, Iterator

from storage.names import PARTIAL_PREFIX

CHUNK_BYTES = 1 << 20  # bytes of one read
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: do not wait for a pipe's writer
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def part_name() -> str:
    """Return an unguessable name for an unfinished file."""
    return PARTIAL_PREFIX + os.urandom(12).hex()


class Folder(int):
    """The descriptor of an open folder. It is closed with the last reference to it: threads may share it."""

    def __del__(self) -> None:
        os.close(self)


def folder(root: str, path: str, is_made: bool = False) -> Folder:
    """Open a folder below `root`; create it if `is_made`. Raises OSError, ELOOP for a link."""
    at = _root(root, is_made)
    for name in filter(None, path.split("/")):
        try:
            below = _below(at, name, is_made)
        finally:
            os.close(at)  # now: a traceback would keep a Folder open, and a mount busy
        at = below
    return Folder(at)


def _root(root: str, is_made: bool) -> int:
    """Open the folder that the user named; links on the way to it are followed."""
    try:
        return os.open(root, FOLDER)
    except FileNotFoundError:
        if not is_made:
            raise
        os.makedirs(root, exist_ok=True)
        return os.open(root, FOLDER)


def _below(at: int, name: str, is_made: bool) -> int:
    for is_last in (not is_made, True):
        try:
            return os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=at)
        except FileNotFoundError:
            if is_last:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=at)
        except NotADirectoryError as error:
            if stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                raise OSError(
                    errno.ELOOP, "a symbolic link lies where its folder should, and is not followed"
                ) from error
            raise
    raise AssertionError


def is_in_place(descriptor: int, path: str, at: int | None = None) -> bool:
    """Whether the name still belongs to this open file or folder: another program may remove, rename or replace it."""
    try:
        return os.path.samestat(os.stat(path, dir_fd=at, follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False


def chunks(root: str, name: str) -> Iterator[bytes]:
    """Read a regular file in chunks; raises OSError if it cannot be opened or is not a regular file."""
    path, _, file = name.rpartition("/")
    descriptor = os.open(file, READ, dir_fd=folder(root, path))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file")
    return _read(descriptor)


def _read(descriptor: int) -> Iterator[bytes]:
    with open(descriptor, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def write(at: int, name: str, data: Iterable[bytes]) -> None:
    """Write a file under a temporary name, then rename it."""
    part = part_name()
    try:
        fill(os.open(part, NEW, 0o666, dir_fd=at), data)
        os.rename(part, name, src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        discard(part, at)
        raise


def discard(path: str, at: int | None = None) -> None:
    """Remove a file that could not be finished."""
    with contextlib.suppress(OSError):
        os.unlink(path, dir_fd=at)


def fill(file: int, data: Iterable[bytes]) -> None:
    """Write all chunks and close the file."""
    try:
        for chunk in data:
            _write_all(file, chunk)
    finally:
        os.close(file)  # on a mount this is the upload, and can fail


def _write_all(descriptor: int, chunk: bytes) -> None:
    written = os.write(descriptor, chunk)
    while written < len(chunk):
        written += os.write(descriptor, memoryview(chunk)[written:])


def sync_files(root: str) -> None:
    """Flush the file system of a folder to its disk; raises OSError (syncfs(2))."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "syncfs"):
        os.sync()
        return
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if library.syncfs(at):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(at)
