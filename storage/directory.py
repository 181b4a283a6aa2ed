"""A directory as a bucket: on the local disk, or where a bucket is mounted."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from pathlib import Path

import google_crc32c

from errors import BucketError, MemberError, escaped
from storage.bucket import UNREADABLE, Bucket, BucketState, Data, Lease, Stored, reason
from storage.lock import locked_file
from storage.part_files import chunks, folder, is_in_place, part_name, sync_files, write

FATAL_ERRNOS = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOTCONN, errno.ECONNABORTED,  # of a mount whose process has ended: after that, and during a call
})  # fmt: skip

# Errors for a directory entry that is not a file, which counts as missing.
NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO})
MAX_OPEN_FOLDERS = 8  # folders; consecutive files mostly share theirs
MAX_ATTEMPTS = 3  # of a write whose unfinished file or empty folder another run removes meanwhile
log = logging.getLogger("spotted")


class FolderBucket(Bucket):
    """A directory as a bucket."""

    max_in_flight = 1  # a local write is faster than handing it to another thread
    has_checksums = False
    is_local = True
    fatal_errnos = FATAL_ERRNOS  # errors that every other file would have too

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root)
        self._at = str(root)  # the path below which files are opened
        self._opened = lru_cache(MAX_OPEN_FOLDERS)(partial(folder, self._at, is_made=True))

    def ready(self) -> None:
        probe = part_name()
        try:
            self.put(probe, b"")
            self.delete([probe])
        except (OSError, MemberError, BucketError) as error:
            raise BucketError(f"{self.root}: expected a directory that can be written, got: {reason(error)}") from error

    def probe(self) -> BucketState:
        if os.path.exists(self.root) and not os.path.isdir(self.root):
            raise BucketError(f"{self.root}: expected a directory, got a file")
        return BucketState(True)

    def put(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        try:
            if name.endswith("/"):
                self._make(name)
            else:
                self._persist(name, data)
        except OSError as error:
            if error.errno in self.fatal_errnos:
                raise BucketError(f"{self.root}/{name}: cannot be written: {reason(error)}") from error
            raise MemberError(reason(error)) from error

    def lease(self, name: str) -> AbstractContextManager[Lease]:
        return locked_file(self._at, name)

    def _make(self, name: str) -> None:
        folder(self._at, name, is_made=True)

    def _persist(self, name: str, data: Data) -> None:
        if not isinstance(data, bytes):
            self._write(name, data)
            return
        for tries_left in reversed(range(MAX_ATTEMPTS)):
            try:
                self._write(name, (data,))
                return
            except FileNotFoundError:
                if not tries_left:
                    raise

    def _write(self, name: str, data: Iterable[bytes]) -> None:
        path, _, file = name.rpartition("/")
        at = self._opened(path)
        if not is_in_place(at, f"{self._at}/{path}"):
            self._opened.cache_clear()
            at = self._opened(path)
        write(at, file, data)

    def read(self, name: str) -> Iterator[bytes] | None:
        try:
            return chunks(self._at, name)
        except OSError as error:
            if error.errno in NOT_THERE:
                return None
            raise BucketError(f"{self.root}/{name}: cannot be read: {reason(error)}") from error

    def list(self, prefix: str, marks: Sequence[str] = ()) -> Iterator[Stored]:
        try:
            folder(self._at, prefix)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise BucketError(f"{self.root}/{prefix}: cannot be listed: {reason(error)}") from error
        yield Stored(prefix, 0, None)
        yield from self._walk(prefix)

    def _walk(self, prefix: str) -> Iterator[Stored]:
        for name in self._names(prefix):
            if name.endswith("/"):
                yield Stored(prefix + name, 0, None)
                yield from self._walk(prefix + name)
                continue
            with contextlib.suppress(FileNotFoundError):  # a worker of a killed run may still rename its files
                found = os.lstat(f"{self._at}/{prefix}{name}")
                yield Stored(prefix + name, found.st_size if stat.S_ISREG(found.st_mode) else UNREADABLE, None)

    def _names(self, prefix: str) -> Sequence[str]:
        try:
            with os.scandir(f"{self._at}/{prefix}") as entries:
                return sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries)
        except FileNotFoundError:  # removed by another run
            return ()
        except OSError as error:
            raise BucketError(f"{self.root}/{prefix}: cannot be listed: {reason(error)}") from error

    def with_checksum(self, stored: Stored, since: int = 0) -> Stored:
        """Add the crc32c of a file by reading it; UNREADABLE if that fails.

        A file that was not changed `since` (ctime, in ns) is returned as it is.
        """
        if stored.name.endswith("/") or stored.size == UNREADABLE:
            return stored
        checksum = google_crc32c.Checksum()
        try:
            if since and os.lstat(f"{self._at}/{stored.name}").st_ctime_ns < since:
                return stored
            for chunk in chunks(self._at, stored.name):
                checksum.update(chunk)
        except OSError as error:
            log.warning("%s/%s: cannot be read: %s", self.root, escaped(stored.name), reason(error))
            return stored._replace(size=UNREADABLE)
        return stored._replace(crc32c=int.from_bytes(checksum.digest(), "big"))

    def changed_at(self, name: str) -> int:
        """The time at which a file's bytes, name or mode last changed (ctime, in ns); 0 if there is no such file."""
        try:
            return os.lstat(f"{self._at}/{name}").st_ctime_ns
        except OSError:
            return 0

    def delete(self, names: Iterable[str]) -> Sequence[str]:
        for name in names:
            path, _, file = name.rstrip("/").rpartition("/")
            try:
                (os.rmdir if name.endswith("/") else os.unlink)(file, dir_fd=folder(self._at, path))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # a folder with files is no placeholder
                    raise BucketError(f"{self.root}/{name}: cannot be removed: {reason(error)}") from error
        return ()

    def sync(self) -> None:
        try:
            sync_files(self._at)
        except OSError as error:
            raise BucketError(f"{self.root}: cannot be brought to the disk: {reason(error)}") from error

    def close(self) -> None:
        """Close the folders that were kept open."""
        self._opened.cache_clear()
