"""A bucket that is mounted by GCSFuse: objects are written as files and listed by the API."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path

from errors import BucketError, MemberError
from storage.bucket import METADATA_PREFIX, Bucket, BucketState, Data, Lease, Stored, reason
from storage.directory import FATAL_ERRNOS, FolderBucket
from storage.gcsfuse import is_fuse
from storage.part_files import discard, fill, part_name


class MountedBucket(Bucket):
    """A bucket whose objects are written through its mount, and listed by the API.

    Journal and manifest are written by the API too: a program that is killed while it writes to a mount leaves part of
    the file, and part of a manifest could pass for the whole.
    """

    def __init__(self, api: Bucket, root: Path) -> None:
        self._api, self._folder = api, MountFolder(root)
        self.url, self.max_in_flight = api.url, self._folder.max_in_flight
        self._made, self._lock = dict[str, Future[None]](), threading.Lock()

    def ready(self) -> None:
        probe = part_name()
        try:
            self._folder.put(probe, b"")
            arrived = self._api.get(probe) is not None
            self._folder.delete([probe])
        except (OSError, MemberError) as error:
            raise BucketError(f"{self._folder.root}: cannot be written: {reason(error)}") from error
        if not arrived:
            raise BucketError(f"{self._folder.root}: is mounted, but what is written there does not reach {self.url}")

    def sync(self) -> None:
        self._folder.sync()

    def close(self) -> None:
        self._folder.close()

    @property
    def keeps(self) -> str:
        return self._api.keeps

    @property
    def has_folders(self) -> bool:
        return self._api.has_folders

    def probe(self) -> BucketState:
        return self._api.probe()

    def read(self, name: str) -> Iterator[bytes] | None:
        return self._api.read(name)

    def list(self, prefix: str, marks: Sequence[str] = ()) -> Iterator[Stored]:
        return self._api.list(prefix, marks)

    def create(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        self._api.create(name, data, content_type)

    def lease(self, name: str) -> AbstractContextManager[Lease]:
        return self._api.lease(name)

    def put(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        if name.startswith(METADATA_PREFIX):
            self._api.put(name, data, content_type)
            return
        folder, _, file = name.rpartition("/")
        if folder and not self.has_folders:  # GCSFuse makes them there by the API of folders, and needs no objects
            self._make(f"{folder}/")
        if file:
            self._folder.put(name, data, content_type)

    def _make(self, folder: str) -> None:
        """Have a folder's placeholder made, once and by the API: a mount makes the folders in one folder in turn."""
        with self._lock:
            is_new = folder not in self._made
            made = self._made.setdefault(folder, Future())
        if is_new:
            try:
                self._api.put(folder, b"")
                made.set_result(None)
            except Exception as error:
                del self._made[folder]
                made.set_exception(error)
        made.result()

    def delete(self, names: Iterable[str]) -> Sequence[str]:
        names = list(names)
        kept = self._api.delete(name for name in names if name.startswith(METADATA_PREFIX))
        return [*kept, *self._folder.delete(name for name in names if not name.startswith(METADATA_PREFIX))]


class MountFolder(FolderBucket):
    """A directory in a mounted bucket. It is held open, so that nothing is written beside a dead mount."""

    is_local = False
    max_in_flight = 128  # at 50 ms a request (docs/mount.md)
    fatal_errnos = FATAL_ERRNOS - {errno.EIO}  # EIO: the bucket refused this file, for example for its checksum

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        os.makedirs(root, exist_ok=True)
        self._folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._at = f"/proc/self/fd/{self._folder}"  # proc(5)
        if not is_fuse(Path(self._at)):
            self.close()
            raise BucketError(f"{root}: expected a mounted bucket, nothing is mounted there")
        self._crowds = [_Crowds() for _ in range(self.max_in_flight)]

    def close(self) -> None:
        """Close the folder: until then the mount is busy."""
        os.close(self._folder)

    def sync(self) -> None:
        """A file is in the bucket once it is closed."""

    def _make(self, name: str) -> None:
        os.makedirs(f"{self._at}/{name}", exist_ok=True)

    def _write(self, name: str, data: Iterable[bytes]) -> None:
        # An object appears when its file is closed; a rename would be a copy and a delete. While Linux makes a file
        # in a folder no name can be looked up there, and a new name is looked up first: two round trips a file,
        # one file at a time. After look-ups of many names in parallel, GCSFuse has the answer when the file is made.
        # A file that is there is removed: GCSFuse would fetch it onto the local disk, and stage the new one there.
        path = f"{self._at}/{name}"
        crowds = self._crowds[hash(os.path.dirname(path)) % len(self._crowds)]
        with crowds.enter(_LOOKING), contextlib.suppress(OSError):
            os.stat(path)
            os.unlink(path)
        try:
            with crowds.enter(_MAKING):
                file = _open(path)
            fill(file, data)
        except BaseException:
            discard(path)
            raise


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o666)


_LOOKING, _MAKING = 0, 1


class _Crowds:
    """Admits threads of two kinds by turns: all waiting ones of one kind, after them all of the other."""

    def __init__(self) -> None:
        self._lock, self._kind, self._inside = threading.Lock(), _LOOKING, 0
        self._waiting: tuple[list[threading.Event], list[threading.Event]] = ([], [])

    @contextlib.contextmanager
    def enter(self, kind: int) -> Iterator[None]:
        """Wait for the turn of `kind`, and hold it while the context lasts."""
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
