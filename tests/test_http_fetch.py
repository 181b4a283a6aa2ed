"""Small files fetched whole."""

from __future__ import annotations

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from errors import GoneError, SourceError
from sources import checked_connections
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


def test_a_header_that_comes_byte_by_byte_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes within the time-out, and the header never ends."""
    monkeypatch.setattr(checked_connections, "MAX_HEADER_SECONDS", 0.5)
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
