"""A bucket's methods and abilities, the same for every destination; listed objects and their checksums.

Names are object names, "/" between folders; a name that ends with "/" is a folder's placeholder, without which
GCSFuse shows the folder only with implicit dirs.
"""

from __future__ import annotations

import base64
import binascii
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeVar

from sources.http_status import OBSTORE_STATUS
from storage.rate_limit import RateLimiter

METADATA_PREFIX = "_extraction/"  # the journals and manifests
UNREADABLE = -1  # size of what lies in a directory where a file should, and is none that can be read
Data = bytes | Iterable[bytes]
T = TypeVar("T")
U = TypeVar("U")


class Stored(NamedTuple):
    """What a bucket's listing says of one object."""

    name: str
    size: int  # bytes
    crc32c: int | None  # None where the listing has no checksum (directories)


class BucketState(NamedTuple):
    """The description of a bucket, found without writing to it."""

    exists: bool
    region: str | None = None  # None: it has none; "": the account may not see it
    is_hierarchical: bool = False
    keeps: str = ""  # why objects can be neither removed nor replaced; "" if they can, or if unknown
    is_versioned: bool = False
    storage_class: str = ""  # of what is stored without one of its own; "": unknown
    kms_key: str = ""  # that encrypts it; "": one of Google's own, or unknown


class Terms(NamedTuple):
    """Who pays for the requests to a bucket, and what it has from its creation; one that is there keeps its own."""

    billing_project: str = ""  # "": the credentials' quota project, or the bucket's owner
    storage_class: str = ""  # STANDARD, NEARLINE, COLDLINE or ARCHIVE; "": STANDARD
    kms_key: str = ""  # projects/P/locations/L/keyRings/R/cryptoKeys/K; "": one of Google's own
    is_hierarchical: bool = False  # whether it has a hierarchical namespace, or is to get it


NO_TERMS = Terms()


class Lease:
    """What a run holds while it writes a dataset; this one is of a place where none is needed or can be held."""

    def check(self) -> None:
        """Raise BucketError where it was not renewed in time, and another run has taken it over."""

    def renew(self) -> None:
        """The same, by the bucket's own word of this moment."""


class Bucket(ABC):
    """A store of objects. After a failure no object is partly visible under its name.

    What it can do, it declares; the defaults are those of a store without particular abilities.
    """

    url: str
    max_in_flight: int = 1  # useful number of parallel puts
    has_checksums: bool = True  # whether its listing has the objects' checksums
    is_local: bool = False  # whether reading its objects costs little
    limiter: RateLimiter | None = None  # of its writes; None: they are not limited

    @property
    def keeps(self) -> str:
        """Why what is stored can be neither replaced nor removed; "" where it can, or where that is not known."""
        return ""

    @property
    def has_folders(self) -> bool:
        """Whether folders exist without placeholder objects: then none is put or expected."""
        return False

    def probe(self) -> BucketState:
        """What there is, without writing to it; raises BucketError when it cannot be used."""
        return BucketState(True)

    @abstractmethod
    def ready(self) -> None:
        """Make sure that it exists and takes objects; raises BucketError that says what to do."""

    @abstractmethod
    def put(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        """Store an object whole or not at all; raises MemberError, or BucketError when nothing can be stored.

        Where the bucket lets nothing be replaced, an existing object with these bytes counts as
        stored, and another one raises KeptError. UploadLostError: it can be stored when its bytes are read again.
        """

    def create(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        """The same of an object that must not exist; raises BusyError where another run has made it."""
        self.put(name, data, content_type)

    def lease(self, name: str) -> AbstractContextManager[Lease]:
        """Hold a lease by this name, for one writer at a time; raises BusyError where another run holds it."""
        return nullcontext(Lease())

    def get(self, name: str) -> bytes | None:
        """An object's bytes, or None if there is no object of that name."""
        chunks = self.read(name)
        return None if chunks is None else b"".join(chunks)

    @abstractmethod
    def read(self, name: str) -> Iterator[bytes] | None:
        """The same in chunks."""

    @abstractmethod
    def list(self, prefix: str, marks: Sequence[str] = ()) -> Iterator[Stored]:
        """All objects, and placeholders, whose name begins with `prefix`, which ends with "/", sorted by name.

        `marks` are sorted names that part the objects into pieces: a bucket may list several of them in parallel.
        """

    def with_checksum(self, stored: Stored, since: int = 0) -> Stored:
        """A listed object with its checksum, for which a bucket whose listing has none reads its bytes.

        One that was not changed since that moment (`changed_at`) stays as it is.
        """
        return stored

    def changed_at(self, name: str) -> int:
        """When an object was last changed, in ns; 0 where there is none, or where that is not known."""
        return 0

    @abstractmethod
    def delete(self, names: Iterable[str]) -> Sequence[str]:
        """Remove objects; a missing one is no error. Returns those that the bucket keeps, and logs them."""

    def sync(self) -> None:  # noqa: B027 - a bucket's answer to a put says that already
        """Return once all that was put survives a loss of power."""

    @abstractmethod
    def close(self) -> None:
        """Release its resources; it is not used afterwards."""


def map_bounded(pool: Executor, work: Callable[[T], U], items: Iterable[T], most: int) -> Iterator[U]:
    """Like `pool.map`, with at most `most` results waiting to be consumed."""
    waiting = deque[Future[U]]()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def encode_crc32c(value: int) -> str:
    """A checksum as GCS and `gcloud storage hash` write it: base64 of four bytes, the highest first."""
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def decode_crc32c(text: str) -> int:
    """The reverse of encode_crc32c."""
    return int.from_bytes(binascii.a2b_base64(text), "big")


def reason(error: BaseException) -> str:
    """An error in one short line; for obstore, whose message has the server's whole answer, its status and details."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    status = OBSTORE_STATUS.search(text)
    parts = [found for found in [re.search(r'"message": *"([^"]*)', text)] if found]
    parts += [found for tag in ("Details", "Message") if (found := re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL))]
    if status and parts:
        text = f"{status[0]}: {' '.join(parts[0][1].split())}"
    hint = "; name one with --billing-project" if "no user project provided" in text else ""
    return text.splitlines()[0][:400] + hint
