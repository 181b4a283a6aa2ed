"""What a run takes from its sources: so many connections to each server, so many bytes a second, and no more."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from commands.command_line import parse
from sources import sample
from sources.http_answers import Bandwidth
from support.archives import some_members, tar_of
from support.miniature import sums
from support.program import Cli
from support.source_server import Plan, SourceServer


class CountingServer(SourceServer):
    """Knows how many requests have waited for their answer at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.files.update({f"/{path}": data for path, data in sample.sources().items()})
        self.files["/images.tar"] = tar_of([(f"Images/{name}", data) for name, data in some_members(1500, 20_000)])
        self.files["/SHA256SUMS"] = sums(self)
        self.most = self._now = 0
        self._counting = threading.Lock()

    def take_plan(self, path: str) -> Plan:
        with self._counting:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.05)
        with self._counting:
            self._now -= 1
        return super().take_plan(path)


@pytest.mark.parametrize("data", ["austin", "stanford"])
@pytest.mark.parametrize(("options", "most"), [(["--connections", "1"], 1), (["--connections", "3"], 3)])
def test_no_server_gets_more_connections(cli: Cli, tmp_path: Path, data: str, options: list[str], most: int) -> None:
    with CountingServer() as server:
        done = cli("-d", data, "--mirror", server.url, "--to", tmp_path / "out", *options)
        assert (done.returncode, server.most) == (0, most), done.stderr


def test_photos_have_more_connections_by_default(cli: Cli, tmp_path: Path) -> None:
    with CountingServer() as server:
        done = cli("-i", "--mirror", server.url, "--to", tmp_path / "out")
    assert done.returncode == 0 and server.most > 8


# ── bytes a second ───────────────────────────────────────────────────────────────────────────────


def test_all_threads_share_the_bandwidth() -> None:
    bandwidth, start = Bandwidth(1_000_000), time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bandwidth.take, [25_000] * 16))
    assert time.monotonic() - start >= 0.4  # the least that so many bytes may take


@pytest.mark.parametrize(("data", "options"), [("austin", []), ("tsinghua", []), ("stanford", ["--workers", "2"])])
def test_a_run_reads_no_faster_than_it_may(
    cli: Cli, mirror: SourceServer, tmp_path: Path, data: str, options: list[str]
) -> None:
    wanted = {"austin": "/sites", "stanford": "/images.tar", "tsinghua": "/low-resolution.zip"}[data]
    size = sum(len(body) for path, body in mirror.files.items() if path.startswith(wanted))
    start = time.monotonic()
    done = cli("-d", data, "--mirror", mirror.url, "--to", tmp_path / "out", "--bwlimit", "20K", *options)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start >= size / 20 / 1024  # the least that so many bytes may take


def test_a_server_without_ranges_is_read_no_faster_either(cli: Cli, mirror: SourceServer, tmp_path: Path) -> None:
    mirror.plan("/images.tar", Plan(ranges=False))
    start = time.monotonic()
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out", "--bwlimit", "0.02M")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start >= len(mirror.files["/images.tar"]) / 0.02 / 1024**2


@pytest.mark.parametrize(("text", "expected"), [("512K", 524_288), ("20M", 20 << 20), ("1g", 1 << 30), ("1.5K", 1536)])
def test_rates_are_as_rclone_has_them(text: str, expected: int) -> None:
    assert parse(["-a", "--bwlimit", text], {}).bwlimit == expected


@pytest.mark.parametrize("text", ["20", "0K", "20MB", "-1M", "K", "1T"])
def test_a_wrong_rate_is_named(cli: Cli, text: str) -> None:
    done = cli("-a", f"--bwlimit={text}")
    assert done.returncode == 2 and f"expected bytes/s such as 512K, 20M or 1G, got '{text}'" in done.stderr
