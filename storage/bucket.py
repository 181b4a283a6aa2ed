"""The interface of a bucket, the same for every destination; listed objects and their checksums.

Names are object names with "/" between folders. A name that ends with "/" is a folder's placeholder: GCSFuse shows a
folder without one only with implicit dirs.
"""

from __future__ import annotations

import binascii
import os
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
UNREADABLE = -1  # the size of a directory entry that is not a readable file
Data = bytes | Iterable[bytes]
T = TypeVar("T")
U = TypeVar("U")


class Stored(NamedTuple):
    """One object of a bucket's listing."""

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
    storage_class: str = ""  # default class of its objects; "": unknown
    kms_key: str = ""  # default encryption key; "": a key of Google's, or unknown


class Terms(NamedTuple):
    """The billing project of requests, and the properties of a bucket that the run creates."""

    billing_project: str = ""  # "": the credentials' quota project, or the bucket's owner
    storage_class: str = ""  # STANDARD, NEARLINE, COLDLINE or ARCHIVE; "": STANDARD
    kms_key: str = ""  # projects/P/locations/L/keyRings/R/cryptoKeys/K; "": a key of Google's
    is_hierarchical: bool = False  # whether the bucket has a hierarchical namespace, or gets one


NO_TERMS = Terms()


def wanted_region() -> str:
    """The region of a bucket that the run creates."""
    return os.environ.get("GCS_REGION") or "us-central1"


class Lease:
    """The right to write a dataset. This class is for destinations where no lease is needed or possible."""

    def check(self) -> None:
        """Raise BucketError if it was not renewed in time and another run has taken it over."""

    def renew(self) -> None:
        """Renew it now; raises BucketError if another run has taken it over."""


class Bucket(ABC):
    """A store of objects. After a failure no partial object is visible under its name.

    Attributes declare its abilities; the defaults are those of a store without any.
    """

    url: str
    max_in_flight: int = 1  # useful number of parallel puts
    has_checksums: bool = True  # whether its listing has checksums
    is_local: bool = False  # whether reading its objects is cheap
    limiter: RateLimiter | None = None  # of its writes; None: no limit

    @property
    def keeps(self) -> str:
        """Why objects can be neither replaced nor removed; "" if they can, or if unknown."""
        return ""

    @property
    def has_folders(self) -> bool:
        """Whether folders exist without placeholder objects."""
        return False

    def probe(self) -> BucketState:
        """Describe it without writing to it; raises BucketError if it cannot be used."""
        return BucketState(True)

    @abstractmethod
    def ready(self) -> None:
        """Make sure that it exists and accepts objects; raises BucketError, whose message says what to do."""

    @abstractmethod
    def put(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        """Store an object whole or not at all.

        Raises MemberError if this object cannot be stored, BucketError if none can. In a bucket that does not allow
        objects to be replaced, an existing object with the same bytes counts as stored; one with other bytes raises
        KeptError. UploadLostError means that the caller must read the bytes again.
        """

    def create(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        """Store an object that must not exist; raises BusyError if another run has created it."""
        self.put(name, data, content_type)

    def lease(self, name: str) -> AbstractContextManager[Lease]:
        """Hold the lease of this name, for one writer at a time; raises BusyError if another run holds it."""
        return nullcontext(Lease())

    def get(self, name: str) -> bytes | None:
        """Return an object's bytes; None if there is no such object."""
        chunks = self.read(name)
        return None if chunks is None else b"".join(chunks)

    @abstractmethod
    def read(self, name: str) -> Iterator[bytes] | None:
        """Return an object's bytes in chunks; None if there is no such object."""

    @abstractmethod
    def list(self, prefix: str, marks: Sequence[str] = ()) -> Iterator[Stored]:
        """List all objects and placeholders below `prefix`, which ends with "/", sorted by name.

        `marks` are sorted names that divide the objects into pieces, which may be listed in parallel.
        """

    def with_checksum(self, stored: Stored, since: int = 0) -> Stored:
        """Add the checksum that a listing lacks, by reading the object, unless it was not changed `since`."""
        return stored

    def changed_at(self, name: str) -> int:
        """The time of an object's last change, in ns; 0 if unknown, or if there is no such object."""
        return 0

    @abstractmethod
    def delete(self, names: Iterable[str]) -> Sequence[str]:
        """Remove objects; missing ones are no error. Returns the names that the bucket does not allow to remove."""

    def sync(self) -> None:  # noqa: B027 - in a bucket, each put is durable once it is answered
        """Return once all stored objects survive a power loss."""

    @abstractmethod
    def close(self) -> None:
        """Release its resources."""


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
    """Encode a checksum like GCS and `gcloud storage hash`: base64 of four bytes, big-endian."""
    return binascii.b2a_base64(value.to_bytes(4, "big"), newline=False).decode()


def decode_crc32c(text: str) -> int:
    """Reverse encode_crc32c; raises ValueError for other text."""
    value = binascii.a2b_base64(text)
    if len(value) != 4:
        raise ValueError(f"expected the base64 of four bytes, got {text}")
    return int.from_bytes(value, "big")


def reason(error: BaseException) -> str:
    """Describe an error in one short line; of obstore's, which quote the whole answer, the status and the details."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    status = OBSTORE_STATUS.search(text)
    parts = [found for found in [re.search(r'"message": *"([^"]*)', text)] if found]
    parts += [found for tag in ("Details", "Message") if (found := re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL))]
    if status and parts:
        text = f"{status[0]}: {' '.join(parts[0][1].split())}"
    hint = "; name one with --billing-project" if "no user project provided" in text else ""
    return text.splitlines()[0][:400] + hint
