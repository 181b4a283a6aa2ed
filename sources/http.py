"""HTTP requests with retries, a limit of parallel requests to each server, and checks of statuses and lengths.

A PassingError is retried; other failures are a SourceError.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, select_proxy

from errors import SourceError, TooLargeError
from sources import http_answers as answers
from sources.hosts import Host
from sources.http_answers import Bandwidth, Body, PassingError
from sources.http_status import EMPTY_STATUSES, THROTTLED_STATUSES, obstore_status
from sources.local_files import is_http, local_path, open_file, read_at
from sources.retry import MAX_ATTEMPTS, RETRIED, ThrottledError, Tries, innermost
from sources.session import Border, OwnSession

if TYPE_CHECKING:
    from obstore.store import HTTPStore

    from sources.spool import SpooledSource


log = logging.getLogger("spotted")

CONNECT_TIMEOUT = 10  # seconds to connect
DEFAULT_TIMEOUT = 30.0  # seconds without a byte, by default
MAX_FILE_SECONDS = 3600  # seconds for such a file, once it has begun to come
MAX_FILE_BYTES = 256 << 20  # bytes of a file that is read into memory as a whole: a table of millions of photos
NO_PROXY = "http://127.0.0.1:0"
ANY_HEADER = 32 + zlib.MAX_WBITS  # zlib's wbits for gzip and deflate
UNPACKED = frozenset({"gzip", "x-gzip", "deflate"})
PACKED = b"\x1f\x8b", b"\x78"  # how gzip and deflate begin
HEADERS = {"User-Agent": "spotted-data-extraction", "Accept-Encoding": "identity"}

T = TypeVar("T")


class HttpClient:
    """The connections of a process to its sources, and the state of their servers.

    `timeout` is in seconds without a byte, `connections` to each server (None: any number), `bwlimit` in bytes/s of all
    together (0: no limit); with `is_open` public sources may lead to private addresses. Pickled, it is a new client
    with the same four.
    """

    def __init__(
        self, timeout: float = DEFAULT_TIMEOUT, connections: int | None = None, bwlimit: int = 0, is_open: bool = False
    ) -> None:
        self.timeout, self.border = timeout, Border(is_open)
        self._bandwidth, self._hosts = Bandwidth(bwlimit), dict[str, Host]()
        self._most = connections or math.inf  # requests to each server
        self._given = timeout, connections, bwlimit, is_open
        self.copies: dict[tuple[str, int], SpooledSource] = {}  # temporary copies by URL and size
        self.copying = threading.Lock()
        self._session = OwnSession(self.border)
        self._session.headers.update(HEADERS)
        self._store = lru_cache(maxsize=16)(partial(_new_store, timeout=timeout))
        self._redirects: dict[str, str] = {}  # link → where it led; a Seafile share leads elsewhere after its time
        self._retries, self._lock = 0, threading.Lock()

    def __reduce__(self) -> tuple[type[HttpClient], tuple[float, int | None, int, bool]]:
        return HttpClient, self._given

    # ── retries ──────────────────────────────────────────────────────────────────────────────────

    def persist(self, url: str, attempt: Callable[[], T], attempts: int) -> T:
        """Return the result of `attempt`, retried with back-off; raises SourceError after `attempts` failures."""
        tries = Tries(attempts, self.count_retry)
        while True:
            try:
                return attempt()
            except RETRIED as error:
                tries.wait(url, error)

    def count_retry(self) -> None:
        """Count a repeated request."""
        with self._lock:
            self._retries += 1

    def drain_retries(self) -> int:
        """Return the number of retries since the last call."""
        with self._lock:
            count, self._retries = self._retries, 0
        return count

    # ── one request ──────────────────────────────────────────────────────────────────────────────

    def host(self, url: str) -> Host:
        """Return the limits for the server of a URL."""
        parts = urlsplit(url)
        name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        with self._lock:
            return self._hosts.setdefault(name, Host(name, self._most))

    @contextmanager
    def get(self, url: str, headers: dict[str, str]) -> Iterator[requests.Response]:
        """Wait for a turn, send a request, and yield the open answer; raises ThrottledError for 429 and 503."""
        host = self.host(self._redirects.get(url, url))
        with host.request(), self._answer(url, headers, host) as response:
            if response.status_code in THROTTLED_STATUSES:
                if not host.answering:
                    self._redirects.pop(url, None)  # as for a connection that fails
                raise ThrottledError(answers.status_of(response), host, answers.retry_after(response))
            with host.answer() if response.status_code < 400 else nullcontext():
                try:
                    yield response
                except ValueError as error:  # http.client, of a chunk of negative size
                    raise PassingError(f"expected an answer as HTTP has it: {error}") from error

    def _answer(self, url: str, headers: dict[str, str], host: Host) -> requests.Response:
        known, timeout = self._redirects.get(url, url), (CONNECT_TIMEOUT, self.timeout)
        try:
            response = self._session.get(known, headers=headers, stream=True, timeout=timeout)
        except (requests.ConnectionError, requests.Timeout) as error:
            self._redirects.pop(url, None)  # the link may lead to a place that answers by now
            if not host.answering:
                raise
            raise ThrottledError(innermost(error), host) from error  # some servers refuse in this way
        except (requests.RequestException, ValueError) as error:  # a redirect to no URL, headers that contradict
            raise SourceError(f"{url}: {innermost(error)}") from error
        if response.status_code == 203 or ("Range" not in headers and answers.is_all(response)):
            response.status_code = 200  # 203: by a proxy that has changed something (RFC 9110, 15.3.4)
        # A link's place is there for a time, and then answers by an error, a page, or a redirect to one.
        good = (206 if "Range" in headers else 200, *THROTTLED_STATUSES)
        if known != url and (response.history or response.status_code not in good):
            response.close()
            self._redirects.pop(url, None)
            return self._answer(url, headers, host)
        if response.history:
            self._redirects[url] = response.url
        return response

    def body(self, response: requests.Response, longest: float = math.inf) -> Body:
        """Return the body of an answer, which must be complete within `longest` seconds."""
        return Body(response.raw, self._bandwidth, self.timeout, longest)

    # ── small files ──────────────────────────────────────────────────────────────────────────────

    def fetch(self, url: str, attempts: int = MAX_ATTEMPTS, max_size: int = MAX_FILE_BYTES) -> bytes:
        """Return a small file, such as a table or a list of checksums.

        Raises GoneError, TooLargeError (for more than `max_size` bytes), SourceError.
        """
        if not is_http(url):
            return _read_file(local_path(url), max_size)
        return self.persist(url, lambda: self._fetch_once(url, max_size), attempts)

    def fetch_photo(self, url: str, max_size: int) -> bytes:
        """Return one of many small files.

        obstore tries first, which takes a tenth of requests' interpreter time. If it fails, as with redirects to
        other hosts, requests tries again, and its answer counts.
        """
        return (self._fetch_fast(url, max_size) if is_http(url) else None) or self.fetch(url, max_size=max_size)

    def _fetch_fast(self, url: str, max_size: int = MAX_FILE_BYTES) -> bytes | None:
        import obstore
        from obstore.exceptions import BaseError

        parts = urlsplit(url)
        store = self._store(parts.scheme, parts.netloc, parts.hostname)
        if not store or parts.query or "%" in parts.path:  # obstore would encode these once more
            return None
        host = self.host(url)
        with host.request():
            try:
                answer = obstore.get(store, parts.path)
                with host.answer():
                    _check_limit(url, answer.meta["size"], max_size)
                    self._bandwidth.take(answer.meta["size"])
                    is_plain = answer.attributes.get("Content-Encoding", "identity") == "identity"
                    return bytes(answer.bytes()) if is_plain else None
            except (BaseError, OSError, ValueError) as error:
                if obstore_status(error) in THROTTLED_STATUSES:
                    host.throttled()
                log.debug("%s: asking again with requests: %s", url, error)
                return None

    def _fetch_once(self, url: str, max_size: int) -> bytes:
        with self.get(url, {}) as response:
            if response.status_code in EMPTY_STATUSES:
                return b""
            answers.check_status(url, response)
            if response.status_code != 200:
                got = answers.status_of(response)
                raise SourceError(f"{url}: expected status 200, got {got}: a part that was not requested")
            _check_limit(url, answers.content_length(response) or 0, max_size)
            body = self.body(response, MAX_FILE_SECONDS).read_all(max_size)
            _check_limit(url, len(body), max_size)
            answers.check_length(answers.content_length(response), len(body))
            body = _unpacked(url, response, body, max_size)
            _check_limit(url, len(body), max_size)
            return body


def _new_store(scheme: str, netloc: str, host: str, timeout: float) -> HTTPStore | None:
    from obstore.store import HTTPStore

    if select_proxy(f"{scheme}://{netloc}", get_environ_proxies(f"{scheme}://{netloc}")):  # requests knows how
        return None
    return HTTPStore(
        f"{scheme}://{netloc}",
        client_options={
            "allow_http": True,
            # obstore follows redirects by itself: those to another host end at this proxy, which there cannot be.
            "proxy_url": NO_PROXY,
            "proxy_excludes": host,
            "user_agent": HEADERS["User-Agent"],
            "timeout": timedelta(seconds=2 * timeout),  # of the whole; requests has time, and a least rate
            "read_timeout": timedelta(seconds=timeout),
        },
        retry_config={"max_retries": 0},
    )


def _read_file(path: Path, max_size: int) -> bytes:
    with open_file(path) as file:
        size = os.fstat(file).st_size
        _check_limit(str(path), size, max_size)
        return read_at(file, size, 0, str(path))


def _check_limit(name: str, size: int, max_size: int) -> None:
    if size > max_size:
        raise TooLargeError(f"{name}: expected at most {max_size:,} bytes, got more")


def _unpacked(url: str, response: requests.Response, body: bytes, max_size: int) -> bytes:
    """Unpack a body that was compressed against the request, to at most one byte more than `max_size`."""
    codings = answers.codings(response)
    if not UNPACKED.issuperset(codings) or not body.startswith(PACKED) or urlsplit(url).path.endswith(".gz"):
        answers.check_encoding(url, response)
        return body
    for _ in codings:
        body = _inflated(body, max_size)
    return body


def _inflated(body: bytes, max_size: int) -> bytes:
    data = b""
    while body and len(data) <= max_size:  # gzip may have several members (RFC 1952, 2.2)
        unpack = zlib.decompressobj(ANY_HEADER)
        try:
            data += unpack.decompress(body, max_size + 1 - len(data))
        except zlib.error as error:
            raise PassingError(f"a damaged gzip body: {error}") from error
        if not unpack.eof and len(data) <= max_size:
            raise PassingError("the gzip body ended early")
        body = unpack.unused_data if unpack.unused_data.startswith(PACKED[0]) else b""
    return data
