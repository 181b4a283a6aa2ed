"""All connections read the same spans, in stripes and in the order of the archive; a compressed tar too."""

from __future__ import annotations

import gzip
import itertools
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from archives.spans import SPAN_BYTES
from errors import SourceError
from pipeline.context import MIN_STRIPE_BYTES, SPARE_UNITS
from pipeline.reading import StreamingBuffer
from support.archives import MB, some_members, tar_of, zip_of
from support.bench import Bench
from support.source_server import Plan, SourceServer

MEMBERS = some_members(200, 60_000)
ARCHIVES = {"a.tar": tar_of(MEMBERS), "a.zip": zip_of(MEMBERS), "a.tar.gz": gzip.compress(tar_of(MEMBERS), 1)}


def ranges(server: SourceServer, path: str) -> list[tuple[int, int]]:
    """Beginning and end of what was asked for, without the looks at what it is."""
    found = (re.fullmatch(r"bytes=(\d+)-(\d+)", each or "") for each in server.ranges(path))
    asked = [(int(each[1]), int(each[2]) + 1) for each in found if each]
    return [(begin, end) for begin, end in asked if end - begin >= MIN_STRIPE_BYTES]


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_slow_source_is_read_in_stripes_each_once(bench: Bench, name: str) -> None:
    dataset = bench.dataset(True, **{name.replace(".", "_"): ARCHIVES[name]})
    bench.server.plan(f"/{name}", Plan(drip=0.004))  # at most 1 MB/s on a connection
    result = bench.extract(dataset)
    assert result.state == "complete" and bench.objects() == dict(MEMBERS)
    asked = ranges(bench.server, f"/{name}")
    assert len(asked) > 2 * len(ARCHIVES[name]) / SPAN_BYTES and max(end - begin for begin, end in asked) < 2 * MB
    assert result.fetched < 1.05 * len(ARCHIVES[name])
    late = (begin for begin, _ in itertools.islice(asked, 8, None))
    assert all(early < much for (early, _), much in zip(asked, late, strict=False))  # in the order of the archive


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_stripe_that_cannot_be_read_ends_the_unit_alone(bench: Bench, name: str) -> None:
    archive = ARCHIVES[name]
    dataset = bench.dataset(True, **{name.replace(".", "_"): archive})
    bench.server.plan_at(f"/{name}", len(archive) // 2, Plan(status=404))
    result = bench.extract(dataset)
    assert result.state == "incomplete" and "404" in result.missing[0].reason
    bench.server.heal()
    assert bench.extract(dataset).state == "complete" and bench.objects() == dict(MEMBERS)


def test_bytes_wait_for_those_before_them() -> None:
    data = os.urandom(1 * MB)
    buffer = StreamingBuffer(len(data))
    stripes = list(iter(lambda: buffer.take(100_000), None))
    assert stripes[0] == (0, 100_000) and stripes[-1][1] == len(data)
    assert [end for _, end in stripes[:-1]] == [begin for begin, _ in stripes[1:]]
    random.Random(3).shuffle(stripes)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: bytes(buffer[:150_000]))
        for begin, end in stripes:
            buffer.fill(begin, (data[at : min(at + 7000, end)] for at in range(begin, end, 7000)))
        assert first.result() == data[:150_000]
    assert bytes(buffer[:]) == data


def test_an_error_comes_after_the_bytes_before_it() -> None:
    def failing() -> Iterator[bytes]:
        yield b"1"
        raise SourceError("gone")

    buffer = StreamingBuffer(300)
    assert [buffer.take(100), buffer.take(100)] == [(0, 100), (100, 200)]
    buffer.fill(100, failing())
    assert buffer.take(100) is None  # nothing more is read
    threading.Timer(0.05, buffer.fill, (0, iter([b"2" * 100]))).start()
    assert bytes(buffer[:101]) == b"2" * 100 + b"1"
    with pytest.raises(SourceError, match="gone"):
        buffer[:102]


def test_fast_sources_are_read_in_whole_spans_and_many_at_a_time(bench: Bench) -> None:
    context = bench.workers.context
    readers = context.config.readers
    found = []
    for rate in (0, 1e6, 10e6, 1e9):
        context.connection_rate, context.started = rate, time.monotonic()
        found.append((context.stripe_bytes(), context.max_spans()))
    assert found == [
        (MIN_STRIPE_BYTES, 1 + SPARE_UNITS), (400_000, 1 + SPARE_UNITS), (4_000_000, 2 + SPARE_UNITS),
        (SPAN_BYTES, readers + SPARE_UNITS),
    ]  # fmt: skip
    context.connection_rate, context.started = 1e6, time.monotonic() - 100
    assert 2_000_000 <= context.stripe_bytes() < 2_100_000  # of a run that lasts a while
