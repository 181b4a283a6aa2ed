"""A Google Cloud Storage bucket through its API: obstore writes objects, google-cloud-storage does the rest."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import google.api_core.exceptions
import google.auth
import obstore
from google.cloud.storage.retry import DEFAULT_RETRY

from errors import BucketError, BusyError, KeptError, MemberError
from sources.retry import tls_failure
from storage.api_errors import final_status, judge
from storage.bucket import (
    NO_TERMS,
    Bucket,
    BucketState,
    Data,
    Lease,
    Stored,
    Terms,
    decode_crc32c,
    map_bounded,
    reason,
)
from storage.bucket_admin import NO_ANSWER, Place, understood
from storage.credentials import CONNECTIONS, charged_to, client, credentials_and_origin, emulator
from storage.lease import ObjectLease
from storage.line import Line
from storage.listing import Range, objects
from storage.names import encoding_refusal
from storage.object_stores import ObjectStores
from storage.rate_limit import HIERARCHICAL_FACTOR, INITIAL_RATE, USUAL_LIMITS, RateLimiter, WriteLimits
from storage.resumable_upload import Passing, size_and_crc32c, upload

log = logging.getLogger("spotted")

CONCURRENT_LISTINGS = 24  # concurrent pieces of a listing; each has about 1,900 objects, two pages and 0.4 MB
# Consecutive refusals with the same status that mean that every object is refused, for a disabled key or a policy.
# Fewer are refusals of single members.
MAX_EQUAL_REFUSALS = 8
DENIED = (obstore.exceptions.PermissionDeniedError, google.api_core.exceptions.Forbidden)
ALREADY_EXISTS = (
    obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError,
    google.api_core.exceptions.PreconditionFailed,
)  # fmt: skip
REFUSED = (
    *DENIED,
    obstore.exceptions.UnauthenticatedError,
    FileNotFoundError,  # obstore's error for 404: the bucket is gone
    google.api_core.exceptions.NotFound,
    google.auth.exceptions.GoogleAuthError,
)


class ApiBucket(Bucket):
    """A bucket through its API."""

    max_in_flight = 256  # at 50 ms a request, 4,800 objects/s; 128 give half of that
    limiter: RateLimiter

    def __init__(
        self, name: str, prefix: str = "", limits: WriteLimits = USUAL_LIMITS, terms: Terms = NO_TERMS
    ) -> None:
        """A bucket that is created gets what `terms` say; one that is there has its own.

        All names are below `prefix`, "" or with a "/" at its end: nothing else is listed, read or written.
        """
        self.name, self.prefix, self.url = name, prefix, f"gs://{name}/{prefix}".rstrip("/")
        # Google's documented initial rate; a warm bucket accepts more. An emulator has no such ramp: no limit until
        # its first refusal.
        usual = float("inf") if emulator() else INITIAL_RATE * (HIERARCHICAL_FACTOR if terms.is_hierarchical else 1)
        self.limiter = RateLimiter(self.url, limits._replace(rate=limits.rate or usual))
        self._alike, self._last_refusal, self._counting, self._line = 0, "", threading.Lock(), Line()
        self._credentials, _ = credentials_and_origin(terms.billing_project)
        self._headers = charged_to(terms.billing_project, self._credentials)
        self._client = client(self._credentials, self._headers, self._line)
        self._bucket = self._client.bucket(name)
        self._place = Place(self._client, self._credentials, name, prefix, terms)
        self._stores = ObjectStores(name, prefix, self._credentials, self._headers)

    def ready(self) -> None:
        self._place.ready()
        if self.prefix and not self.has_folders:  # a mount of the whole bucket need not make a folder outside of it
            try:
                self.put("", b"")
            except MemberError as error:
                raise BucketError(f"{self.url}: cannot write: {error}") from error

    def probe(self) -> BucketState:
        return self._place.probe()

    @property
    def keeps(self) -> str:
        return self._place.keeps

    @property
    def has_folders(self) -> bool:
        return self._place.has_folders

    # ── writing ──────────────────────────────────────────────────────────────────────────────────

    def create(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        self.put(name, data, content_type, is_new=True)

    def lease(self, name: str) -> AbstractContextManager[Lease]:
        full = self.prefix + name
        return nullcontext(Lease()) if self.keeps else ObjectLease(self._bucket, full, self.limiter).held()

    def put(self, name: str, data: Data, content_type: str = "application/octet-stream", is_new: bool = False) -> None:
        sent, full = data if isinstance(data, bytes) else Passing(data, is_new), self._full_name(name)
        try:
            self._send(full, sent, content_type, is_new)
            self._alike = 0
        except ALREADY_EXISTS as error:
            there = self._find(name) if is_new else None
            if there is None:  # an answer to something else, such as a policy of the organisation
                self._count_refusal(error)
                raise MemberError(reason(error)) from error
            if (there.size, there.crc32c) != size_and_crc32c(sent):
                raise BusyError(f"{self.url}/{name}: another run has written it meanwhile") from error
        except REFUSED as error:
            if not isinstance(error, DENIED) or not self._is_kept(name, sent, error):
                raise BucketError(f"{self.url}: cannot write: {reason(error)}") from error
        except (obstore.exceptions.BaseError, *NO_ANSWER) as error:
            if why := tls_failure(error):
                raise BucketError(f"{self.url}: cannot write: {why}") from error
            self._count_refusal(error)
            raise MemberError(reason(error)) from error

    def _send(self, full: str, sent: bytes | Passing, content_type: str, is_new: bool) -> None:
        if isinstance(sent, bytes) and self._line.is_slow_for(len(sent)):  # in chunks, each of which has its own time
            sent = Passing([sent], is_new)
        if isinstance(sent, Passing):
            upload(self._bucket.blob(full), sent, content_type, self.limiter, self._line)
        elif full.endswith("/"):  # obstore would drop the slash
            self._put_folder(full, sent, content_type)
        else:
            name = full[len(self.prefix) :]
            self.limiter.run(lambda: self._put(name, sent, {"Content-Type": content_type}, is_new), judge)

    def _full_name(self, name: str) -> str:
        """Add the prefix to a name; raises MemberError if the name is too long then."""
        full = self.prefix + name
        if self.prefix and (refusal := encoding_refusal(full)):
            raise MemberError(refusal)
        return full

    def _is_kept(self, name: str, sent: bytes | Passing, refusal: BaseException) -> bool:
        """Whether the object exists with these bytes; raises KeptError if it exists with other bytes.

        403 is also the answer to a put that would replace an object under a retention policy or a hold, even by the
        same bytes (https://cloud.google.com/storage/docs/bucket-lock).
        """
        there = self._find(name)
        if there is None:
            return False
        if not name.endswith("/") and (there.size, there.crc32c) != size_and_crc32c(sent):  # any bytes make a folder
            raise KeptError(
                f"{name}: an object with other bytes is there, and may not be replaced: {reason(refusal)}"
            ) from refusal
        return True

    def _find(self, name: str) -> Stored | None:
        """List one object by its name; None also if the bucket may not be listed."""
        with contextlib.suppress(BucketError):
            found = next(self._objects(Range(name, name), page_size=1), None)
            return self.with_checksum(found) if found and found.name == name else None
        return None

    def _count_refusal(self, error: BaseException) -> None:
        """Count a refusal; raises BucketError after MAX_EQUAL_REFUSALS equal ones."""
        status = final_status(error)
        if status:
            with self._counting:
                self._alike = self._alike + 1 if status == self._last_refusal else 1
                self._last_refusal = status
        if status and self._alike >= MAX_EQUAL_REFUSALS:
            raise BucketError(f"{self.url}: refuses one object after the other: {reason(error)}") from error

    def _put_folder(self, name: str, data: bytes, content_type: str) -> None:
        blob = self._bucket.blob(name)
        try:
            self.limiter.run(lambda: blob.upload_from_string(data, content_type, retry=None), judge)
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # raised by the library for an unexpected answer
            raise MemberError(f"{name}: not what Google Cloud Storage answers: {reason(error)}") from error

    def _put(self, name: str, data: bytes, attributes: obstore.Attributes, is_new: bool) -> None:
        mode: Literal["create", "overwrite"] = "create" if is_new else "overwrite"
        with self._line.sending(len(data)):
            self._stores.run(
                lambda stores: obstore.put(
                    stores.puts, name, data, attributes=attributes, use_multipart=False, mode=mode
                )
            )

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    def read(self, name: str) -> Iterator[bytes] | None:
        try:
            found = self._stores.run(lambda stores: obstore.get(stores.gets, name))
        except FileNotFoundError:
            return None
        except obstore.exceptions.BaseError as error:
            raise BucketError(f"{self.url}: {name} cannot be read: {reason(error)}") from error
        return self._chunks(name, found)

    def _chunks(self, name: str, found: obstore.GetResult) -> Iterator[bytes]:
        try:
            yield from map(bytes, found)
        except obstore.exceptions.BaseError as error:
            raise BucketError(f"{self.url}: {name} cannot be read: {reason(error)}") from error

    def list(self, prefix: str, marks: Sequence[str] = ()) -> Iterator[Stored]:
        ends = zip(["", *marks], [*marks, ""], strict=True)
        with ThreadPoolExecutor(CONCURRENT_LISTINGS) as pool:
            parts = (Range(prefix, *each) for each in ends)
            for part in map_bounded(pool, lambda each: list(self._objects(each)), parts, CONCURRENT_LISTINGS):
                yield from self._with_checksums(part)

    def _with_checksums(self, listed: Sequence[Stored]) -> Iterable[Stored]:
        if all(each.crc32c is not None for each in listed):
            return listed
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(self.with_checksum, listed))

    def _objects(self, wanted: Range, page_size: int = 1000) -> Iterator[Stored]:
        # Only the JSON of the library's pages is used: its blobs have twenty fields, which take half of the time.
        wanted, length = wanted.below(self.prefix), len(self.prefix)
        pages = self._client.list_blobs(
            self._bucket, prefix=wanted.prefix, start_offset=wanted.start or None, end_offset=wanted.stop or None,
            page_size=page_size, fields="items(name,size,crc32c),nextPageToken", timeout=60, retry=DEFAULT_RETRY,
        ).pages  # fmt: skip
        with self._listing():
            for name, size, crc32c in objects(self.url, wanted, (page.raw_page for page in pages)):
                yield Stored(name[length:], size, crc32c)

    @contextlib.contextmanager
    def _listing(self) -> Iterator[None]:
        with understood(self.url, "its listing"):
            try:
                yield
            except NO_ANSWER as error:
                raise BucketError(f"{self.url}: cannot be listed: {reason(error)}") from error

    def with_checksum(self, stored: Stored, since: int = 0) -> Stored:
        """Add the checksum, which listings lack where a customer's key encrypts the object.

        https://cloud.google.com/storage/docs/encryption/customer-managed-keys#restrictions
        """
        with self._listing():
            found = None if stored.crc32c is not None else self._bucket.get_blob(self.prefix + stored.name, timeout=60)
        return stored._replace(crc32c=decode_crc32c(found.crc32c)) if found and found.crc32c else stored

    # ── removing ─────────────────────────────────────────────────────────────────────────────────

    def delete(self, names: Iterable[str]) -> Sequence[str]:
        names = [*names]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            kept = [name for name, why in zip(names, pool.map(self._delete, names), strict=True) if why]
        if kept:
            log.warning("%s: %d objects stay behind, for they may not be removed: %s", self.url, len(kept), kept[0])
        return kept

    def _delete(self, name: str) -> str:
        """Remove an object; returns the reason if it still exists, or ""."""
        try:
            if name.endswith("/"):  # obstore would drop the slash
                blob = self._bucket.blob(self.prefix + name)
                self.limiter.run(lambda: blob.delete(retry=None), judge)  # Google counts it as a write
            else:
                self.limiter.run(lambda: self._stores.run(lambda stores: obstore.delete(stores.puts, name)), judge)
        except (FileNotFoundError, google.api_core.exceptions.NotFound):
            pass
        except DENIED as error:
            # Without the right to remove objects, this is also the answer for objects that do not exist.
            return reason(error) if self._find(name) else ""
        except (obstore.exceptions.BaseError, *NO_ANSWER) as error:
            raise BucketError(f"{self.url}: {name} cannot be deleted: {reason(error)}") from error
        return ""

    def sync(self) -> None:
        """Nothing to do: a put is durable once it is answered."""

    def close(self) -> None:
        self._client.close()
