"""One version of a file, for any answer of its servers: weak tags, replicas, If-Range, ranges that are not given."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from errors import SourceChangedError
from sources.http import HttpClient
from sources.http_answers import Version
from sources.http_source import HttpSource
from sources.source import Source, open_source, probe, proven
from support.program import Cli
from support.source_server import Plan, SourceServer

DATA = random.Random(3).randbytes(5000)
PATH = "/data.bin"
MONDAY, TUESDAY = "Mon, 05 Jan 2026 10:00:00 GMT", "Tue, 06 Jan 2026 10:00:00 GMT"
REPLICA = Plan(etag='"b"', last_modified=MONDAY)


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer() as server:
        server.files[PATH] = DATA
        server.plan(PATH, Plan(etag='"a"', last_modified=MONDAY))
        yield server


def opened(server: SourceServer, is_proven: bool = False) -> Source:
    source = open_source((server.url + PATH,), HttpClient(), None, is_proven)
    server.requests.clear()
    return source


# ── the same version ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("before", "after"), [('W/"a"', '"a"'), ('"a"', 'W/"a"'), ('W/"a"', 'W/"a"')])
def test_a_weak_tag_is_the_same_as_the_strong_one(server: SourceServer, before: str, after: str) -> None:
    server.plan(PATH, Plan(etag=before))
    source = opened(server)
    server.plan(PATH, Plan(etag=after))
    assert source.read(10, 5000) == DATA[10:]


@pytest.mark.parametrize(
    ("one", "other", "is_same", "is_replica"),
    [
        (('"a"', MONDAY), ('"a"', TUESDAY), True, False),
        (('"a"', MONDAY), ('"b"', MONDAY), False, True),
        (('"a"', MONDAY), ('"b"', TUESDAY), False, False),
        (('"a"', ""), ('"b"', ""), False, True),
        (("a", ""), ('"a"', ""), True, False),
        (('"a"', MONDAY), ("", MONDAY), True, False),
        (('"a"', MONDAY), ("", TUESDAY), False, False),
        (("", MONDAY), ('"a"', MONDAY), True, False),
        (('"a"', ""), ("", MONDAY), False, False),
        (('"a"', MONDAY), ("", ""), True, False),
        (("", ""), ('"a"', ""), True, False),
        (('W/"A"', ""), ('"a"', ""), False, True),
    ],
)
def test_what_two_answers_say(one: tuple[str, str], other: tuple[str, str], is_same: bool, is_replica: bool) -> None:
    assert Version(*one).is_same(Version(*other)) is is_same
    assert Version(*one).is_replica(Version(*other)) is is_replica


# ── several servers behind one name ──────────────────────────────────────────────────────────────


def test_copies_of_other_tags_are_taken_where_a_checksum_proves_them(
    server: SourceServer, caplog: pytest.LogCaptureFixture
) -> None:
    source = opened(server, True)
    server.plan(PATH, REPLICA)
    with caplog.at_level(logging.WARNING, "spotted"):
        assert source.read(10, 5000) + source.read(0, 10) == DATA[10:] + DATA[:10]
    assert len(server.requests) == 3  # once with If-Range
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert 'expected ETag "a", got "b"' in caplog.text and server.url + PATH in caplog.text


@pytest.mark.parametrize(
    ("is_proven", "plan"),
    [
        (False, REPLICA),
        (True, Plan(etag='"b"', last_modified=TUESDAY)),
        (True, Plan(etag='"b"', last_modified=None)),
        (True, Plan(etag='"b"', last_modified=MONDAY, body=DATA + b"more")),
    ],
    ids=["not proven", "another date", "no date", "another size"],
)
def test_else_they_are_another_version(server: SourceServer, is_proven: bool, plan: Plan) -> None:
    source = opened(server, is_proven)
    server.plan(PATH, plan)
    with pytest.raises(SourceChangedError, match=server.url + PATH):
        source.read(0, 5000)
    assert len(server.requests) == 1


def test_parts_are_proven_together(server: SourceServer) -> None:
    source = proven(open_source((server.url + PATH,) * 2, HttpClient()), True)
    server.plan(PATH, REPLICA)
    assert source.read(4990, 5010) == DATA[-10:] + DATA[:10]


def replicas(mirror: SourceServer) -> None:
    """Every second answer is of a server with other tags; the checksums are published."""
    names = [path for path in mirror.files if path.endswith((".tar", ".zip"))]
    mirror.files["/SHA256SUMS"] = "".join(
        f"{hashlib.sha256(mirror.files[name]).hexdigest()}  {name[1:]}\n" for name in names
    ).encode()
    for name in names:
        for number in range(400):
            mirror.plan(name, Plan(etag=f'"{number % 2}"', last_modified=MONDAY), times=1)


def test_replicas_by_the_program(mirror: SourceServer, cli: Cli, tmp_path: Path) -> None:
    replicas(mirror)
    done = cli("-b", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "its sha256 will prove the bytes" in done.stderr


def test_replicas_with_workers_are_refused(mirror: SourceServer, cli: Cli, tmp_path: Path) -> None:
    replicas(mirror)
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out", "--workers", "2")
    assert done.returncode == 1
    assert "no sha256 is compared that proves their copies to be one" in done.stderr
    assert "Traceback" not in done.stderr


# ── If-Range and Range that are not understood ───────────────────────────────────────────────────


class NoIfRange(SourceServer):
    """Answers each request with If-Range with this status, the whole file, and its right version."""

    status = 200

    def take_plan(self, path: str) -> Plan:
        plan = super().take_plan(path)
        if self.requests[-1].headers.get("If-Range"):
            return Plan(ranges=False) if self.status == 200 else Plan(status=self.status)
        return plan


@pytest.mark.parametrize("status", [200, 412])
def test_a_server_that_does_not_understand_if_range_is_asked_without(status: int, waits: list[float]) -> None:
    with NoIfRange() as server:
        server.status = status
        server.files[PATH] = DATA
        source = opened(server)
        assert isinstance(source, HttpSource)
        assert [source.read(at, at + 1000) for at in range(0, 5000, 1000)] == [
            DATA[at : at + 1000] for at in range(0, 5000, 1000)
        ]
        assert [bool(request.headers.get("If-Range")) for request in server.requests] == [True] + [False] * 5
        assert waits == []


def test_a_precondition_that_fails_without_one_is_another_version(server: SourceServer) -> None:
    source = opened(server)
    server.plan(PATH, Plan(status=412))
    with pytest.raises(SourceChangedError, match=r"changed while it was read \(status 412\)"):
        source.read(0, 10)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 0-9/5000"},
        {"Content-Range": "bytes 90-199/*"},
        {"Content-Range": None, "Content-Type": "multipart/byteranges; boundary=x"},
        {"Content-Range": "100/5000"},
    ],
    ids=["another", "before it", "multipart", "malformed"],
)
def test_another_range_than_asked_for(server: SourceServer, waits: list[float], headers: dict[str, str | None]) -> None:
    source = opened(server)
    version = {"etag": '"a"', "last_modified": MONDAY}
    server.plan(PATH, Plan(headers=headers, **version), times=2)  # type: ignore[arg-type]
    assert [source.read(100, 200), source.read(4000, 5000)] == [DATA[100:200], DATA[4000:]]
    assert server.ranges(PATH) == ["bytes=100-199"] * 2 + [None, "bytes=4000-4999"]
    assert len(waits) == 1


@pytest.mark.parametrize("form", ["bytes={}", "bytes: {}", "Bytes {}", "{}", "bytes {} "])
def test_a_range_that_is_only_written_otherwise(server: SourceServer, form: str) -> None:
    server.plan(PATH, Plan(headers={"Content-Range": form.format("0-511/5000")}), times=1)
    source = opened(server)
    server.plan(PATH, Plan(headers={"Content-Range": form.format("100 - 199 / 5000")}))
    assert source.read(100, 200) == DATA[100:200]
    assert server.ranges(PATH) == ["bytes=100-199"]


@pytest.mark.parametrize("status", [400, 416, 501])
def test_a_server_that_refuses_ranges_is_asked_for_the_whole_file(server: SourceServer, status: int) -> None:
    server.plan(PATH, Plan(status=status), times=1)
    assert probe(server.url + PATH, HttpClient()).size == len(DATA)
    server.plan(PATH, Plan(status=status), times=1)
    assert opened(server).read(10, 5000) == DATA[10:]


def test_a_page_in_the_middle_says_nothing_of_the_file(server: SourceServer, waits: list[float]) -> None:
    source = opened(server)
    server.plan(PATH, Plan(body=b"<html>busy", etag=None, ranges=False), times=1)
    assert source.read(10, 5000) == DATA[10:]


def test_a_server_that_gives_no_ranges_any_more_is_read_once_as_a_whole(
    server: SourceServer, waits: list[float]
) -> None:
    source = opened(server)
    server.plan(PATH, Plan(etag='"a"', last_modified=MONDAY, ranges=False))
    assert [source.read(at, 5000) for at in (100, 200, 300)] == [DATA[at:] for at in (100, 200, 300)]
    assert server.ranges(PATH).count(None) == 1


def test_a_whole_file_of_another_version_is_not_taken(server: SourceServer, waits: list[float]) -> None:
    source = opened(server)
    server.plan(PATH, Plan(etag='"a"', last_modified=MONDAY, headers={"Content-Range": "x"}), times=2)
    server.plan(PATH, Plan(etag='"b"', last_modified=MONDAY, body=DATA[::-1]))
    with pytest.raises(SourceChangedError, match=server.url + PATH):
        source.read(0, 5000)


def test_a_load_balancer_of_which_one_server_has_no_ranges(server: SourceServer, waits: list[float]) -> None:
    source = opened(server)
    for _ in range(10):
        server.plan(PATH, Plan(etag='"a"', last_modified=MONDAY, ranges=False), times=1)
        server.plan(PATH, Plan(etag='"a"', last_modified=MONDAY), times=1)
    assert [source.read(at, at + 500) for at in range(0, 5000, 500)] == [
        DATA[at : at + 500] for at in range(0, 5000, 500)
    ]


def test_another_total_is_another_version(server: SourceServer) -> None:
    source = opened(server)
    server.plan(PATH, Plan(etag='"a"', headers={"Content-Range": "bytes 0-9/6000"}))
    with pytest.raises(SourceChangedError, match=r"\(5,000 bytes\), got .* \(6,000 bytes\)"):
        source.read(0, 10)


def test_accept_ranges_none_is_no_reason_where_ranges_come(server: SourceServer) -> None:
    server.plan(PATH, Plan(headers={"Accept-Ranges": "none"}))
    assert opened(server).read(9, 99) == DATA[9:99]
