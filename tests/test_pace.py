"""The pace of writing: what Google allows, halved together on a refusal, and back again. By a clock of its own."""

from __future__ import annotations

import heapq
import random
import uuid
from pathlib import Path

import pytest
from conftest import Cli
from gcs_front import GcsFront
from source_server import SourceServer
from test_cli import sums
from test_extraction import some_members, tar_of

from gcs import Destination, open_bucket
from pace import DOUBLING, LEAST, PAUSE, RECOVERY, START, Pace, Told


class Clock:
    """A clock that goes on only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pace_of(start: float, clock: Clock) -> Pace:
    return Pace("gs://b", start, clock, clock.sleep)


def test_writes_begin_at_what_google_allows_and_double_in_twenty_minutes(clock: Clock) -> None:
    pace = pace_of(START, clock)
    begin = clock.now
    for _ in range(2 * START):
        pace.take()
    assert clock.now - begin == pytest.approx(2, rel=0.01)
    clock.now = begin + DOUBLING
    assert pace.rate() == pytest.approx(2 * START)
    clock.now = begin + 3 * DOUBLING
    assert pace.rate() == pytest.approx(8 * START)


def test_idle_time_is_not_made_up_for(clock: Clock) -> None:
    pace = pace_of(100, clock)
    clock.now += 10
    begin = clock.now
    for _ in range(100):
        pace.take()
    assert clock.now - begin == pytest.approx(1, rel=0.05)


def test_a_refusal_halves_the_rate_once_for_all_that_were_under_way_and_it_comes_back(clock: Clock) -> None:
    pace = pace_of(1000, clock)
    moments = [pace.take() for _ in range(1000)]
    for moment in moments[-50:]:
        pace.refuse(moment)
    cut = clock.now
    assert pace.rate() == pytest.approx(500, rel=0.01)
    assert pace.take() >= cut + PAUSE  # everybody waits
    pace.refuse(pace.take())
    assert pace.rate() == pytest.approx(250, rel=0.5)
    clock.now += RECOVERY
    assert pace.rate() == pytest.approx(500, rel=0.5)
    clock.now += 5 * RECOVERY
    assert pace.rate() == pytest.approx(1000 * 2 ** ((clock.now - 100) / DOUBLING))  # and no more than is allowed
    assert pace.told() == Told(writes=1002, refused=51, peak=1000)


def test_no_limit_until_the_first_refusal(clock: Clock) -> None:
    pace = pace_of(float("inf"), clock)
    begin = clock.now
    moments = [pace.take() for _ in range(5000)]
    assert clock.now == begin
    clock.now += 1
    pace.refuse(moments[-1])
    assert pace.rate() == 2500


def test_it_never_stops_altogether(clock: Clock) -> None:
    pace = pace_of(1000, clock)
    for _ in range(50):
        pace.refuse(pace.take())
    assert pace.rate() >= LEAST


def test_who_waits_when_another_is_refused_waits_anew(clock: Clock) -> None:
    cuts = list[float]()

    def sleep(seconds: float) -> None:
        if not cuts:
            cuts.append(clock.now)
            pace.refuse(first)
        clock.now += seconds

    pace = Pace("gs://b", 10, clock, sleep)
    first = pace.take()
    assert pace.take() >= cuts[0] + PAUSE


@pytest.mark.parametrize("limit", [100, 400, 1000, 3000])
@pytest.mark.parametrize("start", [START, float("inf")])
def test_a_storm_of_refusals_wastes_less_than_a_tenth(limit: int, start: float) -> None:
    """A bucket that takes `limit` writes in each second of the clock, 256 threads, 50 ms a request; no real time."""
    clock, rng = Clock(), random.Random(limit)
    pace = pace_of(start, clock)
    windows: dict[int, int] = {}
    threads = [(clock.now, number) for number in range(256)]  # each with when it is free again
    stored = refused = 0
    begin = clock.now
    while stored < 30 * limit:
        free, number = heapq.heappop(threads)
        clock.now = max(clock.now, free)
        moment = pace.take()
        arrived = int(moment + 0.025)
        windows[arrived] = windows.get(arrived, 0) + 1
        if windows[arrived] <= limit:
            stored, free = stored + 1, moment + 0.05
        else:
            pace.refuse(moment)
            refused, free = refused + 1, moment + 0.05 + rng.uniform(0, 0.5)
        heapq.heappush(threads, (free, number))
    assert refused < 0.1 * (stored + refused)
    assert clock.now - begin < 30 * max(2, limit / START * 1.2)  # at least half of what the bucket takes


# ── with a real bucket ───────────────────────────────────────────────────────────────────────────


def test_a_bucket_of_google_begins_at_1000_and_processes_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from gcs_api import ApiBucket

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr("gcs_api.credentials_and_origin", anonymous)
    assert [ApiBucket("abc").pace.rate(), ApiBucket("abc", None, 4).pace.rate()] == pytest.approx([1000, 250], rel=0.01)
    assert ApiBucket("abc", 8000, 2).pace.rate() == pytest.approx(4000, rel=0.01)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    assert ApiBucket("abc").pace.rate() == float("inf")


def anonymous() -> tuple[object, str]:
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
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", f"gs://{bucket}", "-v", "--write-rate", "600",
               "--uploads", "32", STORAGE_EMULATOR_HOST=front.url)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert front.puts.total() >= 1200 and front.refused["xml.put"] > 0
    assert front.refused["xml.put"] < 0.1 * front.counts["xml.put"], done.stderr
    assert f"gs://{bucket}: refuses " in done.stderr and "were refused for now (429, 503)" in done.stderr


def test_several_processes_keep_to_the_rate_together(cli: Cli, mirror: SourceServer, front: GcsFront) -> None:
    mirror.files["/images.tar"] = tar_of([(f"Images/{name}", data) for name, data in some_members(200, 120_000)])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", f"gs://test-{uuid.uuid4().hex[:12]}",
               "--workers", "2", "--write-rate", "100", STORAGE_EMULATOR_HOST=front.url)  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "at most" in line]
    assert len(told) == 1
    peak = int(told[0].partition("at most ")[2].split()[0])
    assert 0 < peak <= 150  # a thread that is woken late sends into the next second


def test_several_processes_slow_down_together(cli: Cli, mirror: SourceServer, front: GcsFront) -> None:
    mirror.files["/images.tar"] = tar_of([(f"Images/{name}", data) for name, data in some_members(900, 40_000)])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    front.limit("xml.put", 60)
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", f"gs://test-{uuid.uuid4().hex[:12]}",
               "--workers", "2", "--write-rate", "600", "--uploads", "16", STORAGE_EMULATOR_HOST=front.url)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 0 < front.refused["xml.put"] < 0.1 * front.counts["xml.put"], done.stderr
    assert (
        ": refuses " in done.stderr and "were refused for now (429, 503)" in done.stderr
    )  # of the workers, shown here


def test_a_directory_has_no_pace(tmp_path: Path) -> None:
    assert not hasattr(open_bucket(Destination(str(tmp_path))), "pace")
