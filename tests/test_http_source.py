"""Sources over HTTP against a real server that behaves as badly as servers do."""

from __future__ import annotations

import email.utils
import itertools
import re
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import GoneError, SourceChangedError, SourceError
from sources import retry
from sources.http import HttpClient
from sources.http_answers import Version
from sources.http_source import PROGRESS_BYTES, HttpSource
from sources.local_files import FileSource
from sources.source import ConcatSource, Source, open_source
from sources.spool import SpooledSource
from support.http_data import DATA, HTML, LONG, MONDAY, PATH, TUESDAY, opened
from support.source_server import Plan, SourceServer


@pytest.fixture
def server(server: SourceServer) -> SourceServer:
    server.files[PATH] = DATA
    return server


# ── the right bytes ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """DATA in five parts: two served with ranges, one spooled, two local, one of these empty."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "local").write_bytes(DATA[700:1033])
    (folder / "empty").write_bytes(b"")
    with SourceServer() as server:
        server.files |= {"/a": DATA[:700], "/b": DATA[1033:3000], "/c": DATA[3000:]}
        server.plan("/b", Plan(ranges=False))
        names = server.url + "/a", str(folder / "local"), str(folder / "empty"), server.url + "/b", server.url + "/c"
        yield open_source(names, HttpClient(), len(DATA))


@settings(max_examples=80, deadline=None)
@given(bounds=st.tuples(st.integers(0, 5000), st.integers(0, 5000)).map(sorted))
def test_any_range_of_any_parts(whole: Source, bounds: list[int]) -> None:
    start, stop = bounds
    assert whole.read(start, stop) == DATA[start:stop]
    assert b"".join(whole.stream(start, stop)) == DATA[start:stop]


def test_parts_are_one_file(whole: Source) -> None:
    assert isinstance(whole, ConcatSource)
    assert (whole.name, whole.size) == (whole.parts[0].name, len(DATA))
    assert [type(part) for part in whole.parts] == [HttpSource, FileSource, FileSource, SpooledSource, HttpSource]
    assert whole.version.split()[0] == '700:"1"'
    assert whole.read(0, len(DATA)) == DATA


def test_parts_ask_only_for_what_is_wanted(server: SourceServer) -> None:
    server.files |= {"/a": DATA[:2000], "/b": DATA[2000:]}
    source = open_source((server.url + "/a", server.url + "/b"), HttpClient())
    server.requests.clear()
    assert source.read(1990, 2010) == DATA[1990:2010]
    assert source.read(100, 200) == DATA[100:200]
    assert server.ranges("/a") == ["bytes=1990-1999", "bytes=100-199"]
    assert server.ranges("/b") == ["bytes=0-9"]


def test_nothing_wanted_nothing_asked(server: SourceServer) -> None:
    source = opened(server)
    assert source.read(7, 7) == b""
    assert server.requests == []


def test_connections_are_kept_alive(server: SourceServer) -> None:
    source = opened(server)
    assert b"".join(source.read(at, at + 500) for at in range(0, 5000, 500)) == DATA
    assert len(server.requests) == 10
    assert len(server.connections) <= 2


@pytest.mark.parametrize("plan", [Plan(drip=0.01), Plan(stall=0.3)], ids=["drips", "begins late"])
def test_slow_is_not_broken(server: SourceServer, plan: Plan) -> None:
    source = opened(server)
    server.plan(PATH, plan)
    assert source.read(0, 5000) == DATA
    assert server.ranges(PATH) == ["bytes=0-4999"]


# ── broken connections ───────────────────────────────────────────────────────────────────────────


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 700), max_size=7), start=st.integers(0, 50))
def test_continued_at_the_byte_where_it_broke(cuts: list[int], start: int) -> None:
    with SourceServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sources.retry.time.sleep", lambda seconds: None)
        server.files[PATH] = DATA
        source = opened(server)
        for cut in cuts:
            server.plan(PATH, Plan(cut=cut), times=1)
        assert source.read(start, 5000) == DATA[start:]
        assert server.ranges(PATH) == [f"bytes={at}-4999" for at in itertools.accumulate(cuts, initial=start)]


def test_progress_renews_patience(server: SourceServer, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 2)
    server.files[PATH] = LONG
    source = opened(server)
    server.plan(PATH, Plan(cut=PROGRESS_BYTES), times=6)
    assert source.read(0, len(LONG)) == LONG
    assert len(server.requests) == 7


def test_patience_ends(server: SourceServer, waits: list[float]) -> None:
    source = opened(server)
    server.plan(PATH, Plan(cut=10))
    with pytest.raises(SourceError, match=rf"{server.url}{PATH} at byte 80: gave up after 8 attempts"):
        source.read(0, 5000)
    assert len(server.requests) == retry.MAX_ATTEMPTS == 8
    assert all(0.75 <= wait / 2 ** (index - 1) <= 1.25 for index, wait in enumerate(waits))
    assert len(waits) == 7


def test_silence_is_a_broken_connection(server: SourceServer, waits: list[float]) -> None:
    source = opened(server, client=HttpClient(0.2))
    server.plan(PATH, Plan(stall=1), times=1)  # nothing at all
    server.plan(PATH, Plan(drip=1), times=1)  # headers, and then nothing
    assert source.read(0, 5000) == DATA
    assert server.ranges(PATH) == ["bytes=0-4999"] * 3


def test_a_connection_that_breaks_while_opening(server: SourceServer, waits: list[float]) -> None:
    server.plan(PATH, Plan(cut=0), times=1)
    server.plan(PATH, Plan(cut=100), times=1)
    source = open_source((server.url + PATH,), HttpClient(), 5000)
    assert source.read(0, 5000) == DATA


@pytest.mark.parametrize(
    ("headers", "requests"),
    [
        ({"Content-Length": "4000"}, ["bytes=0-4999", "bytes=4000-4999"]),
        ({"Content-Length": "6000"}, ["bytes=0-4999"]),
        ({"Content-Range": "bytes 1-4999/5000"}, ["bytes=0-4999", "bytes=0-4999"]),
        ({"Content-Range": "nonsense"}, ["bytes=0-4999", "bytes=0-4999"]),
        ({"Content-Length": None}, ["bytes=0-4999"]),
    ],
    ids=str,
)
def test_headers_that_lie_while_reading(
    server: SourceServer, waits: list[float], headers: dict[str, str | None], requests: list[str]
) -> None:
    source = opened(server)
    server.plan(PATH, Plan(headers=headers), times=1)
    assert source.read(0, 5000) == DATA
    assert server.ranges(PATH) == requests


def test_a_whole_answer_to_a_range_is_not_taken_for_the_range(server: SourceServer, waits: list[float]) -> None:
    source = opened(server)
    server.plan(PATH, Plan(ranges=False), times=2)
    assert source.read(100, 200) == DATA[100:200]
    assert server.ranges(PATH) == ["bytes=100-199"] * 3


@pytest.mark.parametrize(
    ("plan", "version", "pinned"),
    [
        (Plan(etag='"x"', last_modified=MONDAY), '"x"', '"x"'),
        (Plan(etag=None, last_modified=MONDAY), MONDAY, MONDAY),
        (Plan(etag='W/"x"'), 'W/"x"', None),
        (Plan(etag=None), "", None),
    ],
    ids=["etag", "last-modified", "weak", "none"],
)
def test_the_version_is_pinned(server: SourceServer, plan: Plan, version: str, pinned: str | None) -> None:
    server.plan(PATH, plan)
    source = opened(server)
    assert source.version == version
    assert source.read(0, 5000) == DATA
    assert [request.headers.get("If-Range") for request in server.requests] == [pinned]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Plan(etag='"1"'), Plan(etag='"2"', body=DATA[::-1])),
        (Plan(etag='W/"1"'), Plan(etag='W/"2"', body=DATA[::-1])),
        (Plan(etag=None, last_modified=MONDAY), Plan(etag=None, last_modified=TUESDAY, body=DATA[::-1])),
        (Plan(etag=None), Plan(etag=None, body=DATA + b"more")),
        (Plan(etag=None), Plan(etag=None, body=DATA[:700])),
    ],
    ids=["etag", "weak etag", "last-modified", "longer", "shorter"],
)
def test_another_version_is_never_mixed_in(server: SourceServer, waits: list[float], before: Plan, after: Plan) -> None:
    server.plan(PATH, before)
    source = opened(server)
    server.plan(PATH, Plan(**{**vars(before), "cut": 1000}), times=1)
    server.plan(PATH, after)
    got: list[bytes] = []
    with pytest.raises(SourceChangedError, match=server.url + PATH):
        got.extend(source.stream(0, 5000))
    assert b"".join(got) == DATA[:1000]
    assert len(server.requests) == 2


# ── what the server asks for ─────────────────────────────────────────────────────────────────────


def test_retry_after_is_waited_for(server: SourceServer) -> None:
    source = opened(server)
    server.plan(PATH, Plan(status=503, headers={"Retry-After": "1"}), times=1)
    begin = time.monotonic()
    assert source.read(0, 10) == DATA[:10]
    assert 1 <= time.monotonic() - begin < 5  # its own first wait would be shorter, its last much longer
    assert len(server.requests) == 2


def test_retry_after_can_be_a_date(server: SourceServer, waits: list[float]) -> None:
    source = opened(server)
    later = email.utils.formatdate(time.time() + 30, usegmt=True)
    server.plan(PATH, Plan(status=429, headers={"Retry-After": later}), times=1)
    assert source.read(0, 10) == DATA[:10]
    assert 25 < waits[0] <= 30


@pytest.mark.parametrize("value", ["soon", "-5", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_retry_after_without_sense_is_no_retry_after(server: SourceServer, waits: list[float], value: str) -> None:
    source = opened(server)
    server.plan(PATH, Plan(status=503, headers={"Retry-After": value}), times=1)
    assert source.read(0, 10) == DATA[:10]
    assert 0 < waits[0] < 1


def test_too_long_a_wait_is_not_waited(server: SourceServer, waits: list[float]) -> None:
    server.plan(PATH, Plan(status=429, headers={"Retry-After": "7200"}))
    with pytest.raises(SourceError, match=r"after 1 attempt: status 429 .*asks to wait 7,200 s"):
        open_source((server.url + PATH,), HttpClient())
    assert (len(server.requests), waits) == (1, [])


# ── what cannot be had ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [404, 410, 451])
def test_gone(server: SourceServer, status: int) -> None:
    source = opened(server)
    server.plan(PATH, Plan(status=status))
    for attempt in (lambda: open_source((server.url + PATH,), HttpClient()), lambda: source.read(0, 10)):
        with pytest.raises(GoneError, match=f"{server.url}{PATH}: .*{status}"):
            attempt()
    assert len(server.requests) == 2


@pytest.mark.parametrize(("status", "tries"), [(401, 1), (403, 1), (400, 2), (500, 4), (502, 4), (408, 4)])
def test_refused(server: SourceServer, waits: list[float], status: int, tries: int) -> None:
    server.plan(PATH, Plan(status=status))
    with pytest.raises(SourceError, match=f"{server.url}{PATH}: .*{status}") as caught:
        open_source((server.url + PATH,), HttpClient())
    assert type(caught.value) is SourceError
    assert len(server.requests) == tries


@pytest.mark.parametrize("ranges", [True, False])
def test_a_web_page_is_not_a_file(server: SourceServer, ranges: bool) -> None:
    server.plan(PATH, Plan(body=HTML, ranges=ranges))
    with pytest.raises(SourceError, match=f"{server.url}{PATH}: expected a file, got an HTML page"):
        open_source((server.url + PATH,), HttpClient())


@pytest.mark.parametrize("plan", [Plan(), Plan(ranges=False), Plan(ranges=False, headers={"Content-Length": None})])
def test_the_size_must_be_right(server: SourceServer, plan: Plan) -> None:
    server.plan(PATH, plan)
    with pytest.raises(SourceError, match=f"{server.url}{PATH}: expected 5,001 bytes, got 5,000"):
        open_source((server.url + PATH,), HttpClient(), 5001)


def test_the_size_of_parts_is_that_of_the_whole(server: SourceServer) -> None:
    with pytest.raises(SourceError, match="expected 9,999 bytes, got 10,000"):
        open_source((server.url + PATH, server.url + PATH), HttpClient(), 9999)


def test_an_empty_file_is_not_an_archive(server: SourceServer) -> None:
    server.files[PATH] = b""
    with pytest.raises(SourceError, match=f"{server.url}{PATH}: expected a file, got an empty one"):
        open_source((server.url + PATH,), HttpClient())


@pytest.mark.parametrize("ranges", [True, False])
def test_bytes_that_are_packed_on_the_way(server: SourceServer, ranges: bool) -> None:
    server.plan(PATH, Plan(ranges=ranges, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(SourceError, match=f"{server.url}{PATH}: .*Content-Encoding gzip"):
        open_source((server.url + PATH,), HttpClient())


@pytest.mark.parametrize(
    ("path", "encoding"),
    [("/data.tar.gz", "x-gzip"), *((PATH, each) for each in ("x-bzip2", "UTF-8", "binary", "none", "aws-chunked"))],
)
def test_an_encoding_that_is_the_files_own_or_none(server: SourceServer, path: str, encoding: str) -> None:
    server.files[path] = DATA
    server.plan(path, Plan(headers={"Content-Encoding": encoding}))
    server.redirect("/link", path)
    assert opened(server, path).read(0, 5000) == opened(server, "/link").read(0, 5000) == DATA


@pytest.mark.parametrize("what", ["JSON", "an XML document", "an HTML page"])
def test_what_comes_in_place_of_a_file_is_named(server: SourceServer, what: str) -> None:
    bodies = {"JSON": b'{"error": "quota"}', "an XML document": b"<Error/>", "an HTML page": b"<form>Password"}
    server.files[PATH] = bodies[what]
    with pytest.raises(SourceError, match=f"{server.url}{PATH}: expected a file, got {what}"):
        open_source((server.url + PATH,), HttpClient())


@pytest.mark.parametrize("value", ["bytes 0-511/*", "nonsense", None], ids=["size unknown", "nonsense", "none"])
def test_a_part_is_not_taken_for_the_whole(server: SourceServer, waits: list[float], value: str | None) -> None:
    server.plan(PATH, Plan(headers={"Content-Range": value}))
    try:
        got: int | str = open_source((server.url + PATH,), HttpClient()).size
    except SourceError as error:
        got = str(error)
    assert got == 5000 or server.url + PATH in str(got)


def test_a_refused_connection(waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/data.bin"
    for attempt in (
        lambda: open_source((url,), HttpClient()),
        lambda: HttpSource(url, 9, Version("", ""), HttpClient()).read(0, 9),
        lambda: HttpClient().fetch(url),
        lambda: HttpClient().fetch_photo(url, 1 << 20),
    ):
        with pytest.raises(SourceError, match=f"{url}.*Connection refused") as caught:
            attempt()
        assert not re.search("\n|object at 0x", str(caught.value))


# ── redirects ────────────────────────────────────────────────────────────────────────────────────


def test_an_expired_share_is_opened_again_from_its_link(server: SourceServer) -> None:
    link = server.share("1f2e3d", DATA, uses=3)
    source = open_source((link,), HttpClient(), 5000)
    for at in range(5):
        assert source.read(at, at + 100) == DATA[at : at + 100]
    steps = ["link" if request.path.startswith("/f/") else request.path for request in server.requests]
    first, second = steps[1], steps[6]
    assert first != second
    assert steps == ["link", first, first, first, first, "link", second, second, second]


def test_a_share_that_is_taken_back(server: SourceServer) -> None:
    link = server.share("1f2e3d", DATA, uses=1, expired=404)
    source = open_source((link,), HttpClient())
    server.share("1f2e3d", DATA, uses=0, expired=404)
    with pytest.raises(GoneError, match="1f2e3d"):
        source.read(0, 10)


@pytest.mark.parametrize(
    "over",
    [
        Plan(status=400),
        Plan(status=500),
        Plan(status=503),
        Plan(status=302, headers={"Location": "/login"}),
        Plan(body=HTML, etag=None, ranges=False),
    ],
    ids=["400", "500", "503", "login", "page"],
)
def test_a_place_that_is_over_is_asked_for_again_from_its_link(
    server: SourceServer, waits: list[float], over: Plan
) -> None:
    """S3 answers 400 to an expired token, others a login page; of several mirrors one may end."""
    server.files |= {"/one": DATA, "/two": DATA, "/login": HTML}
    server.redirect("/link", "/one")
    source = opened(server, "/link")
    server.redirect("/link", "/two")
    server.plan("/one", over)
    assert source.read(10, 5000) == DATA[10:]


@pytest.mark.parametrize("location", ["/loop", "file:///etc/passwd", "ftp://127.0.0.1/data.bin", "http://"])
def test_redirects_that_lead_nowhere(server: SourceServer, location: str) -> None:
    server.redirect("/loop", location)
    for attempt in (lambda urls: open_source(urls, HttpClient()), lambda urls: HttpClient().fetch(urls[0])):
        with pytest.raises(SourceError, match=f"{server.url}/loop"):
            attempt((f"{server.url}/loop",))
