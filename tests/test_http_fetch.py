"""Small files fetched whole."""

from __future__ import annotations

import contextlib
import gzip
import socket
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from errors import GoneError, SourceError
from sources import session
from sources.http import HttpClient
from support.http_data import DATA, PATH
from support.source_server import Plan, SourceServer


@pytest.fixture
def server(server: SourceServer) -> SourceServer:
    server.files[PATH] = DATA
    return server


@pytest.mark.parametrize("path", ["/a", "/a%20b", "/a?b=c", "/a+b(c)~[d]&e=f,g", "/é", "/a//b", "/%25", "/a/../b"])
def test_fetch_under_any_name(server: SourceServer, path: str) -> None:
    server.plan(path, Plan(body=DATA))
    server.plan(path.replace("é", "%C3%A9"), Plan(body=DATA))
    server.plan(path.replace("[d]", "%5Bd%5D"), Plan(body=DATA))
    server.plan("/b", Plan(body=DATA))
    assert HttpClient().fetch(server.url + path) == DATA


def test_fetch_asks_once(server: SourceServer) -> None:
    assert HttpClient().fetch(server.url + PATH) == DATA
    assert server.ranges(PATH) == [None]


def test_fetch_of_an_empty_file(server: SourceServer) -> None:
    server.files[PATH] = b""
    assert HttpClient().fetch(server.url + PATH) == b""


def test_fetch_follows(server: SourceServer) -> None:
    server.redirect("/old", server.url + PATH)
    assert HttpClient().fetch(server.url + "/old") == DATA
    assert HttpClient().fetch(server.share("1f2e3d", DATA, uses=1)) == DATA


@pytest.mark.parametrize("status", [404, 410])
def test_fetch_of_what_is_gone(server: SourceServer, status: int) -> None:
    server.plan(PATH, Plan(status=status))
    with pytest.raises(GoneError, match=f"{server.url}{PATH}: .*{status}"):
        HttpClient().fetch(server.url + PATH)


@pytest.mark.parametrize("status", [403, 500])
def test_fetch_of_what_is_refused(server: SourceServer, waits: list[float], status: int) -> None:
    server.plan(PATH, Plan(status=status))
    with pytest.raises(SourceError, match=f"{server.url}{PATH}: .*{status}") as caught:
        HttpClient().fetch(server.url + PATH)
    assert type(caught.value) is SourceError


@pytest.mark.parametrize(
    "plan",
    [Plan(cut=3000), Plan(cut=0), Plan(status=503), Plan(headers={"Content-Length": "6000"})],
    ids=["cut", "cut immediately", "busy", "lying length"],
)
def test_fetch_goes_on_trying(server: SourceServer, waits: list[float], plan: Plan) -> None:
    server.plan(PATH, plan, times=4)
    assert HttpClient().fetch(server.url + PATH) == DATA
    assert len(server.requests) == 5


def test_fetch_gives_up(server: SourceServer, waits: list[float]) -> None:
    server.plan(PATH, Plan(cut=3000))
    with pytest.raises(SourceError, match=f"{server.url}{PATH}: gave up after 8 attempts"):
        HttpClient().fetch(server.url + PATH)


def test_fetch_of_bytes_that_are_packed_on_the_way(server: SourceServer) -> None:
    server.plan(PATH, Plan(headers={"Content-Encoding": "gzip"}))
    with pytest.raises(SourceError, match=f"{server.url}{PATH}: .*Content-Encoding gzip"):
        HttpClient().fetch(server.url + PATH)


TWICE, PARTS = gzip.compress(gzip.compress(DATA)), gzip.compress(DATA[:9]) + gzip.compress(DATA[9:])


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("UTF-8", DATA), ("none", DATA), ("aws-chunked", DATA), ("gzip, gzip", TWICE), ("gzip", PARTS),
        ("aws-chunked,gzip", gzip.compress(DATA)), ("gzip", gzip.compress(DATA) + b"more"),
        ("deflate", zlib.compress(DATA)),
    ],
)  # fmt: skip
def test_fetch_of_any_encoding_that_can_be_read(server: SourceServer, encoding: str, body: bytes) -> None:
    server.plan(PATH, Plan(body=body, headers={"Content-Encoding": encoding}))
    assert HttpClient().fetch(server.url + PATH) == HttpClient().fetch_photo(server.url + PATH, 1 << 20) == DATA


OK, ALMOST = (b"HTTP/1.1 %d x\r\nContent-Length: 5000\r\n\r\n" % status + DATA for status in (200, 203))
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"


PART = b"HTTP/1.1 206 x\r\nContent-Range: bytes 0-4999/5000\r\nContent-Length: 5000\r\n\r\n" + DATA


@pytest.mark.parametrize("noise", [ALMOST, PART, HINTS + OK, HINTS * 2 + b"HTTP/1.1 199 x\r\n\r\n" + OK])
def test_fetch_of_answers_that_are_as_good_as_200(server: SourceServer, noise: bytes) -> None:
    server.plan(PATH, Plan(noise=noise))
    assert HttpClient().fetch(server.url + PATH) == DATA


@pytest.mark.parametrize("status", [204, 205])
def test_fetch_of_an_answer_without_a_body(server: SourceServer, status: int) -> None:
    server.plan(PATH, Plan(noise=b"HTTP/1.1 %d x\r\n\r\n" % status))
    assert HttpClient().fetch(server.url + PATH) == b""


def test_fetch_follows_the_choice_of_the_server(server: SourceServer) -> None:
    server.plan("/old", Plan(status=300, headers={"Location": PATH}))
    assert HttpClient().fetch(server.url + "/old") == DATA


def test_fetch_of_what_is_no_http(server: SourceServer) -> None:
    server.plan(PATH, Plan(noise=b"ICY 200 OK\r\n" + bytes(70_000)))
    with pytest.raises(SourceError, match=r"expected an answer as HTTP has it, got ICY 200 OK"):
        HttpClient().fetch(server.url + PATH, attempts=1)


def test_a_header_that_comes_byte_by_byte_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes within the time-out, and the header never ends."""
    monkeypatch.setattr(session, "MAX_HEADER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as here, ThreadPoolExecutor() as pool:
        pool.submit(send_a_header_without_end, here)
        url = f"http://127.0.0.1:{here.getsockname()[1]}/a"
        with pytest.raises(SourceError, match=r"the header of the answer was not whole after"):
            HttpClient().fetch(url, attempts=1)


def send_a_header_without_end(here: socket.socket) -> None:
    connection, _ = here.accept()
    with connection, contextlib.suppress(OSError):  # the client has gone
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)
