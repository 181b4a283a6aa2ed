"""A Google Cloud Storage bucket through its API: objects go by obstore, the rest by google-cloud-storage."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import google.api_core.exceptions
import google.api_core.retry
import google.auth
import google.auth.credentials
import obstore
import requests
from google.api_core.page_iterator import HTTPIterator
from google.cloud import storage
from google.cloud.storage.exceptions import InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY
from obstore.auth.google import GoogleCredentialProvider
from obstore.store import GCSStore

from buckets import Data, Stored, ahead, decode_crc32c, reason
from errors import BucketError, MemberError
from rate_limit import START, TIMEOUT, Failure, RateLimiter, retry_after
from web import innermost

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

T = TypeVar("T")
log = logging.getLogger("spotted")

DEFAULT_REGION = "us-central1"
CHUNK = 8 << 20  # bytes in one request of a resumable upload
LISTS_AT_ONCE = 24  # pieces of a listing; each is about 1,900 objects, two pages and 0.4 MB
CONNECTIONS = 64  # of google-cloud-storage, for what is not put through obstore
PATIENCE = DEFAULT_RETRY.with_timeout(20)  # seconds at the start; the library's two minutes look like a hang
PASSING = frozenset({408, 429, 500, 502, 503, 504})  # https://cloud.google.com/storage/docs/retry-strategy
TOO_MUCH = frozenset({429, 503})  # statuses by which a bucket says that it is asked for too much at once
# Of obstore, for what is read. Its own ten tries are over in three seconds, while a bucket that is asked for too
# much at once needs minutes.
RETRIES: RetryConfig = {
    "max_retries": 15,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {"init_backoff": timedelta(milliseconds=500), "max_backoff": timedelta(seconds=20), "base": 2},
}
# What is put is tried again by the limiter: obstore's own tries would pass it by.
NO_RETRIES: RetryConfig = {"max_retries": 0}
CLIENT: ClientConfig = {"timeout": timedelta(minutes=2)}  # for a whole put, on a slow line too
REFUSED = (
    obstore.exceptions.PermissionDeniedError,
    obstore.exceptions.UnauthenticatedError,
    FileNotFoundError,  # how obstore says 404: the bucket is gone
    google.api_core.exceptions.Forbidden,
    google.api_core.exceptions.NotFound,
    google.auth.exceptions.GoogleAuthError,
)
NO_CONNECTION = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
NO_ANSWER = (
    google.api_core.exceptions.GoogleAPIError,
    google.auth.exceptions.GoogleAuthError,
    requests.RequestException,
)

# Read when google.auth.compute_engine is imported: two looks of two seconds for the metadata server, not 3 of 3.
os.environ.setdefault("GCE_METADATA_TIMEOUT", "2")
os.environ.setdefault("GCE_METADATA_DETECT_RETRIES", "2")


class _Stores(NamedTuple):
    """What objects are read and put through; each asks for a token of its own when it is first used."""

    gets: GCSStore
    puts: GCSStore


class ApiBucket:
    """A bucket through its API: objects go by obstore, everything else by google-cloud-storage."""

    at_once = 256  # at 50 ms a request 4,800 objects/s, and half of that with half as many

    def __init__(self, name: str, write_rate: float | None = None, writers: int = 1) -> None:
        """`write_rate` is of the whole bucket at first, in writes a second; this process has its share of it."""
        self.name, self.url = name, f"gs://{name}"
        # A bucket of Google's takes what its documentation says, and more where it is warm. An emulator knows no such
        # ramp: there is no limit until it refuses for the first time.
        usual = float("inf") if os.environ.get("STORAGE_EMULATOR_HOST") else START
        self.limiter = RateLimiter(self.url, write_rate or usual, writers)
        self._credentials, _ = credentials_and_origin()
        self._client = _client(self._credentials)
        self._bucket = self._client.bucket(name)
        self._stores, self._renewing = self._new_stores(), threading.Lock()

    def _new_stores(self) -> _Stores:
        return _Stores(*(_store(self.name, self._credentials, retries) for retries in (RETRIES, NO_RETRIES)))

    def _authorized(self, work: Callable[[_Stores], T]) -> T:
        """Do something by obstore, and again with a new token where the old one is refused.

        obstore asks for one in time, by a clock that stands still while the machine sleeps.
        """
        stores = self._stores
        try:
            return work(stores)
        except obstore.exceptions.UnauthenticatedError:
            with self._renewing:
                if stores is self._stores:  # of all threads that are refused one renews
                    self._stores = self._new_stores()
            return work(self._stores)

    def ready(self) -> None:
        if not self.look()[0]:
            self._create()

    def look(self) -> tuple[bool, str]:
        """Whether it exists, and its region where that may be asked; raises BucketError when it may not be used."""
        try:
            return True, str(self._client.get_bucket(self.name, timeout=10, retry=PATIENCE).location).lower()
        except google.api_core.exceptions.Forbidden:
            return self._look_by_listing(), ""
        except google.api_core.exceptions.NotFound:
            return False, ""
        except NO_ANSWER as error:
            raise BucketError(f"{self.url}: no answer from Google Cloud Storage: {innermost(error)}") from error

    def _look_by_listing(self) -> bool:
        # roles/storage.objectAdmin has no storage.buckets.get: a 403 does not say that there is no bucket.
        try:
            list(self._client.list_blobs(self._bucket, max_results=1, timeout=10, retry=PATIENCE))
        except google.api_core.exceptions.NotFound:
            return False
        except google.api_core.exceptions.Forbidden as error:
            raise BucketError(
                f"{self.url}: {self._who()} may not list its objects; run:"
                f" gcloud storage buckets add-iam-policy-binding {self.url} --member=serviceAccount:ACCOUNT"
                " --role=roles/storage.objectAdmin"
            ) from error
        return True

    def _create(self) -> None:
        region = os.environ.get("GCS_REGION") or DEFAULT_REGION
        self._bucket.iam_configuration.uniform_bucket_level_access_enabled = True
        self._bucket.iam_configuration.public_access_prevention = "enforced"
        try:
            self._client.create_bucket(self._bucket, location=region, timeout=30, retry=PATIENCE)
        except google.api_core.exceptions.Conflict as error:
            if self._is_there():  # another run has just created it
                return
            raise BucketError(f"{self.url}: the name belongs to another project; choose another with --to") from error
        except (google.api_core.exceptions.ClientError, ValueError, OSError) as error:
            raise BucketError(
                f"{self.url}: does not exist, and {self._who()} may not create it ({reason(error)}); grant"
                " roles/storage.admin on the project (GCP_PROJECT), or run: gcloud storage buckets create"
                f" {self.url} --location={region} --uniform-bucket-level-access --public-access-prevention"
            ) from error
        log.info("%s: created in %s", self.url, region)

    def _is_there(self) -> bool:
        try:
            return self.look()[0]
        except BucketError:
            return False

    def _who(self) -> str:
        return str(getattr(self._client._credentials, "service_account_email", "this account"))

    def put(self, name: str, data: Data, content_type: str = "application/octet-stream") -> None:
        try:
            if not isinstance(data, bytes):
                self._upload(name, data, content_type)
            elif name.endswith("/"):  # obstore would drop the slash
                blob = self._bucket.blob(name)
                self.limiter.run(lambda: blob.upload_from_string(data, content_type, retry=None), _judge)
            else:
                self.limiter.run(lambda: self._put(name, data, {"Content-Type": content_type}), _judge)
        except REFUSED as error:
            raise BucketError(f"{self.url}: takes no objects: {reason(error)}") from error
        except (obstore.exceptions.BaseError, *NO_ANSWER) as error:
            raise MemberError(reason(error)) from error

    def _put(self, name: str, data: bytes, attributes: obstore.Attributes) -> None:
        self._authorized(
            lambda stores: obstore.put(stores.puts, name, data, attributes=attributes, use_multipart=False)
        )

    def _upload(self, name: str, chunks: Iterable[bytes], content_type: str) -> None:
        # A resumable upload: leaving it by an exception ends it, and there is no object. obstore's multipart
        # upload would leave its parts behind, unseen and paid for.
        sent = self.limiter.acquire()
        retry = google.api_core.retry.Retry(
            lambda error: _judge(error).is_passing, 0.5, 5, 2, TIMEOUT, on_error=lambda error: self._report(sent, error)
        )
        try:
            with self._bucket.blob(name).open("wb", CHUNK, content_type=content_type, retry=retry) as file:
                for chunk in chunks:
                    file.write(chunk)
            self.limiter.delivered(sent, is_timed=False)
        except InvalidResponse as error:  # a refusal of a chunk: of the last one when its checksum shows other bytes
            raise google.api_core.exceptions.from_http_response(error.response) from error

    def _report(self, sent: float, error: Exception) -> None:
        """Report a refused request of a resumable upload, which the library sends again by itself."""
        failure = _judge(error)
        log.debug("%s: trying again: %s", self.url, failure.reason)
        if failure.is_refusal:
            self.limiter.throttled(sent, failure.retry_after)

    def get(self, name: str) -> bytes | None:
        chunks = self.read(name)
        return None if chunks is None else b"".join(chunks)

    def read(self, name: str) -> Iterator[bytes] | None:
        try:
            found = self._authorized(lambda stores: obstore.get(stores.gets, name))
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
        with ThreadPoolExecutor(LISTS_AT_ONCE) as pool:
            for part in ahead(pool, lambda each: self._list(prefix, *each), ends, LISTS_AT_ONCE):
                yield from part

    def _list(self, prefix: str, start: str, stop: str) -> Sequence[Stored]:
        wanted = {"prefix": prefix, "fields": "items(name,size,crc32c),nextPageToken"}
        ends = {"startOffset": start, "endOffset": stop}
        # What the library's list_blobs does, without an object of twenty fields for each line.
        pages = HTTPIterator(
            self._client,
            partial(self._client._connection.api_request, timeout=60, retry=DEFAULT_RETRY),
            f"/b/{self.name}/o",
            _stored,
            extra_params=wanted | {key: value for key, value in ends.items() if value},
            page_size=1000,
        )
        try:
            return list(pages)
        except NO_ANSWER as error:
            raise BucketError(f"{self.url}: cannot be listed: {reason(error)}") from error

    def delete(self, names: Iterable[str]) -> None:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(self._delete, names))

    def _delete(self, name: str) -> None:
        try:
            if name.endswith("/"):  # obstore would drop the slash
                blob = self._bucket.blob(name)
                self.limiter.run(lambda: blob.delete(retry=None), _judge)  # Google counts it as a write
            else:
                self.limiter.run(lambda: self._authorized(lambda stores: obstore.delete(stores.puts, name)), _judge)
        except (FileNotFoundError, google.api_core.exceptions.NotFound):
            pass
        except (obstore.exceptions.BaseError, *NO_ANSWER) as error:
            raise BucketError(f"{self.url}: {name} cannot be deleted: {reason(error)}") from error

    def close(self) -> None:
        self._client.close()


def _stored(_: object, item: dict[str, str]) -> Stored:
    return Stored(item["name"], int(item["size"]), decode_crc32c(item.get("crc32c", "")))


def _judge(error: Exception) -> Failure:
    """What an error of obstore's or google-cloud-storage's means for a write."""
    if isinstance(error, obstore.exceptions.GenericError):
        # obstore has kinds of its own for all that is final but 400, 413 and the like. It shows no headers.
        match = re.search(r"status code: (\d{3})", reason(error))
        status, response = int(match[1]) if match else 0, None
        is_passing = status in (*PASSING, 0)
    else:
        response = getattr(error, "response", None)
        status = int(getattr(response, "status_code", None) or getattr(error, "code", None) or 0)
        is_passing = status in PASSING or isinstance(error, NO_CONNECTION)
    return Failure(is_passing, status in TOO_MUCH, retry_after(response), reason(error))


def credentials_and_origin() -> tuple[google.auth.credentials.Credentials, str]:
    """Google's default credentials, and where they come from; that there are none is told at once."""
    from google.auth import compute_engine  # not before the environment says what it should do

    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator:
        return google.auth.credentials.AnonymousCredentials(), f"for the emulator at {emulator}"
    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/devstorage.full_control"])
    except google.auth.exceptions.GoogleAuthError as error:
        raise BucketError(
            "no Google credentials: run gcloud auth application-default login, or set"
            f" GOOGLE_APPLICATION_CREDENTIALS to a service account's key file"
            f" ({reason(error).partition(' To set up')[0]})"
        ) from error
    if isinstance(credentials, compute_engine.Credentials):
        return credentials, "from the metadata server"
    file = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    return credentials, f"from {file}" if file else "from gcloud auth application-default login"


def _client(credentials: google.auth.credentials.Credentials) -> storage.Client:
    client = storage.Client(project=os.environ.get("GCP_PROJECT"), credentials=credentials)
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS)
    for scheme in ("http://", "https://"):
        client._http.mount(scheme, adapter)
    return client


def _store(name: str, credentials: google.auth.credentials.Credentials, retries: RetryConfig) -> GCSStore:
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator is None:
        return GCSStore(
            name, credential_provider=GoogleCredentialProvider(credentials), client_options=CLIENT, retry_config=retries
        )
    url = emulator if "://" in emulator else f"http://{emulator}"
    key = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    return GCSStore(
        name, service_account_key=json.dumps(key), client_options={**CLIENT, "allow_http": True}, retry_config=retries
    )
