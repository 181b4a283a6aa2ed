"""The rate of writing of whole runs: processes keep to it together, and a bucket that refuses slows them down."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from gcs import Destination, open_bucket
from storage.rate_limit import WriteLimits
from support.archives import some_members, tar_of
from support.fake_gcs import GcsFront
from support.miniature import sums
from support.program import Cli
from support.source_server import SourceServer

INF = float("inf")


def test_a_bucket_of_google_begins_at_1000_and_processes_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from storage.api import ApiBucket

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr("storage.api.credentials_and_origin", anonymous)
    assert [ApiBucket("abc").limiter.rate(), ApiBucket("abc", limits=WriteLimits(writers=4)).limiter.rate()] == [
        1000,
        250,
    ]
    assert ApiBucket("abc", limits=WriteLimits(8000, 2)).limiter.rate() == 4000
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    assert ApiBucket("abc").limiter.rate() == INF


def anonymous(_: str) -> tuple[object, str]:
    from google.auth.credentials import AnonymousCredentials

    return AnonymousCredentials(), "from nowhere"


def test_a_run_into_a_bucket_that_refuses_finishes_and_wastes_little(
    cli: Cli, mirror: SourceServer, front: GcsFront
) -> None:
    members = some_members(1200, 300)
    mirror.files["/images.tar"] = tar_of([(f"Images/{name}", data) for name, data in members])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    front.limit("xml.put", 60)  # below what the slowest machine sends
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", f"gs://{bucket}", "-v", "--write-rate", "150",
               "--uploads", "32", STORAGE_EMULATOR_HOST=front.url)  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Without limiting more than half are refused. How many fewer depends on how evenly the machine lets threads run.
    assert front.puts.total() >= 1200 and front.refused["xml.put"] > 0
    assert front.refused["xml.put"] < 0.3 * front.counts["xml.put"], done.stderr
    assert f"gs://{bucket}: refuses " in done.stderr and "were refused for now (429, 503)" in done.stderr


def test_several_processes_keep_to_the_rate_together(cli: Cli, mirror: SourceServer, front: GcsFront) -> None:
    mirror.files["/images.tar"] = tar_of([(f"Images/{name}", data) for name, data in some_members(200, 120_000)])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", f"gs://test-{uuid.uuid4().hex[:12]}",
               "--workers", "2", "--write-rate", "100", STORAGE_EMULATOR_HOST=front.url)  # fmt: skip
    assert done.returncode == 0, done.stderr
    logged = [line for line in done.stderr.splitlines() if "at most" in line]
    assert len(logged) == 1
    peak = int(logged[0].partition("at most ")[2].split()[0])
    assert 0 < peak <= 150  # a thread that is woken late sends into the next second


def test_several_processes_slow_down_together(cli: Cli, mirror: SourceServer, front: GcsFront) -> None:
    mirror.files["/images.tar"] = tar_of([(f"Images/{name}", data) for name, data in some_members(900, 40_000)])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    front.limit("xml.put", 60)
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", f"gs://test-{uuid.uuid4().hex[:12]}",
               "--workers", "2", "--write-rate", "150", "--uploads", "16", STORAGE_EMULATOR_HOST=front.url)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 0 < front.refused["xml.put"] < 0.3 * front.counts["xml.put"], done.stderr
    assert (
        ": refuses " in done.stderr and "were refused for now (429, 503)" in done.stderr
    )  # of the workers, shown here


def test_a_directory_has_no_limiter(tmp_path: Path) -> None:
    assert open_bucket(Destination(str(tmp_path))).limiter is None
