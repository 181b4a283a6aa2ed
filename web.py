"""One HTTP request, done with care: retries with back-off, statuses, lengths and web pages told apart.

`get` answers an open response, `fetch` the whole of a small file; what a later try may mend is a
PassingError, everything else a SourceError at once.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import re
import threading
import time
import zlib
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from errors import GoneError, SourceError, TooLargeError

if TYPE_CHECKING:
    from obstore.store import HTTPStore

log = logging.getLogger("spotted")

TIMEOUT: tuple[float, float] = (10, 30)  # seconds to connect, and without a byte; set_timeout changes the latter
ATTEMPTS = 8  # tries without progress before a source is given up: about a minute of back-off
FIRST_ATTEMPTS = 4  # the same for the first contact, where a person waits
LONGEST_WAIT = 300  # seconds; a server that asks for more (Retry-After) is not waited for
POOL = 128  # connections kept per host; requests' own 10 would close the others after each answer
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # a later try may be answered better
GONE = frozenset({404, 410})
FORBIDDEN = frozenset({401, 403})  # what stores also answer for what is not there, where listing is not allowed
EXPIRED = FORBIDDEN | GONE  # what a short-lived link answers once its time is over
LARGEST = 256 << 20  # bytes of a file that is read into memory at once: a table of millions of photos
GZIP = 16 + zlib.MAX_WBITS  # how zlib is asked for it
HEADERS = {"User-Agent": "spotted-data-extraction", "Accept-Encoding": "identity"}

# obstore's own threads, as tokio reads it: one has time enough for all that Python asks of it, and several wake each
# other up, which takes 5 % of the CPU.
os.environ.setdefault("TOKIO_WORKER_THREADS", "1")

T = TypeVar("T")


class PassingError(Exception):
    """This try failed and the next may not; `wait` is what the server asks for in seconds."""

    def __init__(self, reason: str, wait: float = 0) -> None:
        super().__init__(reason)
        self.wait = wait


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
    get is asked for again with the care that the archives get, and that answer counts.
    Raises GoneError, TooLargeError (for more than `most` bytes), SourceError.
    """
    if not is_http(url):
        return _read_file(local_path(url), most)
    return _fetch_fast(url, most) or persist(url, lambda: _fetch_once(url, most), attempts)


def _read_file(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise GoneError(f"{path}: no such file") from None
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    _check_most(str(path), len(data), most)
    return data


def _check_most(name: str, size: int, most: int) -> None:
    if size > most:
        raise TooLargeError(f"{name}: expected at most {most:,} bytes, got more")


def _fetch_fast(url: str, most: int = LARGEST) -> bytes | None:
    import obstore
    from obstore.exceptions import BaseError

    parts = urlsplit(url)
    if parts.query or "%" in parts.path:  # obstore would encode these once more
        return None
    try:
        answer = obstore.get(_origin(f"{parts.scheme}://{parts.netloc}"), parts.path)
        _check_most(url, answer.meta["size"], most)
        return None if answer.attributes.get("Content-Encoding", "identity") != "identity" else bytes(answer.bytes())
    except (BaseError, OSError, ValueError) as error:
        log.debug("%s: asking again with requests: %s", url, error)
        return None


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
        _check_most(url, content_length(response) or 0, most)
        body: bytes = response.raw.read(most + 1, decode_content=False)
        _check_most(url, len(body), most)
        check_length(content_length(response), len(body))
        body = _unpacked(url, response, body, most)
        _check_most(url, len(body), most)
        return body


def _unpacked(url: str, response: requests.Response, body: bytes, most: int) -> bytes:
    """A body that was gzipped on its way, though nobody asked for that; at most one byte more than `most`."""
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
def _session() -> requests.Session:
    session = requests.Session()
    session.headers.update(HEADERS)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_connections=POOL, pool_maxsize=POOL))
    return session


def get(url: str, headers: dict[str, str]) -> requests.Response:
    known = _led_to.get(url, url)
    try:
        response = _session().get(known, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.ConnectionError:
        _led_to.pop(url, None)  # the link may lead to a place that answers by now
        raise
    except (requests.TooManyRedirects, requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL) as error:
        raise SourceError(f"{url}: {error}") from error
    if known != url and response.status_code in EXPIRED:
        response.close()
        _led_to.pop(url, None)
        return get(url, headers)
    if response.history:
        _led_to[url] = response.url
    return response


def persist(url: str, attempt: Callable[[], T], attempts: int) -> T:
    for failures in itertools.count(1):
        try:
            return attempt()
        except RETRIED as error:
            wait(url, error, failures, attempts)
    raise AssertionError("itertools.count ended")


def wait(what: str, error: Exception, failures: int, attempts: int) -> None:
    asked = error.wait if isinstance(error, PassingError) else 0
    if failures >= attempts or asked > LONGEST_WAIT or "CERTIFICATE_VERIFY_FAILED" in str(error):
        later = f"; it asks to wait {asked:,.0f} s" if asked else ""
        raise SourceError(f"{what}: given up after {failures} tries: {innermost(error)}{later}") from error
    log.debug("%s: try %d: %s", what, failures, innermost(error))
    with _counting:
        _retries[0] += 1
    time.sleep(max(asked, 2 ** (failures - 2) * random.uniform(0.75, 1.25)))  # spread: not all return at once


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
    return re.sub(r"<?\w+(\.\w+)*( object at |\().*?[>)]: ", "", str(error)) or type(error).__name__


def check_status(url: str, response: requests.Response) -> None:
    status = f"status {response.status_code} {response.reason}"
    if response.status_code in PASSING:
        raise PassingError(status, _retry_after(response))
    if response.status_code in GONE:
        raise GoneError(f"{url}: {status}: not there (any more)")
    if response.status_code not in (200, 206):
        raise SourceError(f"{url}: expected status 200 or 206, got {status}", response.status_code)


def check_encoding(url: str, response: requests.Response) -> None:
    encoding = response.headers.get("Content-Encoding", "identity")
    # Apache's mod_mime calls a .tar.gz "Content-Encoding: x-gzip" though the bytes are the file's own.
    if encoding != "identity" and not urlsplit(url).path.endswith((".gz", ".tgz")):
        raise SourceError(f"{url}: expected the file as it is, got Content-Encoding {encoding}")


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


def check_length(expected: int | None, got: int) -> None:
    if expected not in (got, None):
        raise PassingError(f"the connection ended after {got:,} of {expected:,} bytes")


def content_length(response: requests.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdigit() else None


def content_range(response: requests.Response) -> tuple[int, int | None]:
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return (int(match[1]), None if match[2] == "*" else int(match[2])) if match else (-1, None)


def version_of(response: requests.Response) -> str:
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def _retry_after(response: requests.Response) -> float:
    try:
        return urllib3.Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except urllib3.exceptions.InvalidHeader:
        return 0


def is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def local_path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path) if url.startswith("file://") else url)
