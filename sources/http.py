"""HTTP requests with retries and validation: back-off, a limit of parallel requests for each server, statuses, lengths.

`get` opens a response, `fetch` answers the whole of a small file; what a later try may mend is a
PassingError, everything else immediately a SourceError.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from errors import SourceError, TooLargeError, printable
from sources.hosts import Host, host_of
from sources.http_answers import (
    PassingError,
    check_encoding,
    check_length,
    check_status,
    content_length,
    retry_after,
    status_of,
)
from sources.http_status import FORBIDDEN_STATUSES, GONE_STATUSES, THROTTLED_STATUSES
from sources.local_files import open_file, read_at
from sources.session import OwnSession

if TYPE_CHECKING:
    from obstore.store import HTTPStore


log = logging.getLogger("spotted")

TIMEOUT: tuple[float, float] = (10, 30)  # seconds to connect, and without a byte; set_timeout changes the latter
ATTEMPTS = 8  # tries without progress before a source is given up: about a minute of back-off
FIRST_ATTEMPTS = 4  # the same for the first contact, where a person waits
LONGEST_WAIT = 300  # seconds; a server that asks for more (Retry-After) is not waited for
POOL = 128  # connections kept per host; of requests' own 10 the others would be closed after each answer
FREE_REFUSALS = 16  # refusals of one request that are no tries, while the server answers others of this process
LONGEST_FREE_WAIT = 8  # seconds after such a refusal
EXPIRED = FORBIDDEN_STATUSES | GONE_STATUSES  # what a short-lived link answers once its time is over
LARGEST = 256 << 20  # bytes of a file that is read into memory as a whole: a table of millions of photos
GZIP = 16 + zlib.MAX_WBITS  # zlib's wbits for gzip
HEADERS = {"User-Agent": "spotted-data-extraction", "Accept-Encoding": "identity"}

# obstore's own threads, as tokio reads it: one has time enough for all that Python asks of it, and several wake each
# other up, which takes 5 % of the CPU.
os.environ.setdefault("TOKIO_WORKER_THREADS", "1")

T = TypeVar("T")


class ThrottledError(PassingError):
    """The server accepts no more parallel requests. `others` of this process are in flight, `served` were answered."""

    def __init__(self, reason: str, host: Host, wait: float = 0) -> None:
        super().__init__(reason, wait)
        self.others, self.served = host.refuse(), host.served


_retries, _counting = [0], threading.Lock()


def set_timeout(seconds: float) -> None:
    """Take a source of this process that sends no byte for so long for one whose connection is broken."""
    global TIMEOUT  # noqa: PLW0603 - of the process, as its connections are
    TIMEOUT = (TIMEOUT[0], seconds)


RETRIED = (PassingError, requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)


# ── small files ──────────────────────────────────────────────────────────────────────────────────


def fetch(url: str, attempts: int = ATTEMPTS, most: int = LARGEST) -> bytes:
    """The whole of a small file: a table, a list of checksums, a photo.

    The first try goes through obstore, which takes a tenth of requests' interpreter time; what it does not
    get is requested again by the path that archives take, whose answer counts.
    Raises GoneError, TooLargeError (for more than `most` bytes), SourceError.
    """
    if not is_http(url):
        return _read_file(local_path(url), most)
    return _fetch_fast(url, most) or persist(url, lambda: _fetch_once(url, most), attempts)


def _read_file(path: Path, most: int) -> bytes:
    with open_file(path) as file:
        size = os.fstat(file).st_size
        _check_most(str(path), size, most)
        return read_at(file, size, 0, str(path))


def _check_most(name: str, size: int, most: int) -> None:
    if size > most:
        raise TooLargeError(f"{name}: expected at most {most:,} bytes, got more")


def _fetch_fast(url: str, most: int = LARGEST) -> bytes | None:
    import obstore
    from obstore.exceptions import BaseError

    parts = urlsplit(url)
    if parts.query or "%" in parts.path:  # obstore would encode these once more
        return None
    host = host_of(url)
    with host.request():
        try:
            answer = obstore.get(_origin(f"{parts.scheme}://{parts.netloc}"), parts.path)
            with host.answer():
                _check_most(url, answer.meta["size"], most)
                is_plain = answer.attributes.get("Content-Encoding", "identity") == "identity"
                return bytes(answer.bytes()) if is_plain else None
        except (BaseError, OSError, ValueError) as error:
            if _THROTTLED.search(str(error)):
                host.refuse()
            log.debug("%s: asking again with requests: %s", url, error)
            return None


_THROTTLED = re.compile(rf"status code: (?:{'|'.join(map(str, THROTTLED_STATUSES))})")  # as obstore's messages have it


@lru_cache(maxsize=16)
def _origin(url: str) -> HTTPStore:
    from obstore.store import HTTPStore

    return HTTPStore(
        url,
        client_options={
            "allow_http": True,
            "user_agent": HEADERS["User-Agent"],
            "timeout": timedelta(seconds=60),
            "read_timeout": timedelta(seconds=TIMEOUT[1]),
        },
        retry_config={"max_retries": 0},
    )


def _fetch_once(url: str, most: int) -> bytes:
    with get(url, {}) as response:
        check_status(url, response)
        if response.status_code != 200:
            raise SourceError(f"{url}: expected status 200, got {status_of(response)}: a part that was not requested")
        _check_most(url, content_length(response) or 0, most)
        body: bytes = response.raw.read(most + 1, decode_content=False)
        _check_most(url, len(body), most)
        check_length(content_length(response), len(body))
        body = _unpacked(url, response, body, most)
        _check_most(url, len(body), most)
        return body


def _unpacked(url: str, response: requests.Response, body: bytes, most: int) -> bytes:
    """A body that was gzipped although the request did not allow it; at most one byte more than `most`."""
    is_packed = response.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip")
    if not is_packed or not body.startswith(b"\x1f\x8b") or urlsplit(url).path.endswith(".gz"):
        check_encoding(url, response)
        return body
    unpack = zlib.decompressobj(GZIP)
    try:
        data = unpack.decompress(body, most + 1)
    except zlib.error as error:
        raise PassingError(f"a damaged gzip body: {error}") from error
    if not unpack.eof and len(data) <= most:
        raise PassingError("the gzip body ended early")
    return data


# ── one request ──────────────────────────────────────────────────────────────────────────────────

_led_to: dict[str, str] = {}  # link → where it led; a Seafile share leads elsewhere when its time is over


@lru_cache(maxsize=1)
def _session() -> OwnSession:
    session = OwnSession()
    session.headers.update(HEADERS)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_connections=POOL, pool_maxsize=POOL))
    return session


@contextmanager
def get(url: str, headers: dict[str, str]) -> Iterator[requests.Response]:
    """Ask when it is this request's turn, and have the answer open; raises ThrottledError for 429 and 503."""
    host = host_of(_led_to.get(url, url))
    with host.request(), _answer(url, headers, host) as response:
        if response.status_code in THROTTLED_STATUSES:
            raise ThrottledError(status_of(response), host, retry_after(response))
        if response.status_code >= 400:
            yield response
            return
        with host.answer():
            try:
                yield response
            except ValueError as error:  # http.client, of a chunk of negative size
                raise PassingError(f"expected an answer as HTTP has it: {error}") from error


def _answer(url: str, headers: dict[str, str], host: Host) -> requests.Response:
    try:
        return _request(url, headers)
    except (requests.ConnectionError, requests.Timeout) as error:
        if not host.is_answering():
            raise
        raise ThrottledError(innermost(error), host) from error  # some servers refuse in this way


def _request(url: str, headers: dict[str, str]) -> requests.Response:
    known = _led_to.get(url, url)
    try:
        response = _session().get(known, headers=headers, stream=True, timeout=TIMEOUT)
    except (requests.ConnectionError, requests.Timeout):
        _led_to.pop(url, None)  # the link may lead to a place that answers by now
        raise
    except (requests.RequestException, ValueError) as error:  # a redirect to no URL, headers that contradict each other
        raise SourceError(f"{url}: {innermost(error)}") from error
    if known != url and response.status_code in EXPIRED:
        response.close()
        _led_to.pop(url, None)
        return _request(url, headers)
    if response.history:
        _led_to[url] = response.url
    return response


class Tries:
    """The tries of one request: how many failed, and the wait before the next."""

    def __init__(self, attempts: int) -> None:
        self.attempts, self._served = attempts, 0
        self.renew()

    def renew(self) -> None:
        """Count from the beginning, for there was progress."""
        self.failures = self.refusals = 0

    def wait(self, what: str, error: Exception) -> None:
        """Wait after a failed try; raises SourceError when it was the last one."""
        if isinstance(error, ThrottledError) and self._is_free(error):
            self.refusals += 1
            _pause(what, error, self.refusals, min(error.wait, LONGEST_WAIT), LONGEST_FREE_WAIT)
            return
        self.failures += 1
        asked = error.wait if isinstance(error, PassingError) else 0
        if self.failures >= self.attempts or asked > LONGEST_WAIT or "CERTIFICATE_VERIFY_FAILED" in str(error):
            later = f"; it asks to wait {asked:,.0f} s" if asked else ""
            attempts = "1 attempt" if self.failures == 1 else f"{self.failures} attempts"
            raise SourceError(f"{what}: gave up after {attempts}: {innermost(error)}{later}") from error
        _pause(what, error, self.failures, asked)

    def _is_free(self, error: ThrottledError) -> bool:
        """Whether the server refused this request for the sake of others of this process, which it answers."""
        before, self._served = self._served or error.served, error.served
        return self.refusals < FREE_REFUSALS and (error.others > 0 or error.served > before)


def persist(url: str, attempt: Callable[[], T], attempts: int) -> T:
    """The result of `attempt`, retried with back-off; raises SourceError after `attempts` failures."""
    tries = Tries(attempts)
    while True:
        try:
            return attempt()
        except RETRIED as error:
            tries.wait(url, error)


def _pause(what: str, error: Exception, failures: int, asked: float, longest: float = LONGEST_WAIT) -> None:
    log.debug("%s: try %d: %s", what, failures, innermost(error))
    with _counting:
        _retries[0] += 1
    # Jitter, so that not all return together.
    time.sleep(max(asked, min(2 ** (failures - 2), longest) * random.uniform(0.75, 1.25)))


def take_retries() -> int:
    """How many requests this process has made again since this was last asked."""
    with _counting:
        count, _retries[0] = _retries[0], 0
    return count


def innermost(error: BaseException) -> str:
    """The reason in one line: Google's library wraps requests' error, which wraps urllib3's, and that the socket's."""
    while inner := next(
        (arg for name in ("cause", "reason") if isinstance(arg := getattr(error, name, None), Exception)),
        next((arg for arg in error.args if isinstance(arg, Exception)), None),
    ):
        error = inner
    return printable(re.sub(r"<?\w+(\.\w+)*( object at |\().*?[>)]: ", "", str(error))) or type(error).__name__


def check_not_html(name: str, head: bytes) -> None:
    if re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)", head, re.IGNORECASE):
        raise SourceError(
            f"{name}: expected a file, got an HTML page (an error page or a dead share link);"
            " open it in a browser to see why, or take the file from elsewhere with --mirror"
        )


def check_size(name: str, got: int, expected: int | None) -> None:
    if expected not in (got, None):
        raise SourceError(
            f"{name}: expected {expected:,} bytes, got {got:,}: not the published file"
            " (a --mirror with other files brings its own SHA256SUMS)"
        )


def is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def local_path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path) if url.startswith("file://") else url)
