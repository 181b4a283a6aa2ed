"""A directory becomes a bucket: one on the local disk, or one where a bucket is mounted."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import google_crc32c

from errors import BucketError, MemberError
from storage.bucket import Bucket, Data, Look, Stored, reason
from storage.part_files import chunks_of, fill, open_for_writing, part_name, removed_on_failure

FATAL_ERRNOS = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOTCONN, errno.ECONNABORTED,  # of a mount that has died: afterwards, and during a call
})  # fmt: skip

TRIES = 3  # of a write whose unfinished file, or empty folder, another run removes as a left-over


class FolderBucket(Bucket):
    """A directory as a bucket."""

    max_in_flight = 1  # a local write is faster than a hand-over to another thread
    has_checksums = False
    fatal_errnos = FATAL_ERRNOS  # errors after which no other file could be written either

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root)
        self._at = str(root)  # what the names are opened under

    def ready(self) -> None:
        name = part_name()
        try:
            self.put(name, b"")
            self.delete([name])
        except (OSError, MemberError, BucketError) as error:
            raise BucketError(f"{self.root}: expected a directory that can be written, got: {reason(error)}") from error

    def look(self) -> Look:
        if os.path.exists(self.root) and not os.path.isdir(self.root):
            raise BucketError(f"{self.root}: expected a directory, got a file")
        return Look(True)

    def put(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        path = f"{self._at}/{name}"
        try:
            if name.endswith("/"):
                os.makedirs(path, exist_ok=True)
                return
            self._persist(path, data)
        except OSError as error:
            if error.errno in self.fatal_errnos:
                raise BucketError(f"{self.root}/{name}: cannot be written: {reason(error)}") from error
            raise MemberError(reason(error)) from error

    def _persist(self, path: str, data: Data) -> None:
        if not isinstance(data, bytes):
            self._write(path, data)
            return
        for _ in range(TRIES - 1):
            with contextlib.suppress(FileNotFoundError):
                self._write(path, (data,))
                return
        self._write(path, (data,))

    def _write(self, path: str, chunks: Iterable[bytes]) -> None:
        part = f"{os.path.dirname(path)}/{part_name()}"
        with removed_on_failure(part):
            fill(open_for_writing(part), chunks)
            os.rename(part, path)

    def get(self, name: str) -> bytes | None:
        try:
            return Path(self._at, name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def read(self, name: str) -> Iterator[bytes] | None:
        path = Path(self._at, name)
        return chunks_of(path) if path.is_file() else None

    def list(self, prefix: str, marks: Sequence[str] = ()) -> Iterator[Stored]:
        if os.path.isdir(f"{self._at}/{prefix}"):
            yield Stored(prefix, 0, None)
            yield from self._walk(prefix)

    def _walk(self, prefix: str) -> Iterator[Stored]:
        for name in self._names(prefix):
            if name.endswith("/"):
                yield Stored(prefix + name, 0, None)
                yield from self._walk(prefix + name)
                continue
            with contextlib.suppress(FileNotFoundError):  # a worker of a killed run still renames its files
                yield Stored(prefix + name, os.lstat(f"{self._at}/{prefix}{name}").st_size, None)

    def _names(self, prefix: str) -> Sequence[str]:
        try:
            with os.scandir(f"{self._at}/{prefix}") as entries:
                return sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries)
        except FileNotFoundError:  # another run has just removed it
            return ()

    def with_checksum(self, stored: Stored) -> Stored:
        """The listed object with the crc32c of the file, whose bytes are read."""
        if stored.name.endswith("/"):
            return stored
        checksum = google_crc32c.Checksum()
        try:
            for chunk in chunks_of(self.root / stored.name):
                checksum.update(chunk)
        except OSError as error:
            raise BucketError(f"{self.root / stored.name}: cannot be read: {reason(error)}") from error
        return stored._replace(crc32c=int.from_bytes(checksum.digest(), "big"))

    def delete(self, names: Iterable[str]) -> Sequence[str]:
        for name in names:
            try:
                (os.rmdir if name.endswith("/") else os.unlink)(f"{self._at}/{name}")
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # what is not empty is no placeholder
                    raise BucketError(f"{self.root}/{name}: cannot be removed: {reason(error)}") from error
        return ()

    def close(self) -> None:
        """It holds nothing."""
