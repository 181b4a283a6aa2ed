"""As many concurrent requests as a server takes: real nginx with limits, and servers that refuse in other ways."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from errors import SourceError
from sources import hosts, retry, sample
from sources.hosts import Host
from sources.http import HttpClient
from sources.source import open_source
from support.program import Cli, clean_environment, command
from support.source_server import Plan, SourceServer

CONF = """
{user} daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{ access_log {folder}/access.log; default_type application/octet-stream;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  limit_conn_zone $binary_remote_addr zone=address:1m; limit_req_zone $binary_remote_addr zone=turn:1m rate=50r/s;
  server {{ listen 127.0.0.1:{port}; root {folder}/files; {limits} }} }}
"""


@contextmanager
def nginx(folder: Path, limits: str) -> Iterator[str]:
    """A real nginx that serves `folder`/files within these limits; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    user = "" if os.geteuid() else "user root;"  # its workers are another user, who may not read temporary folders
    (folder / "nginx.conf").write_text(CONF.format(folder=folder, port=port, limits=limits, user=user))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    with subprocess.Popen([program, "-c", str(folder / "nginx.conf"), "-p", str(folder)]) as process:
        try:
            wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_for(port: int) -> None:
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nothing listens at {port}")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The miniature's sources as files below `tmp_path`/served/files."""
    for path, data in sample.sources().items():
        place = tmp_path / "served" / "files" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return tmp_path / "served"


def statuses(folder: Path) -> list[str]:
    return [line.split('" ')[1].split()[0] for line in (folder / "access.log").read_text().splitlines()]


# ── limits of a real server ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("connections", "status"), [(1, 503), (2, 503), (3, 429), (2, 403), (2, 509), (2, 444)])
def test_a_server_of_few_connections_is_read_to_the_end(tmp_path: Path, connections: int, status: int) -> None:
    """ "444" is nginx' own: it closes the connection."""
    (tmp_path / "files").mkdir()
    data = bytes(range(256)) * 5000
    (tmp_path / "files" / "a").write_bytes(data)
    limits = f"limit_conn address {connections}; limit_conn_status {status}; limit_rate 400k;"
    with nginx(tmp_path, limits) as url:
        source = open_source((f"{url}/a",), HttpClient())
        with ThreadPoolExecutor(8) as pool:
            parts = pool.map(lambda at: source.read(at * 80_000, at * 80_000 + 80_000), range(16))
            assert b"".join(parts) == data
    assert 0 < statuses(tmp_path).count(str(status)) < 30


def test_photos_keep_to_the_connections_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    photos = [bytes([number]) * 150_000 for number in range(16)]
    for number, photo in enumerate(photos):
        (tmp_path / "files" / str(number)).write_bytes(photo)
    client = HttpClient()
    with nginx(tmp_path, "limit_conn address 2; limit_rate 200k;") as url, ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda number: client.fetch_photo(f"{url}/{number}", 1 << 20), range(16))) == photos
    assert "503" in statuses(tmp_path)


def test_fifty_photos_a_second_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for number in range(150):
        (tmp_path / "files" / str(number)).write_bytes(b"%d" % number)
    client = HttpClient()
    with nginx(tmp_path, "limit_req zone=turn;") as url, ThreadPoolExecutor(100) as pool:
        got = list(pool.map(lambda number: client.fetch_photo(f"{url}/{number}", 1 << 20), range(150)))
    assert got == [b"%d" % number for number in range(150)]


def test_archives_by_the_program(files: Path, cli: Cli, tmp_path: Path) -> None:
    with nginx(files, "limit_conn address 1; limit_rate 100k;") as url:
        done = cli("-b", "--mirror", url, "--to", tmp_path / "out", "--quiet")
    others = [line for line in done.stderr.splitlines() if "published are" not in line]  # of the sample's splits
    assert (done.returncode, others) == (0, [])


# ── servers that refuse in other ways ────────────────────────────────────────────────────────────


class OneAtATime(SourceServer):
    """Closes each connection beyond the first without an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.busy, self.closed = threading.Semaphore(1), 0

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.busy.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.closed += 1
            request.close()

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.busy.release()


def test_a_server_that_closes_what_is_too_much() -> None:
    with OneAtATime() as server:
        data = bytes(range(256)) * 400
        server.files["/a"] = data
        source = open_source((server.url + "/a",), HttpClient())
        server.plan("/a", Plan(drip=0.02))
        with ThreadPoolExecutor(6) as pool:
            parts = pool.map(lambda at: source.read(at * 10_240, at * 10_240 + 10_240), range(10))
            assert b"".join(parts) == data
        assert server.closed


def test_a_server_that_refuses_everything_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sources.retry.time.sleep", lambda _: None)
    client = HttpClient()
    with SourceServer() as server:
        for number in range(20):
            server.plan(f"/{number}", Plan(status=503))

        def fails(number: int) -> str:
            with pytest.raises(SourceError) as caught:
                client.fetch_photo(f"{server.url}/{number}", 1 << 20)
            return str(caught.value)

        with ThreadPoolExecutor(20) as pool:
            assert all("gave up after 8 attempts: status 503" in text for text in pool.map(fails, range(20)))
        assert len(server.requests) < 20 * (retry.MAX_ATTEMPTS + retry.MAX_FREE_REFUSALS + 2)


def test_one_url_that_is_always_refused_ends_while_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sources.retry.time.sleep", lambda _: None)
    client = HttpClient()
    with SourceServer() as server:
        server.files["/good"] = b"good"
        server.plan("/bad", Plan(status=429))
        over = threading.Event()

        def go_on() -> None:
            while not over.wait(0.01):
                assert client.fetch_photo(f"{server.url}/good", 1 << 20) == b"good"

        with ThreadPoolExecutor(2) as pool:
            others = [pool.submit(go_on) for _ in range(2)]
            with pytest.raises(SourceError, match="gave up after 8 attempts: status 429"):
                client.fetch_photo(f"{server.url}/bad", 1 << 20)
            over.set()
            for each in others:
                each.result()


# ── the limit itself ─────────────────────────────────────────────────────────────────────────────


def test_the_limit_grows_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "PROBE_AFTER", 0)
    host = Host("http://x")
    with host.request(), host.request():
        host.throttled()
    taken = threading.Event()

    def two_at_once() -> None:
        with host.request(), host.request():
            taken.set()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(two_at_once)
        assert not taken.wait(0.2)
        with host.answer():
            pass
        waiting.result(5)


def test_a_server_of_two_users_is_one_server() -> None:
    client = HttpClient()
    assert client.host("http://u:p@h:1/a") is client.host("http://h:1/b")
    assert client.host("http://h:1/a") is not client.host("https://h:1/a")


def test_an_interrupt_is_not_delayed_by_what_waits(files: Path, tmp_path: Path) -> None:
    with nginx(files, "limit_conn address 1; limit_rate 1k;") as url:
        arguments = command("-b", "--mirror", url, "--to", tmp_path / "out", "--log-format", "json")
        environment = clean_environment(tmp_path, {})
        with subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            for line in process.stderr:
                if "sending fewer" in json.loads(line)["message"]:
                    break
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
            assert time.monotonic() - begin < 2
