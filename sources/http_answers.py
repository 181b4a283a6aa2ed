"""Read and check HTTP answers: status, length, range, version of the file, body."""

from __future__ import annotations

import re
import threading
import time
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3

from errors import GoneError, SourceError, escaped
from sources.content_type import describe
from sources.http_status import GONE_STATUSES, RETRYABLE_STATUSES

MIN_RATE = 500  # bytes a second; 160 photos in parallel bring so much each on a line of 80 kB/s
MAX_RETRY_AFTER_SECONDS = 10**9  # seconds; what a server asks for beyond that is not counted
NUMBER = "[0-9]{1,18}"  # of bytes, as a header may have it; more digits are none of a file
# As RFC 9110, 14.4 has it, and as some servers do: "bytes=0-9/10", "bytes: 0-9/10", "0-9/10".
CONTENT_RANGE = re.compile(rf"(?:bytes)?[ :=]*({NUMBER}) ?- ?{NUMBER} ?/ ?({NUMBER}|\*)", re.IGNORECASE)
# Values of Content-Encoding that change the bytes (IANA's registry). Others, such as UTF-8, binary, bzip2 or S3's
# aws-chunked, are of servers that mean something else by it.
CODINGS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd", "dcb", "dcz"})
PAGES = {"a web page": "an HTML page", "JSON": "JSON", "an XML document": "an XML document"}


class PassingError(Exception):
    """This attempt failed and a later one may succeed; `wait` is the server's Retry-After in seconds."""

    def __init__(self, reason: str, wait: float = 0) -> None:
        super().__init__(reason)
        self.wait = wait


class RangeError(PassingError):
    """A Range request was not answered with that range."""


class Version(NamedTuple):
    """The validators of an answer (RFC 9110, 8.8); "" for a missing one."""

    etag: str
    modified: str

    @classmethod
    def of(cls, response: requests.Response) -> Version:
        return cls(response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))

    def __str__(self) -> str:
        return self.etag or self.modified

    @property
    def for_if_range(self) -> str:
        """The value for If-Range, which allows no weak tag (RFC 9110, 13.1.5)."""
        return "" if self.etag.startswith("W/") else str(self)

    @property
    def _tag(self) -> str:
        return self.etag.removeprefix("W/").strip('"')  # some servers behind one name leave the marks out

    def is_same(self, other: Version) -> bool:
        """Return whether both can be of one file: weak comparison of tags (RFC 9110, 8.8.3.2), or else of dates.

        The answer to a request with If-Range may come without its Last-Modified (RFC 9110, 15.3.7).
        """
        if self.etag and other.etag:
            return self._tag == other._tag
        if self.modified and other.modified:
            return self.modified == other.modified
        return not any(self) or not any(other)

    def is_replica(self, other: Version) -> bool:
        """Return whether only the tags differ, as between several servers behind one name."""
        return not self.is_same(other) and self.modified == other.modified


# ── status and headers ───────────────────────────────────────────────────────────────────────────


def check_status(url: str, response: requests.Response) -> None:
    """Raise PassingError, GoneError or SourceError unless the status is 200 or 206."""
    if response.status_code in RETRYABLE_STATUSES:
        raise PassingError(status_of(response), retry_after(response))
    if response.status_code in GONE_STATUSES:
        raise GoneError(f"{url}: {status_of(response)}: not there (any more)")
    if response.status_code not in (200, 206):
        raise SourceError(f"{url}: expected status 200 or 206, got {status_of(response)}", response.status_code)


def status_of(response: requests.Response) -> str:
    """Format the status for messages: "status 404 Not Found"."""
    return f"status {response.status_code} {escaped(response.reason or '')}"


def codings(response: requests.Response) -> list[str]:
    """Return the compressions of the body, in the order in which they were applied (RFC 9110, 8.4)."""
    given = response.headers.get("Content-Encoding", "").lower().split(",")
    return [each.strip() for each in given if each.strip() in CODINGS]


def check_encoding(url: str, response: requests.Response) -> None:
    """Raise SourceError for an encoded body: its byte ranges would not be the file's."""
    # Apache's mod_mime calls a .tar.gz "Content-Encoding: x-gzip" though the bytes are the file's own.
    paths = (urlsplit(url).path, urlsplit(response.url).path)
    if codings(response) and not any(path.endswith((".gz", ".tgz")) for path in paths):
        encoding = escaped(response.headers["Content-Encoding"])
        raise SourceError(f"{url}: expected the file as it is, got Content-Encoding {encoding}")


def check_length(expected: int | None, got: int) -> None:
    """Raise PassingError for a body of another length, in bytes; None if none was announced."""
    if expected not in (got, None):
        raise PassingError(f"the connection ended after {got:,} of {expected:,} bytes")


def content_length(response: requests.Response) -> int | None:
    """Return the announced length in bytes; None if it is missing or no number."""
    value = response.headers.get("Content-Length", "")
    return int(value) if re.fullmatch(NUMBER, value) else None


def content_range(response: requests.Response) -> tuple[int, int | None]:
    """Return the first byte (-1 without such a header) and the size of the whole file (None if unknown)."""
    match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    return (int(match[1]), None if match[2] == "*" else int(match[2])) if match else (-1, None)


def is_all(response: requests.Response) -> bool:
    """Return whether the answer is a part that is the whole file."""
    return response.status_code == 206 and content_range(response) == (0, content_length(response))


def retry_after(response: requests.Response) -> float:
    """Return the seconds to wait by Retry-After, a number or a date (RFC 9110, 10.2.3); 0 if there is none."""
    try:
        return min(urllib3.Retry().parse_retry_after(response.headers.get("Retry-After", "0")), MAX_RETRY_AFTER_SECONDS)
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):  # a number or year of thousands of digits
        return 0


def check_not_html(name: str, head: bytes) -> None:
    if what := PAGES.get(describe(head)):
        raise SourceError(
            f"{name}: expected a file, got {what} (an error page or a dead share link);"
            " open it in a browser to see why, or take the file from elsewhere with --mirror"
        )


def check_size(name: str, got: int, expected: int | None) -> None:
    if expected not in (got, None):
        raise SourceError(
            f"{name}: expected {expected:,} bytes, got {got:,}: not the published file"
            " (a --mirror with other files brings its own SHA256SUMS)"
        )


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────


class Bandwidth:
    """A limit in bytes/s of all sources of a process together; 0: no limit.

    A thread waits after it has read, so that full network buffers slow the senders down.
    """

    def __init__(self, rate: int = 0) -> None:
        self._rate, self._paid_until, self._lock = rate, 0.0, threading.Lock()

    def take(self, size: int) -> None:
        """Wait until the limit allows more, after `size` bytes were read."""
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            self._paid_until = max(self._paid_until, now) + size / self._rate
            left = self._paid_until - now
        time.sleep(left)


class Body:
    """The body of an answer, without decoding.

    It must bring MIN_RATE in each `window` (seconds of reading), because one byte now and then would pass every
    time-out, and it must end within `longest` seconds.
    """

    def __init__(self, raw: urllib3.BaseHTTPResponse, bandwidth: Bandwidth, window: float, longest: float) -> None:
        self._raw, self._bandwidth, self._window, self._longest = raw, bandwidth, window, longest
        self._got, self._seconds, self._before = 0, 0.0, 0.0  # of the window; seconds before it
        self._error: Exception | None = None

    def read(self, amount: int) -> bytes:
        """Return `amount` bytes, fewer at the end; after a failure, the bytes before it, and the next call raises it.

        Raises PassingError if bytes come too slowly, and what urllib3 raises.
        """
        if self._error:
            raise self._error
        pieces, left = list[bytes](), amount
        try:
            while left and (piece := self._next(left)):
                pieces.append(piece)
                left -= len(piece)
        except (PassingError, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if not pieces:
                raise
            self._error = error
        self._bandwidth.take(amount - left)
        return b"".join(pieces)

    def read_all(self, most: int) -> bytes:
        """Return the rest, but at most one byte more than `most`; raises what `read` raises."""
        data = self.read(most + 1)
        return data + self.read(most + 1 - len(data))

    def _next(self, most: int) -> bytes:
        begin = time.monotonic()
        piece = self._raw.read1(most, decode_content=False)
        self._got, self._seconds = self._got + len(piece), self._seconds + time.monotonic() - begin
        if self._before + self._seconds > self._longest:
            raise PassingError(f"it was not whole after {self._before + self._seconds:,.0f} s")
        if self._seconds >= self._window:
            if self._got < MIN_RATE * self._seconds:
                raise PassingError(f"expected {MIN_RATE} bytes/s at least, got {self._got:,} in {self._seconds:,.0f} s")
            self._got, self._seconds, self._before = 0, 0.0, self._before + self._seconds
        return piece
