"""What a bucket is to this program, and the names and checksums of its objects.

Names are object names, "/" between folders; a name that ends with "/" is a folder's placeholder, without which
GCSFuse shows the folder only with implicit dirs.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import NamedTuple, Protocol, TypeVar

from errors import shown

BOOKS = "_extraction/"  # the journals and manifests
PART = ".spotted-part-"  # begins the name of a file that is still written; renamed within its folder, which is cheap
LONGEST_NAME = 1024  # bytes of UTF-8
Data = bytes | Iterable[bytes]
T = TypeVar("T")
U = TypeVar("U")


class Stored(NamedTuple):
    """What a bucket's listing says of one object."""

    name: str
    size: int  # bytes
    crc32c: int | None  # None where the listing has no checksum (directories)


class Bucket(Protocol):
    """A place for objects. Nothing here is ever half visible under its name after a failure."""

    url: str
    at_once: int  # puts that are worth having in flight

    @property
    def keeps(self) -> str:
        """Why what is stored can be neither replaced nor removed; "" where it can, or where that is not known."""

    @property
    def has_folders(self) -> bool:
        """Whether folders are there without placeholder objects: then none is put, and none is missed."""

    def ready(self) -> None:
        """Make sure that it exists and takes objects; raises BucketError that says what to do."""

    def put(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        """Store an object whole or not at all; raises MemberError, or BucketError when nothing can be stored.

        Where the bucket lets nothing be replaced, an object that is there already with these bytes is as good as
        stored, and another one raises KeptError. UploadLostError: it can be stored when its bytes are read again.
        """

    def get(self, name: str) -> bytes | None:
        """An object's bytes, or None when there is none of that name."""

    def read(self, name: str) -> Iterator[bytes] | None:
        """The same in chunks."""

    def list(self, prefix: str, marks: Sequence[str] = ()) -> Iterator[Stored]:
        """All objects, and placeholders, whose name begins with `prefix`, which ends with "/", sorted by name.

        `marks` are sorted names that part the objects into pieces: a bucket may list several of them at once.
        """

    def delete(self, names: Iterable[str]) -> Sequence[str]:
        """Remove objects; one that is not there is no error. Answers those that the bucket keeps, and logs them."""

    def close(self) -> None:
        """Let go of what it holds; it is not used after that."""


def is_unfinished(name: str) -> bool:
    """Whether a file of this name was still being written."""
    return name.rpartition("/")[2].startswith(PART)


def object_name(prefix: str, name: str) -> tuple[str, str]:
    """The object that a member becomes, and why it may not be one ("" when it may).

    "./" and doubled slashes go, as tar's and zip's own tools have it; what could leave the prefix, or what
    GCS takes for no name, is refused (https://cloud.google.com/storage/docs/objects#naming). A refused name is
    answered in a form that can be shown.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    full = prefix + "/".join(parts) + ("/" if name.endswith("/") and parts else "")
    refusal = _refusal(name, parts, full)
    return (shown(full) if refusal else full), refusal


def _refusal(name: str, parts: list[str], full: str) -> str:
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "an absolute name"
    if ".." in parts or "\\" in name:
        return "a name that leads out of its folder"
    if not full.isprintable() and re.search(r"[\x00-\x1f\x7f-\x9f]", full):
        return "a name with a control character"
    if not parts and not name.endswith("/"):
        return "no name"
    if any(part.startswith(PART) for part in parts):
        return "a name that this program keeps for itself"
    return _encoding_refusal(full)


def _encoding_refusal(full: str) -> str:
    try:
        length = len(full.encode())
    except UnicodeEncodeError:
        return "a name that is not UTF-8"
    return "" if length <= LONGEST_NAME else f"a name of {length:,} bytes; {LONGEST_NAME:,} are allowed"


def parents(paths: Iterable[str]) -> set[str]:
    """The placeholders of all folders above these paths: "a/b/c" makes "a/b/" and "a/", "a/b/" itself and "a/"."""
    folders = {path.rpartition("/")[0] for path in paths}
    return {f"{folder[:end]}/" for folder in folders for end in (*(m.start() for m in re.finditer("/", folder)), None)}


def ahead(pool: Executor, work: Callable[[T], U], items: Iterable[T], most: int) -> Iterator[U]:
    """What `pool.map` gives, with at most so many results waiting to be taken."""
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
    """An error in one short line; of obstore, which hands on the server's whole answer, its status and its details."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    status = re.search(r"status code: \d{3}[^:<]*", text)
    told = [found for found in [re.search(r'"message": *"([^"]*)', text)] if found]
    told += [found for tag in ("Details", "Message") if (found := re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL))]
    if status and told:
        text = f"{status[0]}: {' '.join(told[0][1].split())}"
    return text.splitlines()[0][:400]
