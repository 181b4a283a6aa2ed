"""The rate of writing: single refusals cost the others nothing, a limit is kept to, an outage waited for."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from pathlib import Path

import pytest

from errors import BucketError
from storage.congestion import MIN_RATE, Congestion
from storage.rate_limit import (
    DEFAULT_PATIENCE,
    INITIAL_RATE,
    MAX_BACKOFF,
    MIN_FAILING_WRITES,
    Failure,
    RateLimiter,
    WriteLimits,
    WriteStats,
    backoff,
    retry_after,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from bucket_rules import DOUBLING, Rules
from rate_simulation import Scene, simulate

INF = float("inf")
PASSING, REFUSED, FINAL = Failure(True, False), Failure(True, True), Failure(False, False)


class Clock:
    """A clock that goes on only when it is slept on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limiter_of(start: float, clock: Clock, writers: int = 1) -> RateLimiter:
    return RateLimiter("gs://b", WriteLimits(start, writers), clock, clock.sleep)


def write(limiter: RateLimiter, clock: Clock, takes: float, is_refused: bool = False) -> None:
    sent = limiter.acquire()
    clock.now += takes
    (limiter.throttled if is_refused else limiter.delivered)(sent)


# ── one process, one thread ──────────────────────────────────────────────────────────────────────


def test_writes_begin_at_what_google_allows(clock: Clock) -> None:
    limiter, begin = limiter_of(INITIAL_RATE, clock), clock.now
    for _ in range(2 * INITIAL_RATE):
        limiter.acquire()
    assert clock.now - begin == pytest.approx(2, rel=0.01)
    assert limiter.rate() == INITIAL_RATE  # nothing has been answered


def test_idle_time_is_not_made_up_for(clock: Clock) -> None:
    limiter = limiter_of(100, clock)
    clock.now += 10
    begin = clock.now
    for _ in range(100):
        limiter.acquire()
    assert clock.now - begin == pytest.approx(1, rel=0.05)


def test_what_is_not_used_does_not_grow(clock: Clock) -> None:
    limiter = limiter_of(INITIAL_RATE, clock)
    for _ in range(2000):
        write(limiter, clock, 0.01)  # 100 a second
    assert limiter.rate() == INITIAL_RATE


def test_a_rate_that_is_used_grows_beyond_googles_ramp_but_at_most_by_two_thirds_in_three_seconds(clock: Clock) -> None:
    limiter, rates = limiter_of(INITIAL_RATE, clock), list[float]()
    for second in range(20):
        while clock.now < 101 + second:
            limiter.delivered(limiter.acquire())
        rates.append(limiter.rate())
    assert rates[-1] > 3 * INITIAL_RATE
    assert all(later <= 1.67 * earlier for earlier, later in zip(rates, rates[3:], strict=False))


def test_beyond_what_is_documented_it_grows_no_more_when_answers_take_longer() -> None:
    rates = list[float]()
    for slower in (1.0, 10.0):
        control, now = Congestion(INITIAL_RATE, 1, 0.0), 0.0
        while now < 20:
            now = control.reserve(now).moment
            control.sent(now)
            control.delivered(now - 0.05 * (slower if now > 5 and control.rate > 1.2 * INITIAL_RATE else 1), now)
        rates.append(control.rate)
    assert rates[0] > 2 * rates[1] > 2 * INITIAL_RATE


@pytest.mark.parametrize("share", [0.0005, 0.005, 0.015])
def test_refusals_at_random_change_nothing(clock: Clock, share: float) -> None:
    limiter = limiter_of(INF, clock)
    for number in range(20_000):
        write(limiter, clock, 0.001, number % round(1 / share) == 0)
    assert limiter.rate() == INF


def test_a_share_of_refusals_cuts_to_just_under_what_was_delivered(clock: Clock) -> None:
    limiter = limiter_of(1000, clock)
    for number in range(1000):
        write(limiter, clock, 0.001, number > 500 and number % 4 == 0)
    assert 600 < limiter.rate() < 0.98 * 1000
    assert limiter.stats() == WriteStats(1000, limiter.stats().peak, 124)


def test_cuts_that_change_nothing_are_undone(clock: Clock) -> None:
    """A bucket without a limit that refuses 6 % of any request."""
    limiter, lowest = limiter_of(2000, clock), 2000.0
    for number in range(60_000):
        write(limiter, clock, 0.0, number % 17 == 0)
        lowest = min(lowest, limiter.rate())
    assert 500 < lowest < 0.95 * 2000 <= limiter.rate()


def test_it_never_stops_altogether(clock: Clock) -> None:
    limiter = limiter_of(1000, clock)
    for number in range(3000):
        write(limiter, clock, 0.001, number % 10 > 0)
    assert limiter.rate() >= MIN_RATE


def test_a_machine_that_slept_tries_again(clock: Clock) -> None:
    """A put that was under way for longer than all tries may take is tried again all the same."""
    tries = list[float]()

    def write() -> None:
        tries.append(clock.now)
        if len(tries) == 1:
            clock.now += 10 * DEFAULT_PATIENCE
            raise TimeoutError

    limiter_of(1000, clock).run(write, lambda _: PASSING)
    assert len(tries) == 2


def test_a_bucket_that_takes_no_writes_is_given_up(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    limiter = limiter_of(1000, clock)

    def write() -> None:
        raise OSError("no route")

    for _ in range(MIN_FAILING_WRITES - 1):
        with pytest.raises(OSError, match="no route"):
            limiter.run(write, lambda error: PASSING._replace(reason=str(error)))
    with pytest.raises(BucketError, match="took no writes for"):
        limiter.run(write, lambda error: PASSING._replace(reason=str(error)))
    assert f"gs://b: writes fail: no route; trying for {DEFAULT_PATIENCE} s" in [
        each.message for each in caplog.records
    ]


def test_an_outage_is_probed_and_then_it_goes_on_as_before(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    limiter, sent = limiter_of(1000, clock), 0
    caplog.set_level(logging.INFO, "spotted")
    for _ in range(3000):
        write(limiter, clock, 0.0)
    before, begin = limiter.rate(), clock.now
    while clock.now < begin + 30:
        write(limiter, clock, 0.0, is_refused=True)
        sent += clock.now > begin + 2
    assert sent <= 60  # at most two a second, once it is known
    for _ in range(100):
        write(limiter, clock, 0.0)
    assert limiter.rate() == pytest.approx(before, rel=0.2) and clock.now < begin + 32
    said = [(record.levelname, record.message) for record in caplog.records]
    assert ("WARNING", f"gs://b: refuses all writes (429, 503); waiting for up to {DEFAULT_PATIENCE} s") in said
    assert sum(level == "WARNING" for level, _ in said) == 1 and any(
        "takes writes again, after" in it for _, it in said
    )


@pytest.mark.parametrize("seconds", [1.99, 2.99, 3.99, 4.99, 5.99])
def test_after_an_outage_no_rate_comes_back_that_the_bucket_took_for_part_of_a_second_only(seconds: float) -> None:
    """It takes 60 in each second of its clock: the first of them are no proof of 150/s."""
    control, now, took = Congestion(150, 1, 0.0), 0.0, Counter[int]()
    outage = range(int(seconds * 100), int(seconds * 100) + 200)
    while now < seconds + 2 or control.outage_since is not None:
        grant = control.reserve(now)
        now = max(now, grant.moment)
        if not grant.may_send:
            continue
        control.sent(now)
        if took[int(now)] < 60 and int(now * 100) not in outage:
            took[int(now)] += 1
            control.delivered(now, now + 0.02)
        else:
            control.throttled(now, now + 0.02)
    assert control.rate < 75


def test_who_waits_for_a_slow_rate_goes_on_when_it_rises() -> None:
    control = Congestion(1000, 1, 0.0)
    far = [control.reserve(0.0) for _ in range(10_000)][-1]
    assert far.moment == pytest.approx(10, rel=0.01) and far.version == control.version
    for number in range(80):
        (control.throttled if number % 2 else control.delivered)(0.0, 0.1 + number / 1000)
    assert far.version != control.version  # it asks again


# ── repeating ────────────────────────────────────────────────────────────────────────────────────


class Writes:
    """Writes that fail as planned, one after the other, then succeed."""

    def __init__(self, *failures: Failure) -> None:
        self.failures, self.count = list(failures), 0

    def __call__(self) -> int:
        self.count += 1
        if self.failures:
            raise RuntimeError(self.count)
        return self.count

    def judge(self, error: Exception) -> Failure:
        return self.failures.pop(0)


def test_a_passing_failure_is_repeated_soon(clock: Clock) -> None:
    limiter, writes, begin = limiter_of(INF, clock), Writes(REFUSED, PASSING), clock.now
    assert limiter.run(writes, writes.judge) == 3
    assert clock.now - begin < 0.5 and limiter.stats() == WriteStats(3, 3, 1)


def test_a_final_failure_is_not_repeated(clock: Clock) -> None:
    limiter, writes = limiter_of(INF, clock), Writes(FINAL)
    with pytest.raises(RuntimeError):
        limiter.run(writes, writes.judge)
    assert writes.count == 1


def test_retry_after_is_waited_for(clock: Clock) -> None:
    limiter, writes, begin = limiter_of(INF, clock), Writes(REFUSED._replace(retry_after=7)), clock.now
    limiter.run(writes, writes.judge)
    assert clock.now - begin >= 7


def test_it_ends_in_time(clock: Clock) -> None:
    limiter, writes, begin = limiter_of(INF, clock), Writes(*[REFUSED] * 10_000), clock.now
    with pytest.raises(RuntimeError):
        limiter.run(writes, writes.judge)
    assert DEFAULT_PATIENCE - 2 * MAX_BACKOFF < clock.now - begin <= DEFAULT_PATIENCE


def test_a_write_that_fails_alone_is_in_the_log_before_it_is_given_up(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = limiter_of(INF, clock)

    def write() -> None:
        limiter.delivered(limiter.acquire())  # another write succeeds
        raise OSError("no route")

    with pytest.raises(OSError, match="no route"):
        limiter.run(write, lambda error: PASSING._replace(reason=str(error)))
    assert [each.message for each in caplog.records] == [
        f"gs://b: writes fail: no route; trying for {DEFAULT_PATIENCE} s"
    ]


def test_waiting_is_random_and_bounded() -> None:
    waits = [[backoff(tries) for _ in range(200)] for tries in (0, 3, 50, 5000)]
    assert [max(each) <= most for each, most in zip(waits, (0.1, 0.8, 5, 5), strict=True)] == [True] * 4
    assert all(max(each) > 2 * min(each) for each in waits)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("Fri, 28 Nov 2026 07:00:00 GMT", 0.0), (None, 0.0)]
)
def test_what_retry_after_says(header: str | None, seconds: float) -> None:
    import requests

    response = requests.Response()
    if header is not None:
        response.headers["retry-after"] = header
    assert retry_after(response) == seconds
    assert retry_after(None) == 0.0


# ── simulated: benchmarks/rate_simulation.py has all of it ───────────────────────────────────────


@pytest.mark.parametrize(
    ("scene", "share", "refused"),
    [
        (Scene("1 % at random", Rules(failing=0.01), 10, threads=64, start=INF), 0.95, 0.0),
        (Scene("3 % at random", Rules(failing=0.03), 60, threads=64, start=INF), 0.9, 0.0),
        (Scene("growing", Rules(300, DOUBLING), 30, threads=64, start=300), 0.95, 0.05),
        (Scene("far above the limit", Rules(100), 90, threads=64, start=1000), 0.95, 0.05),
        (Scene("without a limit at first", Rules(100), 90, threads=64, start=INF), 0.95, 0.05),
        (Scene("half", Rules(400, halved=15), 30, threads=64, start=400), 0.95, 0.05),
        (Scene("an outage", Rules(400, outage=(5, 25)), 40, threads=64, start=400), 0.9, 0.05),
        (Scene("four processes", Rules(400), 30, 4, 32, start=400), 0.95, 0.05),
        (Scene("three end early", Rules(400), 30, 4, 32, start=400, ends=10), 0.9, 0.05),
        (Scene("15 end early, from cold", Rules(800), 60, 16, 64, start=400, ends=20), 0.9, 0.05),
        (Scene("all of 3,000 objects", Rules(300), threads=64, start=300, objects=3000), 0.9, 0.05),
        (Scene("Retry-After", Rules(300, retry_after=1), 30, threads=64, start=300), 0.95, 0.05),
        (
            Scene("an outage, Retry-After", Rules(400, outage=(5, 25), retry_after=2), 40, threads=64, start=400),
            0.9,
            0.05,
        ),
    ],
    ids=lambda it: it.title if isinstance(it, Scene) else "",
)
def test_simulated(scene: Scene, share: float, refused: float) -> None:
    found = simulate(scene)
    assert found.share >= share and found.refused <= refused and found.recovery <= 5


def test_a_simulation_is_the_same_each_time() -> None:
    scene = Scene("", Rules(200), 5, threads=32)
    assert simulate(scene) == simulate(scene)
