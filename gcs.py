"""Where objects land: a directory or GCSFuse mount, or a Google Cloud Storage bucket through its API.

Both are a `Bucket`: put, get, list, delete and ready. Names are object names, "/" between folders; a name
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
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from errors import BucketError, MemberError, UsageError

log = logging.getLogger("spotted")

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
    via: str = "auto"  # "auto", "mount" or "api", for a gs:// destination


@lru_cache(maxsize=4)
def open_bucket(destination: Destination) -> Bucket:
    """The bucket of a destination, one for each process. Raises UsageError for a name that cannot be one."""
    if not destination.to.startswith("gs://"):
        return FolderBucket(Path(destination.to))
    name = bucket_name(destination.to)
    mount = Path("/", os.environ.get("GCS_BUCKET_ROOT", "gcs").strip("/"), name)
    if destination.via == "api" or (destination.via == "auto" and not os.path.ismount(mount)):
        from gcs_api import ApiBucket  # half a second of imports that a directory needs nothing of

        return ApiBucket(name)
    if not os.path.ismount(mount):
        raise BucketError(f"{mount}: expected the mounted bucket, nothing is mounted there; use --via api")
    log.info("%s: written through the mount at %s", destination.to, mount)
    return FolderBucket(mount)


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
        self.mounted = _is_fuse(root)
        self.at_once = 64 if self.mounted else 1  # a local write is over before another thread has taken it up
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
        file = _create(target)
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


def _create(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o666)


def _write_all(descriptor: int, chunk: bytes) -> None:
    written = os.write(descriptor, chunk)
    while written < len(chunk):
        written += os.write(descriptor, memoryview(chunk)[written:])


def _is_fuse(path: Path) -> bool:
    """Whether a FUSE file system is mounted at `path` or above it (Linux; elsewhere no)."""
    here, kinds = path.resolve(), dict[Path, str]()
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():  # proc(5): mount point is field 5
            fields, _, rest = line.partition(" - ")
            kinds[Path(fields.split()[4].encode().decode("unicode_escape"))] = rest.split()[0]
    mount = next((place for place in (here, *here.parents) if place in kinds), None)
    return mount is not None and kinds[mount].startswith("fuse")


def reason(error: BaseException) -> str:
    """An error in one short line; obstore's has the whole answer of the server behind its first."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.splitlines()[0][:400]
