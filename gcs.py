"""Where objects land: a directory, or a Google Cloud Storage bucket through its API or a GCSFuse mount of it.

All are a `Bucket`: put, get, list, delete and ready. Names are object names, "/" between folders; a name
that ends with "/" is a folder's placeholder, without which GCSFuse shows the folder only with implicit dirs.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from errors import BucketError, MemberError, UsageError
from mount import is_fuse, mounted

log = logging.getLogger("spotted")

BOOKS = "_extraction/"  # the journals and manifests
PART = ".spotted-part-"  # begins the name of a file that is still written; renamed within its folder, which is cheap
LONGEST_NAME = 1024  # bytes of UTF-8
NO_WAY_ON = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTCONN})
Data = bytes | Iterable[bytes]


class Stored(NamedTuple):
    """What a bucket's listing says of one object."""

    name: str
    size: int  # bytes
    crc32c: int | None  # None where the listing has no checksum (directories)


class Bucket(Protocol):
    """A place for objects. Nothing here is ever half visible under its name after a failure."""

    url: str
    at_once: int  # puts that are worth having in flight

    def ready(self) -> None:
        """Make sure that it exists and takes objects; raises BucketError that says what to do."""

    def put(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        """Store an object whole or not at all; raises MemberError, or BucketError when nothing can be stored."""

    def get(self, name: str) -> bytes | None:
        """An object's bytes, or None when there is none of that name."""

    def list(self, prefix: str, known: Sequence[str] = ()) -> Iterator[Stored]:
        """All objects, and placeholders, whose name begins with `prefix`, which ends with "/".

        `known` are names that are likely there, sorted: a bucket may list between them in several pieces at once.
        """

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""


@dataclass(frozen=True)
class Destination:
    """What the user said of where to store; small and picklable, for every worker opens it for itself."""

    to: str  # "gs://bucket" or a directory
    via: str = "api"  # or "mount", for a gs:// destination


@lru_cache(maxsize=4)
def open_bucket(destination: Destination) -> Bucket:
    """The bucket of a destination, one for each process. Raises UsageError for a name that cannot be one."""
    if not destination.to.startswith("gs://"):
        return FolderBucket(Path(destination.to))
    from gcs_api import ApiBucket  # half a second of imports that a directory needs nothing of

    api = ApiBucket(bucket_name(destination.to))
    return MountedBucket(api, mount_point(destination)) if destination.via == "mount" else api


def mount_point(destination: Destination) -> Path:
    """Where a bucket is mounted: /gcs/<bucket>, which is where Vertex AI has it."""
    return Path("/", os.environ.get("GCS_BUCKET_ROOT", "").strip("/") or "gcs", bucket_name(destination.to))


@contextlib.contextmanager
def ready(to: str, via: str, is_elsewhere: bool = False) -> Iterator[Destination]:
    """Make sure that a destination takes objects, and mount it where it is to be mounted, while this lasts.

    With `via` "auto" that is where FUSE works and the writers are not elsewhere (on a cluster). Raises BucketError.
    """
    destination = Destination(to)
    open_bucket(destination).ready()
    with contextlib.ExitStack() as stack:
        if to.startswith("gs://") and via != "api":
            try:
                if via == "auto" and is_elsewhere:
                    raise BucketError("the workers of the cluster have no mount")
                destination = _mounted(destination, stack)
                log.info("%s: written through the mount at %s", to, mount_point(destination))
            except BucketError as error:
                if via == "mount":
                    raise
                log.info("%s: written through the API: %s", to, error)
        yield destination


def _mounted(api: Destination, stack: contextlib.ExitStack) -> Destination:
    with contextlib.ExitStack() as attempt:
        attempt.enter_context(mounted(bucket_name(api.to), mount_point(api)))
        destination = replace(api, via="mount")
        open_bucket(destination).ready()
        stack.enter_context(attempt.pop_all())
    return destination


def bucket_name(url: str) -> str:
    """The name in gs://name; raises UsageError for one that GCS refuses.

    https://cloud.google.com/storage/docs/buckets#naming
    """
    name = url.removeprefix("gs://").rstrip("/")
    rule = r"(?=.{3,222}$)[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?)*"
    bad = not re.fullmatch(rule, name) or ("." not in name and len(name) > 63) or re.fullmatch(r"(\d+\.){3}\d+", name)
    if bad or name.startswith("goog") or "google" in name:
        raise UsageError(
            f"{url}: not a bucket name that Google Cloud Storage takes: expected gs:// and 3 to 63 of"
            " a-z, 0-9, '-', '_', '.', beginning and ending with a letter or digit"
        )
    return name


def object_name(prefix: str, name: str) -> tuple[str, str]:
    """The object that a member becomes, and why it may not be one ("" when it may).

    "./" and doubled slashes go, as tar's and zip's own tools have it; what could leave the prefix, or what
    GCS takes for no name, is refused (https://cloud.google.com/storage/docs/objects#naming).
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    full = prefix + "/".join(parts) + ("/" if name.endswith("/") and parts else "")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return full, "an absolute name"
    if ".." in parts or "\\" in name:
        return full, "a name that leads out of its folder"
    if not full.isprintable() and re.search(r"[\x00-\x1f\x7f]", full):
        return full, "a name with a control character"
    try:
        length = len(full.encode())
    except UnicodeEncodeError:
        return full, "a name that is not UTF-8"
    return full, "" if length <= LONGEST_NAME else f"a name of {length:,} bytes; {LONGEST_NAME:,} are allowed"


def encode_crc32c(value: int) -> str:
    """A checksum as GCS and `gcloud storage hash` write it: base64 of four bytes, the highest first."""
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def decode_crc32c(text: str) -> int:
    """The reverse of encode_crc32c."""
    return int.from_bytes(base64.b64decode(text), "big")


class FolderBucket:
    """A directory, or a mounted bucket, as a bucket."""

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root)
        self.mounted = is_fuse(root)
        self.at_once = 64 if self.mounted else 1  # a local write is over before another thread has taken it up
        self._device = os.stat(root).st_dev if self.mounted else 0
        self._numbers = itertools.count()

    def ready(self) -> None:
        try:
            self.put(f"{PART}ready", b"")
            self.delete([f"{PART}ready"])
        except (OSError, MemberError, BucketError) as error:
            raise BucketError(f"{self.root}: expected a directory that can be written, got: {reason(error)}") from error

    def put(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        path = f"{self.root}/{name}"
        try:
            if name.endswith("/"):
                os.makedirs(path, exist_ok=True)
                return
            self._write(path, (data,) if isinstance(data, bytes) else data)
        except OSError as error:
            if error.errno in NO_WAY_ON:
                raise BucketError(f"{path}: cannot be written: {reason(error)}") from error
            raise MemberError(reason(error)) from error

    def _write(self, path: str, chunks: Iterable[bytes]) -> None:
        # On a mount an object appears when its file is closed, and a rename there is a copy and a delete.
        target = path if self.mounted else f"{os.path.dirname(path)}/{PART}{os.getpid()}-{next(self._numbers)}"
        file = self._create(target)
        try:
            try:
                for chunk in chunks:
                    _write_all(file, chunk)
            finally:
                os.close(file)  # on a mount this is the upload, and can fail
            if target != path:
                os.rename(target, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(target)
            raise

    def _create(self, path: str) -> int:
        file = self._open(path)
        if self.mounted and os.fstat(file).st_dev != self._device:  # unmounted between the look and the open
            os.close(file)
            os.unlink(path)
            raise BucketError(f"{self.root}: the bucket is no longer mounted there")
        return file

    def _open(self, path: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        if self.mounted:
            # Linux looks a new name up with its folder locked, one file at a time; looked up here before, many at a
            # time, GCSFuse has the answer by then. At 50 ms a request 85 files/s in place of 25, and no request more.
            with contextlib.suppress(OSError):
                os.stat(path)
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            if self.mounted and not is_fuse(self.root):  # an empty mount point has no folders: all that goes astray
                raise BucketError(f"{self.root}: the bucket is no longer mounted there") from None  # comes by here
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return os.open(path, flags, 0o666)

    def get(self, name: str) -> bytes | None:
        try:
            return Path(self.root, name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def list(self, prefix: str, known: Sequence[str] = ()) -> Iterator[Stored]:
        if os.path.isdir(self.root / prefix):
            yield Stored(prefix, 0, None)
            yield from self._walk(prefix)

    def _walk(self, prefix: str) -> Iterator[Stored]:
        with os.scandir(self.root / prefix) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield Stored(f"{prefix}{entry.name}/", 0, None)
                    yield from self._walk(f"{prefix}{entry.name}/")
                else:
                    yield Stored(prefix + entry.name, entry.stat(follow_symlinks=False).st_size, None)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                (os.rmdir if name.endswith("/") else os.unlink)(self.root / name)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # what is not empty is no placeholder
                    raise BucketError(f"{self.root / name}: cannot be removed: {reason(error)}") from error


class MountedBucket:
    """A bucket whose objects are written through its mount, while the API tells what has landed.

    The books go by the API too: whoever is killed while writing a file on a mount leaves a part of it, and part
    of a manifest could be taken for the whole.
    """

    def __init__(self, api: Bucket, root: Path) -> None:
        if not is_fuse(root):
            raise BucketError(f"{root}: expected the mount of {api.url}, nothing is mounted there; use --via api")
        self._api, self._folder = api, FolderBucket(root)
        self.url, self.at_once = api.url, self._folder.at_once
        self.get, self.list = api.get, api.list

    def ready(self) -> None:
        probe = f"{PART}ready"
        try:
            self._folder.put(probe, b"")
            arrived = self._api.get(probe) is not None
            self._folder.delete([probe])
        except (OSError, MemberError) as error:
            raise BucketError(f"{self._folder.root}: cannot be written: {reason(error)}") from error
        if not arrived:
            raise BucketError(f"{self._folder.root}: is mounted, but what is written there does not reach {self.url}")

    def put(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        (self._api if name.startswith(BOOKS) else self._folder).put(name, data, content_type)

    def delete(self, names: Iterable[str]) -> None:
        names = list(names)
        self._api.delete(name for name in names if name.startswith(BOOKS))
        self._folder.delete(name for name in names if not name.startswith(BOOKS))


def _write_all(descriptor: int, chunk: bytes) -> None:
    written = os.write(descriptor, chunk)
    while written < len(chunk):
        written += os.write(descriptor, memoryview(chunk)[written:])


def reason(error: BaseException) -> str:
    """An error in one short line; obstore's has the whole answer of the server behind its first."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.splitlines()[0][:400]
