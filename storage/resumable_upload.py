"""Store large members by resumable uploads, each of which ends whole or not at all."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import google.api_core.exceptions
import google_crc32c
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from errors import UploadLostError
from storage.api_errors import judge
from storage.bucket import reason
from storage.bucket_admin import NO_ANSWER
from storage.line import Line
from storage.rate_limit import RateLimiter

if TYPE_CHECKING:
    from google.cloud.storage.fileio import BlobWriter

T = TypeVar("T")
log = logging.getLogger("spotted")

CHUNK_BYTES = 8 << 20  # bytes in one request of a resumable upload
MIN_CHUNK_BYTES = 256 << 10  # bytes; a chunk has a multiple of it
STALL_TIMEOUT = 60.0  # seconds in which no byte is sent, or no answer comes
MAX_ATTEMPTS = 3  # attempts at a resumable upload whose bytes can be read again


class Passing:
    """Chunks on their way into a bucket; counts the size and the crc32c of those that have passed."""

    def __init__(self, chunks: Iterable[bytes], is_new: bool = False) -> None:
        """`is_new` if no object of the name may exist yet."""
        self.is_new = is_new
        self._chunks, self.size, self._crc32c = chunks, 0, google_crc32c.Checksum()
        self.is_repeatable = iter(chunks) is not chunks  # otherwise they can be read only once

    def __iter__(self) -> Iterator[bytes]:
        if self.is_repeatable:
            self.size, self._crc32c = 0, google_crc32c.Checksum()
        for chunk in self._chunks:
            self.size += len(chunk)
            self._crc32c.update(chunk)
            yield chunk

    def rest(self) -> tuple[int, int]:
        """Size and crc32c of the whole; reads the rest if necessary."""
        for _ in self:
            pass
        return self.size, int.from_bytes(self._crc32c.digest(), "big")


def size_and_crc32c(sent: bytes | Passing) -> tuple[int, int]:
    """Size and crc32c of all bytes; reads the remaining chunks."""
    return (len(sent), google_crc32c.value(sent)) if isinstance(sent, bytes) else sent.rest()


def upload(blob: storage.Blob, chunks: Passing, content_type: str, limiter: RateLimiter, line: Line) -> None:
    """Store chunks as one object; if the service ends the upload, start again if the chunks can be read again.

    Raises UploadLostError if they cannot.
    """
    for is_last in (*itertools.repeat(False, MAX_ATTEMPTS - 1), True):
        try:
            _upload(blob, chunks, content_type, limiter, line)
            return
        except UploadLostError as error:
            if is_last or not chunks.is_repeatable:
                raise
            log.debug("%s: beginning its upload again: %s", blob.name, error)


def _upload(blob: storage.Blob, chunks: Passing, content_type: str, limiter: RateLimiter, line: Line) -> None:
    # A resumable upload: leaving it by an exception ends it, and there is no object. obstore's multipart
    # upload would leave its parts behind, invisible and billed.
    def repeated(request: Callable[[], T]) -> Callable[[], T]:  # as google.api_core.retry.Retry is called
        return lambda: limiter.run(request, judge, is_timed=False)

    amount = min(max(line.window // MIN_CHUNK_BYTES, 1) * MIN_CHUNK_BYTES, CHUNK_BYTES)
    match = {"if_generation_match": 0} if chunks.is_new else {}
    file = blob.open("wb", chunk_size=amount, content_type=content_type, retry=repeated, timeout=STALL_TIMEOUT, **match)
    with _given_up_on_failure(file):
        for chunk in chunks:
            with _translated():
                file.write(chunk)
        with _translated():
            file.close()


@contextlib.contextmanager
def _given_up_on_failure(file: BlobWriter) -> Iterator[None]:
    try:
        yield
    except BaseException:
        try:
            if file._upload_and_transport:  # its own terminate() names the bucket's uploads, not this one
                begun, transport = file._upload_and_transport
                with contextlib.suppress(*NO_ANSWER):
                    transport.delete(begun.resumable_url, timeout=STALL_TIMEOUT)
        finally:
            # Otherwise its last bytes would be sent: Python closes it when it is collected, and prints what that
            # raises from 3.13 on.
            file._buffer.close()
        raise


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise UploadLostError, or the exceptions of other requests, in place of those of a resumable upload.

    404 and 410 to a chunk mean that the upload has ended and must start again
    (https://cloud.google.com/storage/docs/performing-resumable-uploads,
    https://cloud.google.com/storage/docs/json_api/v1/status-codes#410-gone).
    """
    try:
        yield
    except InvalidResponse as error:  # of the last chunk also when its checksum shows other bytes
        if error.response.request.method == "PUT" and error.response.status_code in (404, 410):
            raise UploadLostError(f"its upload ended before it was whole: {error.response.status_code}") from error
        status, text = error.response.status_code, error.response.text[:200]  # which need not be Google's JSON
        raise google.api_core.exceptions.from_http_status(status, f"an upload was refused: {text}") from error
    except (DataCorruption, AttributeError, KeyError, TypeError, ValueError) as error:
        # Other bytes arrived, or fewer than were sent; or the answer is none of GCS. The listing shows what is there.
        raise UploadLostError(f"its upload ended before it was whole: {reason(error)}") from error
