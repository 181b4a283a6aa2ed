"""Trouble of this machine: files that are none, a full disk, a folder that may not be written; nothing stays of it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from errors import SourceError
from sources import sample
from sources.http import HttpClient
from sources.http_status import NO_RANGES, RETRYABLE_STATUSES
from sources.local_files import read_at
from sources.source import open_source, probe
from sources.spool import TemporaryCopy, leads_to
from support.program import ROOT, Cli, clean_environment, command
from support.source_server import Plan, SourceServer

DATA = bytes(range(256)) * 40


def special_files(folder: Path) -> list[str]:
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to(folder / "loop")
    return [str(folder / name) for name in ("pipe", "folder", "loop", "n" * 300, "nul\0nul")] + ["/dev/zero"]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    for name in special_files(tmp_path):
        for attempt in (
            lambda name: open_source((name,), HttpClient()),
            lambda name: probe(name, HttpClient()),
            HttpClient().fetch,
        ):
            with pytest.raises(SourceError) as caught:
                attempt(name)
            assert repr(name)[1:-1] in str(caught.value)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    (tmp_path / "file").chmod(0)
    tmp_path.chmod(0o755)
    program = (
        "import os, sys\nfrom sources.http import HttpClient\nfrom sources.source import probe\n"
        "if not os.getuid(): os.setuid(65534)\nprobe(sys.argv[1], HttpClient())"
    )
    for parent in tmp_path.parents[:2]:  # so that this user gets as far as the file
        parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "file")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert f"SourceError: {tmp_path / 'file'}: cannot be opened: Permission denied" in done.stderr


def test_a_disk_that_fails(tmp_path: Path) -> None:
    source = open_source(("/proc/self/cmdline",), HttpClient())  # a plain file
    with open("/proc/self/mem", "rb") as file, pytest.raises(SourceError, match="x: cannot be read at byte 0: Input"):
        read_at(file.fileno(), 10, 0, "x")  # address 0 is mapped nowhere: EIO
    assert source.size == 0


# ── temporary copies ─────────────────────────────────────────────────────────────────────────────


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A limit on the size of files (setrlimit(2)) is the same to the program as a disk that ends there."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with SourceServer() as server:
        server.files["/a"] = DATA
        server.plan("/a", Plan(ranges=False))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(
                SourceError, match=rf"{server.url}/a: its temporary copy in .* after 4,096 bytes: .*TMPDIR"
            ):
                open_source((server.url + "/a",), HttpClient())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert len(server.requests) == 1


def test_the_space_is_looked_for_first() -> None:
    with SourceServer() as server:
        server.plan("/a", Plan(body=b"x", ranges=False, headers={"Content-Length": str(10**17)}))
        with pytest.raises(SourceError, match=rf"{server.url}/a: .* expected 100,000,000,000,000,000 bytes .*TMPDIR"):
            open_source((server.url + "/a",), HttpClient())


def test_a_copy_that_has_no_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(SourceError, match="http://x/a: no temporary file can be made.*TMPDIR"):
        TemporaryCopy("http://x/a")


def test_the_space_is_free_again_with_the_last_reader(tmp_path: Path) -> None:
    copy = TemporaryCopy("http://x/a")
    path, target = copy.path, copy.target
    assert leads_to(path, target)
    del copy
    assert not leads_to(path, target)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_nothing_stays_in_tmpdir(tmp_path: Path, number: signal.Signals, workers: tuple[str, ...]) -> None:
    (tmp_path / "tmp").mkdir()
    with SourceServer() as server:
        server.files.update({f"/{path}": data for path, data in sample.sources().items()})
        server.plan("/images.tar", Plan(ranges=False, drip=0.05))
        arguments = command("-d", "stanford", "--mirror", server.url, "--to", tmp_path / "out", *workers)
        environment = clean_environment(tmp_path, {"TMPDIR": str(tmp_path / "tmp")})
        with subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            assert any("into a temporary file" in line for line in process.stderr)
            time.sleep(0.3)
            process.send_signal(number)
            process.wait(10)
            process.stderr.read()
    assert not [path.name for path in (tmp_path / "tmp").iterdir() if path.name.startswith("spotted")]


def test_local_trouble_belongs_to_its_dataset(tmp_path: Path, mirror: SourceServer, cli: Cli) -> None:
    mirror.plan("/images.tar", Plan(body=b"x", ranges=False, headers={"Content-Length": str(10**17)}))
    mirror.files["/SHA256SUMS"] = b""
    done = cli("-d", "stanford", "-d", "tsinghua", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 1
    assert "set TMPDIR to a folder with more space" in done.stderr and "Traceback" not in done.stderr
    assert "tsinghua: complete" in done.stderr


# ── statuses ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "status", [202, 408, 425, 429, 500, 502, 503, 504, 506, 507, 508, 509, 520, 522, 530, 555, 599]
)
def test_statuses_that_pass(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sources.retry.time.sleep", lambda _: None)
    assert status in RETRYABLE_STATUSES
    with SourceServer() as server:
        server.files["/a"] = DATA
        source = open_source((server.url + "/a",), HttpClient())
        server.plan("/a", Plan(status=status), times=3)
        assert source.read(5, 500) == DATA[5:500]


@pytest.mark.parametrize("status", [400, 401, 403, 405, 418, 501, 505, 511, 600, 999])
def test_statuses_that_do_not(status: int) -> None:
    with SourceServer() as server:
        server.plan("/a", Plan(status=status))
        with pytest.raises(SourceError, match=f"{server.url}/a: expected status 200 or 206, got status {status}"):
            open_source((server.url + "/a",), HttpClient())
        assert len(server.requests) == 1 + (status in NO_RANGES)  # then without a range, once
