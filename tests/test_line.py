"""On a slow line to the bucket no more is in flight than arrives in time; on a fast one it bounds nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import pytest

from errors import BucketError, MemberError
from gcs import Destination, open_bucket
from storage import object_stores, resumable_upload
from storage.bucket import Bucket
from storage.line import INITIAL_WINDOW_BYTES, MAX_WINDOW_BYTES, Line
from storage.rate_limit import DEFAULT_PATIENCE, MIN_FAILING_WRITES, WriteLimits
from support.fake_gcs import GcsFront
from support.slow_line import SlowLine


@contextmanager
def behind_a_slow_line(
    name: str,
    front: GcsFront,
    speed: int,
    seconds: int,
    patience: float = DEFAULT_PATIENCE,
    dies_after: float = math.inf,
) -> Iterator[Bucket]:
    """A new bucket that is reached with so many bytes/s, so many seconds for a put, and without any progress."""
    with pytest.MonkeyPatch.context() as patch, SlowLine(front.url, speed, dies_after) as line:
        patch.setitem(object_stores.CLIENT, "timeout", timedelta(seconds=seconds))
        patch.setattr(resumable_upload, "STALL_TIMEOUT", seconds)
        patch.setenv("STORAGE_EMULATOR_HOST", line.url)
        there = open_bucket(Destination(f"gs://{name}", limits=WriteLimits(patience=patience)))
        there.ready()
        yield there
        there.close()


def test_large_members_on_a_slow_line_all_arrive(front: GcsFront, bucket: str) -> None:
    """In parallel, each would take 36 seconds, of 28 that a put may take here."""
    with behind_a_slow_line(bucket, front, 1_000_000, 28) as there, ThreadPoolExecutor(36) as pool:
        list(pool.map(lambda number: there.put(f"a/{number}", bytes(1_000_000)), range(36)))
    assert len(front.objects(bucket)) == 36
    assert front.counts["xml.put"] <= 36 + 2


def test_a_large_member_among_many_small_ones_is_sent_in_chunks(front: GcsFront, bucket: str) -> None:
    """It has a twentieth of the line, and 6 seconds at most for a put: its chunks have their own time."""
    with behind_a_slow_line(bucket, front, 500_000, 6) as there, ThreadPoolExecutor(20) as pool:
        small = [pool.submit(there.put, f"a/{number}", bytes(50_000)) for number in range(200)]
        small[40].result()
        there.put("a/large", bytes(3_000_000))
        for each in small:
            each.result()
    assert front.objects(bucket)["a/large"][0] == 3_000_000 and len(front.objects(bucket)) == 201
    assert front.counts["xml.put"] <= 200 + 2


def put_large(there: Bucket, count: int, size: int) -> list[BaseException | None]:
    """What became of so many members of one size, all in parallel."""
    with ThreadPoolExecutor(count) as pool:
        done = [pool.submit(there.put, f"a/{number}", [bytes(1 << 20)] * (size >> 20)) for number in range(count)]
        return [each.exception() for each in done]


def test_several_large_members_on_a_slow_line_take_turns(front: GcsFront, bucket: str) -> None:
    """In parallel, a chunk would take 12 seconds, and 2 without progress are its end here."""
    with behind_a_slow_line(bucket, front, 3_000_000, 2) as there:
        assert put_large(there, 4, 9 << 20) == [None] * 4
    assert [each[0] for each in front.objects(bucket).values()] == [9 << 20] * 4
    assert front.counts["json.chunk"] == 4 * 3  # of 4 MiB, and none is repeated


def test_an_outage_on_a_slow_line_is_waited_for(front: GcsFront, bucket: str) -> None:
    front.fail("json.chunk", 503, times=12)
    with behind_a_slow_line(bucket, front, 20_000_000, 2) as there:
        assert put_large(there, 4, 9 << 20) == [None] * 4


def test_large_members_give_a_bucket_up_that_takes_nothing(front: GcsFront, bucket: str) -> None:
    front.fail("json.chunk", 503, times=10_000)
    with behind_a_slow_line(bucket, front, 50_000_000, 5, patience=3) as there:
        errors = put_large(there, MIN_FAILING_WRITES + 4, 9 << 20)
    assert any(isinstance(each, BucketError) and "(--outage)" in str(each) for each in errors) and None not in errors
    assert not front.objects(bucket)


def test_a_line_that_dies_ends_what_is_on_it(front: GcsFront, bucket: str) -> None:
    with behind_a_slow_line(bucket, front, 10_000_000, 1, patience=2, dies_after=6_000_000) as there:
        (error,) = put_large(there, 1, 9 << 20)
    assert isinstance(error, MemberError) and "timed out" in str(error)


def sent(line: Line, now: list[float], speed: float, sizes: list[int]) -> None:
    for size in sizes:
        with line.sending(size):
            now[0] += size / speed


def test_the_window_follows_the_line() -> None:
    now = [0.0]
    line = Line(lambda: now[0])
    assert line.window == INITIAL_WINDOW_BYTES
    line._in_flight = 1  # it is never idle
    sent(line, now, 300_000, [300_000] * 30)
    assert line.window == pytest.approx(3_000_000, rel=0.1)
    sent(line, now, 500_000_000, [2_000_000] * 2000)
    assert line.window == MAX_WINDOW_BYTES


def test_answers_that_come_together_make_no_line_faster() -> None:
    now = [0.0]
    line = Line(lambda: now[0])
    for _ in range(20):  # as on a machine that is busy for two seconds out of four, at 1 MB/s
        with ExitStack() as together:
            for _ in range(4):
                together.enter_context(line.sending(1_000_000))
            now[0] += 4
    assert line.window <= 10_000_000


def test_one_object_is_always_sent() -> None:
    line = Line()
    line.window = 1
    with line.sending(1 << 20):
        pass


def test_small_objects_do_not_overtake_a_large_one() -> None:
    line, order = Line(), list[int]()
    line.window = 100

    def send(size: int) -> None:
        with line.sending(size):
            order.append(size)

    with ThreadPoolExecutor(3) as pool, line.sending(60):
        for place, size in enumerate((90, 10, 20), 1):  # 10 and 20 would fit beside the 60
            pool.submit(send, size)
            while len(line._turns) < place:
                time.sleep(0.01)
    assert order[0] == 90
