"""Archives in memory: small ones to read, and what the program's readers and Python's own make of them."""

from __future__ import annotations

import io
import random
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from archives import kinds
from archives.spans import Buffer, Member, SpanBoundary
from errors import MemberError

MB = 1 << 20
SPANS = [512, 1024, 1536, 4096, 1 << 20]


# ── reading an archive as the program does ───────────────────────────────────────────────────────


@dataclass
class Memory:
    """An archive in memory, handed on in chunks of any size; asking for bytes it does not have is an error."""

    data: bytes
    chunk: int = 1000
    name: str = "memory.bin"
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.data)

    def read(self, start: int, stop: int) -> memoryview:
        assert 0 <= start <= stop <= self.size
        return memoryview(self.data)[start:stop]

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        assert 0 <= start <= stop <= self.size
        for at in range(start, stop, self.chunk):
            yield self.data[at : min(at + self.chunk, stop)]


class Got(NamedTuple):
    """A member with all its bytes, or none."""

    name: str
    size: int
    data: bytes | None
    refusal: str = ""
    damaged: bool = False


def taken(member: Member) -> Got:
    try:
        return Got(member.name, member.size, joined(member.data), member.refusal, member.damaged)
    except MemberError as error:
        return Got(member.name, member.size, None, str(error), True)


def joined(data: Buffer | Iterator[bytes] | None) -> bytes | None:
    if data is None or isinstance(data, bytes):
        return data
    return bytes(data) if isinstance(data, memoryview) else b"".join(data)


def extract(data: bytes, span: int = 4096, chunk: int = 1000, seed: int = 0) -> list[Got]:
    """Everything in an archive; its spans are read in an order that `seed` tells, and mended as the chain asks."""
    reader = Memory(data, chunk)
    spans = kinds.plan(reader, span)
    links = [SpanBoundary() for _ in spans]
    found: list[list[Got]] = [[] for _ in spans]

    def read(index: int) -> None:
        links[index] = SpanBoundary()
        found[index] = [taken(member) for member in spans[index].kind.members(reader, spans[index], links[index])]

    for index in random.Random(seed).sample(range(len(spans)), len(spans)):
        read(index)
    repairs = 0
    while broken := spans[0].kind.broken_link(reader.name, spans, links):
        repairs += 1
        assert repairs <= 2 * len(spans), "the chain does not come to an end"
        index, mended = broken
        if mended is None:
            found[index], links[index] = [], SpanBoundary()
        else:
            spans[index] = mended
            read(index)
    return [got for part in found for got in part]


# ── writing archives ─────────────────────────────────────────────────────────────────────────────


class File(NamedTuple):
    """What goes into an archive; a folder when the name ends with "/"."""

    name: str
    data: bytes = b""
    pax: tuple[tuple[str, str], ...] = ()


Pack = Callable[[list[File]], bytes]


def truth(data: bytes) -> list[Got]:
    """What Python's own modules find in a sound archive."""
    found = []
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [Got(info.filename, info.file_size, archive.read(info)) for info in archive.infolist()]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            file = tar.extractfile(info)
            found.append(Got(info.name, info.size, file.read()) if file else Got(info.name + "/", 0, b""))
    return found


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@contextmanager
def frugal(seconds: float = 5, memory: int = 64 << 20) -> Iterator[None]:
    """What is done here must take little CPU time, also where others want the cores, and little memory (bytes)."""
    tracemalloc.start()
    begin = time.thread_time()
    try:
        yield
    finally:
        took, (_, peak) = time.thread_time() - begin, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert took < seconds
    assert peak < memory


def replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zip_of(members: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def some_members(count: int, size: int, seed: int = 1) -> list[tuple[str, bytes]]:
    rng = random.Random(seed)
    return [(f"f{number % 7}/{number}.jpg", rng.randbytes(rng.randint(size // 2, size))) for number in range(count)]
