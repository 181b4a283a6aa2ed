"""A directory as a bucket: one of the local disk, or one where a bucket is mounted."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import google_crc32c

from buckets import PART, Data, Stored, reason
from errors import BucketError, MemberError
from mount import is_fuse

CHUNK = 1 << 20  # bytes of a file that are in memory when it is read
NO_WAY_ON = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOTCONN, errno.ECONNABORTED,  # of a mount that has died: afterwards, and while it was asked
})  # fmt: skip

TRIES = 3  # of a write whose unfinished file, or empty folder, another run removes as a left-over

_numbers = itertools.count()  # of the files being written by this process, whichever of its buckets writes them
_mine = secrets.token_hex(4)  # in their names, for the processes of two containers have the same numbers


def probe() -> str:
    """A name to try out whether something can be written, which no other process tries out at the same time."""
    return f"{PART}ready-{_mine}"


class FolderBucket:
    """A directory as a bucket."""

    at_once = 1  # a local write is over before another thread has taken it up
    keeps = ""
    has_folders = False  # a placeholder is the directory itself
    no_way_on = NO_WAY_ON  # errors after which no other file could be written either

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root)
        self._at = str(root)  # what the names are opened under

    def ready(self) -> None:
        try:
            self.put(probe(), b"")
            self.delete([probe()])
        except (OSError, MemberError, BucketError) as error:
            raise BucketError(f"{self.root}: expected a directory that can be written, got: {reason(error)}") from error

    def put(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        path = f"{self._at}/{name}"
        try:
            if name.endswith("/"):
                os.makedirs(path, exist_ok=True)
                return
            self._persist(path, data)
        except OSError as error:
            if error.errno in self.no_way_on:
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
        part = f"{os.path.dirname(path)}/{PART}{_mine}-{next(_numbers)}"
        with _removed_on_failure(part):
            _fill(_open(part), chunks)
            os.rename(part, path)

    def get(self, name: str) -> bytes | None:
        try:
            return Path(self._at, name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def read(self, name: str) -> Iterator[bytes] | None:
        path = Path(self._at, name)
        return _chunks(path) if path.is_file() else None

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
        """What is listed, with the crc32c of the file's bytes, which are read for it."""
        if stored.name.endswith("/"):
            return stored
        checksum = google_crc32c.Checksum()
        try:
            for chunk in _chunks(self.root / stored.name):
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


class MountFolder(FolderBucket):
    """A directory in a mounted bucket. It is held open: when the mount goes away nothing lands in its place."""

    at_once = 128  # at 50 ms a request; measured in mount.py
    no_way_on = NO_WAY_ON - {errno.EIO}  # GCSFuse's word for a file that the bucket refused, say for its checksum

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        os.makedirs(root, exist_ok=True)
        self._folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._at = f"/proc/self/fd/{self._folder}"  # proc(5)
        if not is_fuse(Path(self._at)):
            self.close()
            raise BucketError(f"{root}: expected a mounted bucket, nothing is mounted there")
        self._crowds = [_Crowds() for _ in range(self.at_once)]

    def close(self) -> None:
        """Let go of the mount, which cannot be taken away before."""
        os.close(self._folder)

    def _write(self, path: str, chunks: Iterable[bytes]) -> None:
        # An object appears when its file is closed; a rename would be a copy and a delete. While Linux makes a file
        # in a folder nobody can look a name up there, and a new name is looked up first: two round trips a file,
        # one file at a time. Looked up beforehand, many names at once, GCSFuse has the answer when the file is made.
        # A file that is there is removed: GCSFuse would fetch it onto the local disk, and stage the new one there.
        crowds = self._crowds[hash(os.path.dirname(path)) % len(self._crowds)]
        with crowds.enter(_LOOKING), contextlib.suppress(OSError):
            os.stat(path)
            os.unlink(path)
        with _removed_on_failure(path):
            with crowds.enter(_MAKING):
                file = _open(path)
            _fill(file, chunks)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


_LOOKING, _MAKING = 0, 1


class _Crowds:
    """Lets threads of two kinds in by turns: all of one kind that wait, and when these are out all of the other."""

    def __init__(self) -> None:
        self._lock, self._kind, self._inside = threading.Lock(), _LOOKING, 0
        self._waiting: tuple[list[threading.Event], list[threading.Event]] = ([], [])

    @contextlib.contextmanager
    def enter(self, kind: int) -> Iterator[None]:
        """Wait for the turn of `kind`, and have it while this lasts."""
        self._come(kind)
        try:
            yield
        finally:
            self._go()

    def _come(self, kind: int) -> None:
        with self._lock:
            if not self._inside or (kind == self._kind and not self._waiting[1 - kind]):
                self._kind, self._inside = kind, self._inside + 1
                return
            turn = threading.Event()
            self._waiting[kind].append(turn)
        turn.wait()

    def _go(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            self._kind = 1 - self._kind if self._waiting[1 - self._kind] else self._kind
            crowd = self._waiting[self._kind]
            self._inside = len(crowd)
            for turn in crowd:
                turn.set()
            crowd.clear()


@contextlib.contextmanager
def _removed_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o666)


def _fill(file: int, chunks: Iterable[bytes]) -> None:
    try:
        for chunk in chunks:
            _write_all(file, chunk)
    finally:
        os.close(file)  # on a mount this is the upload, and can fail


def _write_all(descriptor: int, chunk: bytes) -> None:
    written = os.write(descriptor, chunk)
    while written < len(chunk):
        written += os.write(descriptor, memoryview(chunk)[written:])
