"""Local files, and files that are spooled because their server has no ranges."""

from __future__ import annotations

import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from errors import GoneError, SourceChangedError, SourceError
from sources.http import HttpClient
from sources.local_files import FileSource
from sources.source import open_source
from sources.spool import SpooledSource
from support.http_data import DATA, HTML, LONG, PATH, PROBE
from support.source_server import Plan, SourceServer


@pytest.fixture
def server(server: SourceServer) -> SourceServer:
    server.files[PATH] = DATA
    return server


# ── without ranges ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("headers", [{}, {"Content-Length": None}], ids=["length sent", "length not sent"])
def test_without_ranges_a_file_is_fetched_once(server: SourceServer, headers: dict[str, str | None]) -> None:
    server.files[PATH] = LONG
    server.plan(PATH, Plan(ranges=False, headers=headers))
    source = open_source((server.url + PATH,), HttpClient(), len(LONG))
    assert isinstance(source, FileSource)
    assert (source.name, source.version) == (server.url + PATH, '"1"')
    assert source.read(1234, 300_000) == LONG[1234:300_000]
    assert source.read(0, len(LONG)) == LONG
    assert server.ranges(PATH) == [PROBE]


def test_a_spooled_file_is_whole_and_alone(server: SourceServer, waits: list[float]) -> None:
    server.plan(PATH, Plan(ranges=False, cut=3000), times=2)
    server.plan(PATH, Plan(ranges=False))
    folder = Path(tempfile.gettempdir())
    before = set(folder.iterdir())
    source = open_source((server.url + PATH,), HttpClient())
    assert source.read(0, 5000) == DATA
    assert not {path for path in set(folder.iterdir()) - before if path.name.startswith("spotted-")}


# ── local files, pickles ─────────────────────────────────────────────────────────────────────────


def test_local_files(tmp_path: Path) -> None:
    path = tmp_path / "a b é%.bin"
    path.write_bytes(DATA)
    for name in (str(path), path.as_uri()):
        source = open_source((name,), HttpClient(), 5000)
        assert (source.read(100, 5000), source.size) == (DATA[100:], 5000)
        assert HttpClient().fetch(name) == DATA
    with path.open("ab") as file:
        file.write(b"more")
    assert open_source((str(path),), HttpClient()).version != source.version


def test_local_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(HTML)
    for name, error in {"none": GoneError, "page/none": GoneError, ".": SourceError, "page": SourceError}.items():
        with pytest.raises(error, match=str(tmp_path)):
            open_source((str(tmp_path / name),), HttpClient())


@pytest.mark.parametrize(("name", "error"), [("none", GoneError), ("file/none", GoneError), (".", SourceError)])
def test_local_files_that_cannot_be_fetched(tmp_path: Path, name: str, error: type[SourceError]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(error, match=str(tmp_path)):
        HttpClient().fetch(str(tmp_path / name))


def test_a_local_file_that_becomes_shorter(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    source = open_source((str(path),), HttpClient())
    path.write_bytes(DATA[:3000])
    assert source.read(0, 3000) == DATA[:3000]
    with pytest.raises(SourceChangedError, match="expected 5,000 bytes, it ends after 3,000"):
        source.read(2000, 4000)


def test_a_local_file_that_vanishes(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    source = open_source((str(path),), HttpClient())
    path.unlink()
    with pytest.raises(SourceError, match=str(path)):
        source.read(0, 10)


def test_every_source_can_be_sent_to_another_process(server: SourceServer, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(DATA)
    server.files["/spooled"] = DATA
    server.plan("/spooled", Plan(ranges=False))
    urls = server.url + PATH, server.url + "/spooled", str(tmp_path / "local")
    for source in (*(open_source((url,), HttpClient()) for url in urls), open_source(urls, HttpClient())):
        copy = pickle.loads(pickle.dumps(source))
        assert copy == source
        assert (copy.name, copy.size, copy.version) == (source.name, source.size, source.version)
        assert copy.read(4000, 5000) == DATA[4000:]


def test_a_spooled_copy_that_is_on_another_machine_is_made_again_once(server: SourceServer) -> None:
    server.plan(PATH, Plan(ranges=False))
    source = pickle.loads(pickle.dumps(open_source((server.url + PATH,), HttpClient())))
    assert isinstance(source, SpooledSource)
    assert not Path(source.path).exists()  # gone with the one that made it
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: source.read(100, 4000), range(16))) == {DATA[100:4000]}
    assert len(server.ranges(PATH)) == 2
