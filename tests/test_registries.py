"""A kind of archive and a kind of destination of a test's own: one entry each, and the whole job runs with them."""

from __future__ import annotations

import hashlib
import inspect
import io
import itertools
import logging
import re
import struct
import tarfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import google_crc32c
import pytest

import commands
import gcs
from archives import kinds
from archives.archive_kind import ArchiveKind
from archives.spans import Member, Piece, Reader, Span, SpanBoundary
from commands.command_line import parse
from errors import BucketError, UsageError
from gcs import Destination, Scheme, Way
from pipeline import parts
from pipeline.cluster import start_cluster
from sources import sample
from storage.bucket import Bucket, Data, Stored
from support.archives import some_members
from support.bench import Bench, context_of
from support.miniature import expected_objects
from support.source_server import SourceServer

MAGIC, LENGTHS = b"RECORDS\n", struct.Struct(">HI")  # before each record: how long its name is, and its data


class Records(ArchiveKind):
    """Records, one after the other: whole ones make a span, which is continued where an interruption ended it."""

    is_resumable = True

    def recognises(self, reader: Reader, head: bytes) -> bool:
        return head.startswith(MAGIC)

    def plan(self, reader: Reader, span: int, most: int) -> list[Span]:
        cuts = [len(MAGIC)]
        for _, _, end in self._records(reader.read(0, reader.size), cuts[0]):
            if end - cuts[-1] > min(span, 100_000) or end == reader.size:
                cuts.append(end)
        return [Span(self, *ends) for ends in itertools.pairwise(cuts)]

    def members(self, reader: Reader, span: Span, link: SpanBoundary) -> Iterator[Member]:
        data = reader.read(span.start, span.stop)
        for name, begin, end in self._records(data, 0):
            link.end = span.start + end
            yield Member(name, end - begin, span.start + begin, bytes(data[begin:end]))

    def _records(self, data: Piece, at: int) -> Iterator[tuple[str, int, int]]:
        while at < len(data):
            name, size = LENGTHS.unpack(bytes(data[at : at + LENGTHS.size]))
            begin = at + LENGTHS.size + name
            yield bytes(data[at + LENGTHS.size : begin]).decode(), begin, begin + size
            at = begin + size


class Memory(Scheme):
    """mem://name: a dict of this process."""

    ways = (Way("memory", 100_000),)

    def __init__(self) -> None:
        self.buckets = defaultdict[str, dict[str, bytes]](dict)  # by their URL

    def open(self, destination: Destination) -> Bucket:
        return MemoryBucket(destination.to, self.buckets[destination.to])


class MemoryBucket(Bucket):
    def __init__(self, url: str, objects: dict[str, bytes]) -> None:
        self.url, self.objects = url, objects

    def ready(self) -> None:
        """It always is."""

    def put(self, name: str, data: Data, content_type: str = "") -> None:
        self.objects[name] = data if isinstance(data, bytes) else b"".join(data)

    def read(self, name: str) -> Iterator[bytes] | None:
        return iter([self.objects[name]]) if name in self.objects else None

    def list(self, prefix: str, marks: Sequence[str] = ()) -> Iterator[Stored]:
        found = sorted((name, data) for name, data in self.objects.items() if name.startswith(prefix))
        return (Stored(name, len(data), google_crc32c.value(data)) for name, data in found)

    def delete(self, names: Iterable[str]) -> Sequence[str]:
        for name in names:
            self.objects.pop(name, None)
        return ()

    def close(self) -> None:
        """It holds nothing."""


# ── the job ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Both are registered."""
    found = Memory()
    monkeypatch.setattr(kinds, "KINDS", (Records(), *kinds.KINDS))
    monkeypatch.setattr(gcs, "SCHEMES", {**gcs.SCHEMES, "mem://": found})
    return found


def pack(members: Iterable[tuple[str, bytes]]) -> bytes:
    lengths = ((LENGTHS.pack(len(name.encode()), len(data)), name.encode(), data) for name, data in members)
    return MAGIC + b"".join(itertools.chain.from_iterable(lengths))


@pytest.fixture
def mirror_of_records(tmp_path: Path) -> Path:
    """The sample of stanford, whose archives are records; what an archive is its bytes say, and not its name."""
    found = tmp_path / "mirror"
    found.mkdir()
    for name in ("images.tar", "annotation.tar", "lists.tar"):
        with tarfile.open(fileobj=io.BytesIO(sample.sources()[name])) as tar:
            members = [(each.name, file.read()) for each in tar if (file := tar.extractfile(each))]
        (found / name).write_bytes(pack(members))
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in found.glob("*.tar"))
    (found / "SHA256SUMS").write_text("".join(sums))
    return found


@pytest.fixture
def restored_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log that a command starts ends with the test."""
    log = logging.getLogger("spotted")
    for name, value in (("handlers", []), ("level", log.level), ("propagate", log.propagate)):
        monkeypatch.setattr(log, name, value)


def run(*arguments: str) -> int:
    return commands.run(parse(arguments, {}), threading.Event())


@pytest.mark.usefixtures("restored_log")
def test_the_whole_job(memory: Memory, mirror_of_records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = "-d", "stanford", "--mirror", str(mirror_of_records), "--to", "mem://dogs"
    objects = memory.buckets["mem://dogs"]
    assert run(*job, "--check") == 0 and run(*job, "--plan") == 0 and not objects
    said = capsys.readouterr().out
    assert (
        "mem://dogs: exists" in said and "can write, list, read and remove objects" in said and "It takes about" in said
    )

    assert run(*job) == 0
    right = {name: data for name, data in expected_objects().items() if name.startswith("stanford/")}
    stored = {name: data for name, data in objects.items() if name.startswith("stanford/") and data}
    assert stored == right
    assert "_extraction/stanford/card.html" in objects and run(*job, "--verify", "--deep") == 0

    lost, changed = sorted(right)[3::9][:2]
    del objects[lost]
    objects[changed] = b"half"
    assert run(*job, "--verify") == 3
    assert run(*job, "--repair") == 0 and {**objects, **right} == objects
    assert run(*job) == 0 and "complete" in capsys.readouterr().out


class Full(dict[str, bytes]):
    """Takes so many objects, and counts what it took."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.taken = room, Counter[str]()

    def __setitem__(self, name: str, data: bytes) -> None:
        self.room -= 1
        if self.room < 0:
            raise BucketError("mem://full: no room")
        self.taken[name] += 1
        super().__setitem__(name, data)


def test_an_interrupted_span_is_continued(
    memory: Memory, server: SourceServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parts, "MIN_PART_SECONDS", 0)
    monkeypatch.setattr(parts, "PART_SHARE", 0)
    full = memory.buckets["mem://full"] = Full(400)
    destination, members = Destination("mem://full"), some_members(900, 1000)
    with start_cluster(context_of(destination, connections=1)) as workers:
        bench = Bench(server, workers)
        dataset = bench.dataset(a_bin=pack(members))
        with pytest.raises(BucketError, match="no room"):
            bench.extract(dataset)
    assert 100 < len(bench.objects()) < 400 and any(re.search(r"\.\d+\.json", name) for name in full)
    full.room = 10_000
    caplog.set_level(logging.INFO, "spotted")
    with start_cluster(context_of(destination, connections=1)) as workers:
        bench = Bench(server, workers)
        assert bench.extract(dataset).state == "complete"
    assert "continuing: " in caplog.text and "parts of " in caplog.text
    assert bench.objects() == dict(members)
    assert {full.taken[f"mini/{name}"] for name, _ in members} == {1}


def test_a_url_of_no_scheme_is_named_with_those_that_are_known(memory: Memory) -> None:
    with pytest.raises(UsageError, match="expected gs://bucket, mem://bucket or a directory, got 's3://b'"):
        gcs.scheme_of("s3://b")


@pytest.mark.parametrize("one", [(Records,), (Memory, MemoryBucket)])
def test_each_takes_less_than_forty_lines(one: tuple[type, ...]) -> None:
    assert sum(len(inspect.getsource(each).splitlines()) for each in one) < 40
