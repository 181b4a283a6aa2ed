"""Any answer of a server ends in a right result or one error that names the URL, soon, and never in a traceback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from errors import SourceError
from sources.http import HttpClient
from sources.source import open_source, probe

DATA = bytes(range(256)) * 4
ODD_NUMBERS = [
    "-1",
    "-5",
    "0",
    "1",
    "3",
    "1024",
    "1025",
    "+4",
    "0x10",
    "1e3",
    "9" * 18,
    "9" * 30,
    "9" * 5000,
    "\xb2",
    "",
    "4, 5",
]
HEADERS = st.one_of(
    st.tuples(st.sampled_from(["Content-Length", "Retry-After", "Age"]), st.sampled_from(ODD_NUMBERS)),
    st.tuples(
        st.just("Content-Range"),
        st.one_of(
            st.sampled_from(
                ["bytes 0-511/1024", "bytes 0-1023/1024", "bytes */1024", "bytes 5-1/0", "x", "bytes 0-1/*"]
            ),
            st.sampled_from(ODD_NUMBERS).map(lambda number: f"bytes 0-511/{number}"),
            st.sampled_from(ODD_NUMBERS).map(lambda number: f"bytes {number}-511/1024"),
        ),
    ),
    st.tuples(
        st.just("Location"),
        st.sampled_from(
            [
                "/loop",
                "",
                "//",
                "http://[",
                "http://a..b/",
                "http://127.0.0.1:99999999/",
                "http://\xff/",
                "http://" + "a" * 300 + "/",
                "file:///etc/passwd",
                "ftp://x/",
                "?",
                "http://127.0.0.1:1/",
            ]
        ),
    ),
    st.tuples(
        st.just("Retry-After"),
        st.sampled_from(["soon", "nan", "inf", "Mon, 05 Jan 99999 10:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"]),
    ),
    st.tuples(st.just("Transfer-Encoding"), st.sampled_from(["chunked", "gzip, chunked", "identity", "x"])),
    st.tuples(st.just("Content-Encoding"), st.sampled_from(["gzip", "br", "identity", "", "Identity", "x" * 500])),
    st.tuples(st.sampled_from(["ETag", "Last-Modified"]), st.sampled_from(['"a"', 'W/"a"', "a", "", '"', "\xe9"])),
    st.tuples(st.sampled_from(["", "a b", ":", "X" * 70_000]), st.just("x")),
)
STATUS_LINES = st.one_of(
    st.integers(100, 999).map(lambda status: f"HTTP/1.1 {status} x"),
    st.sampled_from([200, 206, 301, 302, 416, 429, 503]).map(lambda status: f"HTTP/1.1 {status} x"),
    st.sampled_from(
        ["HTTP/1.1", "HTTP/9.9 200 x", "HTTP/1.1 2x0 x", "HTTP/1.1 99999 x", "SSH-2.0-x", "", "HTTP/1.1 200"]
    ),
)
CHUNKS = [b"400\r\n" + DATA + b"\r\n0\r\n\r\n", b"-5\r\nabc\r\n", b"zz\r\nabc", b"f" * 40 + b"\r\nabc", b"4\r\nabc"]
BODIES = st.one_of(st.sampled_from([DATA, DATA[:512], b"", DATA[:100], *CHUNKS]), st.binary(max_size=50))


class RawServer:
    """Answers each connection with the bytes of `answer`, and closes it."""

    def __init__(self) -> None:
        self.answer = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/data.bin"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            with connection:
                connection.settimeout(5)
                try:
                    connection.recv(65536)
                    connection.sendall(self.answer)
                except OSError:  # the client has seen enough
                    continue

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture(scope="module")
def raw() -> Iterator[RawServer]:
    server = RawServer()
    yield server
    server.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(status=STATUS_LINES, headers=st.lists(HEADERS, max_size=4), body=BODIES)
def test_any_answer_ends_in_bytes_or_an_error(
    raw: RawServer, monkeypatch: pytest.MonkeyPatch, status: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    monkeypatch.setattr("sources.retry.time.sleep", lambda _: None)
    head = "\r\n".join([status, *(f"{name}: {value}" for name, value in headers)])
    raw.answer = head.encode("latin-1") + b"\r\n\r\n" + body
    begin = time.monotonic()
    for attempt in (_open, lambda url: probe(url, HttpClient()), _fetch):
        message = _error_of(attempt, raw.url)
        assert message is None or (raw.url.rpartition("/")[0] in message and message.isprintable())
    assert time.monotonic() - begin < 20


def _open(url: str) -> None:
    source = open_source((url,), HttpClient())
    assert 0 < source.size < 10**18 or source.read(0, 0) == b""
    if source.size <= len(DATA):
        assert len(source.read(0, source.size)) == source.size


def _fetch(url: str) -> None:
    client = HttpClient()
    client._fetch_fast(url)  # as a photo at first; what it does not get comes from `fetch`
    client.fetch(url, 2)


def _error_of(attempt: Callable[[str], object], url: str) -> str | None:
    try:
        attempt(url)
    except SourceError as error:
        return str(error)
    return None
