"""One contract for all kinds of archive, with Python's own tarfile and zipfile as the judges."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import re
import stat
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archives import compressed_tar, kinds, spans, tar
from archives import zip as zip_archive
from archives.spans import Buffer, Member, SpanBoundary
from archives.tar import broken_link
from errors import ArchiveError, MemberError

BLOCK = 512
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
        return Got(member.name, member.size, outer_join(member.data), member.refusal, member.damaged)
    except MemberError as error:
        return Got(member.name, member.size, None, str(error), True)


def outer_join(data: Buffer | Iterator[bytes] | None) -> bytes | None:
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
        found[index] = [taken(member) for member in kinds.members(reader, spans[index], links[index])]

    for index in random.Random(seed).sample(range(len(spans)), len(spans)):
        read(index)
    repairs = 0
    while spans[0].kind == "tar" and (broken := broken_link(reader.name, spans, links)):
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


def block(
    name: bytes, size: int | bytes = 0, kind: bytes = b"0", *, magic: bytes = b"ustar\x0000", rest: bytes = b""
) -> bytes:
    """A tar header with a right checksum, whatever its fields say; `size` as bytes is put in as it is."""
    size = b"%011o\0" % size if isinstance(size, int) else size
    head = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size + b"00000000000\0" + b" " * 8 + kind
    head = (head + bytes(100) + magic.ljust(8, b"\0") + rest).ljust(BLOCK, b"\0")
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


END = bytes(2 * BLOCK)


def pack_tar(kind: int, pax: dict[str, str] | None = None) -> Pack:
    def pack(files: list[File]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind, pax_headers=pax) as archive:
            for file in files:
                info = tarfile.TarInfo(file.name)
                info.size, info.pax_headers = len(file.data), dict(file.pax)
                info.type = tarfile.DIRTYPE if file.name.endswith("/") else tarfile.REGTYPE
                archive.addfile(info, io.BytesIO(file.data))
        return out.getvalue()

    return pack


def pack_v7(files: list[File]) -> bytes:
    """Version 7 Unix: no magic, and a folder is a name that ends with a slash."""
    parts = [block(file.name.encode(), len(file.data), b"\0", magic=b"") + padded(file.data) for file in files]
    return b"".join(parts) + END


def pack_compressed(compress: Callable[[bytes], bytes]) -> Pack:
    return lambda files: compress(pack_tar(tarfile.GNU_FORMAT)(files))


class _Pipe(io.BytesIO):
    """Output that cannot be sought: zipfile writes data descriptors after the members."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: object) -> int:
        raise io.UnsupportedOperation

    tell = seek


class _Cp437Info(zipfile.ZipInfo):
    """A name as DOS wrote it, without the flag for UTF-8."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802  # the name is zipfile's
        return self.filename.encode("cp437"), self.flag_bits & ~0x800


def pack_zip(
    method: int = zipfile.ZIP_DEFLATED,
    *,
    out: type[io.BytesIO] = io.BytesIO,
    info: type[zipfile.ZipInfo] = zipfile.ZipInfo,
    limit: int = zipfile.ZIP64_LIMIT,
    comment: bytes = b"",
) -> Pack:
    def pack(files: list[File]) -> bytes:
        target = out()
        with pytest.MonkeyPatch.context() as patch, zipfile.ZipFile(target, "w") as archive:
            patch.setattr(zipfile, "ZIP64_LIMIT", limit)
            archive.comment = comment
            for file in files:
                entry = info(file.name)
                entry.compress_type = zipfile.ZIP_STORED if entry.is_dir() else method
                entry.comment = comment
                with archive.open(entry, "w", force_zip64=limit < 1000) as member:
                    member.write(file.data)
            archive.close()
        return target.getvalue()

    return pack


class Kind(NamedTuple):
    """A kind of archive: how it is written, and what its names are made of."""

    pack: Pack
    letters: str = "ab/. -_é漢ß"
    longest: int = 24


KINDS = {
    "v7": Kind(pack_v7),
    "ustar": Kind(pack_tar(tarfile.USTAR_FORMAT)),
    "gnu": Kind(pack_tar(tarfile.GNU_FORMAT), longest=300),
    "pax": Kind(pack_tar(tarfile.PAX_FORMAT), longest=300),
    "pax-global": Kind(pack_tar(tarfile.PAX_FORMAT, {"comment": "x" * 700, "mtime": "1.5"}), longest=300),
    "tar.gz": Kind(pack_compressed(gzip.compress)),
    "tar.bz2": Kind(pack_compressed(bz2.compress)),
    "tar.xz": Kind(pack_compressed(lzma.compress)),
    "zip-stored": Kind(pack_zip(zipfile.ZIP_STORED)),
    "zip-deflated": Kind(pack_zip()),
    "zip-descriptors": Kind(pack_zip(out=_Pipe)),
    "zip-zip64": Kind(pack_zip(limit=100)),
    "zip-cp437": Kind(pack_zip(info=_Cp437Info), letters="ab/. -_éä"),
    "zip-comment": Kind(pack_zip(zipfile.ZIP_STORED, comment=b"a comment")),
    "zip-after-junk": Kind(lambda files: b"#!/bin/sh\nexit\n" * 99 + pack_zip()(files)),
}
PLAIN = [KINDS[name].pack for name in ("v7", "ustar", "gnu", "pax", "pax-global")]
TARS = ["v7", "ustar", "gnu", "pax", "pax-global"]
COMPRESSED = ["tar.gz", "tar.bz2", "tar.xz"]
ZIPS = [name for name in KINDS if name.startswith("zip")]


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


SIZES = st.one_of(st.sampled_from([0, 1, 511, 512, 513, 1024, 4096, 9000]), st.integers(0, 3000))
INNER = pack_tar(tarfile.GNU_FORMAT)([File("inner/a", b"a" * 700), File("inner/b" * 30, b"b" * 100), File("inner/c")])
DATA = st.one_of(
    st.builds(lambda size, seed: random.Random(seed).randbytes(size), SIZES, st.integers(0, 9)),
    SIZES.map(bytes),
    st.sampled_from([INNER, padded(INNER[: 2 * BLOCK]) + END]),
)


def files(kind: Kind) -> st.SearchStrategy[list[File]]:
    names = st.text(kind.letters, min_size=1, max_size=kind.longest).filter(
        lambda name: (
            not name.startswith("/") and "//" not in name and len(name.encode()) <= (900, 99)[kind.longest < 99]
        )
    )
    pax = st.sampled_from([(), (("comment", "y" * 600),), (("mtime", "3.25"), ("SCHILY.xattr.user.a", "é"))])
    file = st.builds(lambda name, data, pax: File(name, b"" if name[-1] == "/" else data, pax), names, DATA, pax)
    return st.lists(file, min_size=1, max_size=8, unique_by=lambda file: file.name.rstrip("/"))


# ── the contract ─────────────────────────────────────────────────────────────────────────────────

SOUND = [
    File("a/"),
    File("a/empty"),
    File("a/short", b"short"),
    File("a/é", bytes(range(256)) * 2),
    File("a/zeros", bytes(2000)),
    File("b/long", random.Random(3).randbytes(5000)),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.mark.parametrize("name", KINDS)
def test_spans_yield_what_is_in_the_archive(name: str) -> None:
    @settings(max_examples=40, deadline=None)
    @given(data=st.data(), span=st.sampled_from(SPANS), seed=st.integers(0, 5))
    def holds(data: st.DataObject, span: int, seed: int) -> None:
        packed = KINDS[name].pack(data.draw(files(KINDS[name])))
        assert extract(packed, span, seed=seed) == truth(packed)

    holds()


@pytest.mark.parametrize("chunk", [1, 7, 65536])
def test_chunks_may_have_any_size(kind: Kind, chunk: int) -> None:
    packed = kind.pack(SOUND)
    assert (
        extract(packed, 1024, chunk) == truth(packed) == [Got(file.name, len(file.data), file.data) for file in SOUND]
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything above 600 bytes is a large member, and comes in chunks of 100."""
    for module in (spans, tar, compressed_tar, zip_archive):
        for name, value in {"SPAN": 600, "LARGE": 600, "CHUNK": 100}.items():
            monkeypatch.setattr(module, name, value, raising=False)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("chunk", [1, 7, 65536])
def test_large_members_come_in_chunks(kind: Kind, chunk: int) -> None:
    packed = kind.pack(SOUND)
    assert extract(packed, 512, chunk) == truth(packed)
    reader = Memory(packed, chunk)
    for span in kinds.plan(reader, 512):
        for member in kinds.members(reader, span, SpanBoundary()):
            assert isinstance(member.data, Buffer) == (member.size <= 600)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", TARS + COMPRESSED)  # of a zip, a large member is alone in its span
def test_large_members_need_not_be_taken(name: str) -> None:
    reader = Memory(KINDS[name].pack(SOUND))
    spans = kinds.plan(reader, 1 << 20)
    names = [member.name for span in spans for member in kinds.members(reader, span, SpanBoundary())]
    assert names == [file.name for file in SOUND]


def test_an_archive_of_folders(kind: Kind) -> None:
    assert extract(kind.pack([File("a/"), File("a/b/")])) == [Got("a/", 0, b""), Got("a/b/", 0, b"")]


@pytest.mark.parametrize("name", KINDS)
def test_an_empty_archive(name: str) -> None:
    assert extract(KINDS[name].pack([])) == []


def test_a_cut_off_archive(kind: Kind) -> None:
    """What is left of a tar that is cut off between two members is a whole tar: no byte of them is missing."""
    packed = kind.pack(SOUND)
    right, whole = truth(packed), ends(packed) if kind.pack in PLAIN else set()
    for length in {*range(0, needed(packed), 97), *range(0, needed(packed), BLOCK), needed(packed) - 1}:
        if length in whole:
            assert extract(packed[:length], 1024) == right[: len(extract(packed[:length], 1 << 20))] != []
            continue
        with pytest.raises(ArchiveError, match=r"memory\.bin"):
            extract(packed[:length], 1024)


def ends(packed: bytes) -> set[int]:
    """The lengths to which a tar can be cut so that each of its members is whole or not there at all."""
    found = set[int]()
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for info in tar:
            end = info.offset_data + info.size
            found |= {*range(end, -(-end // BLOCK) * BLOCK + 1)}
    return found | {*range(max(found), needed(packed))}


def needed(packed: bytes) -> int:
    """How many bytes an archive cannot do without: a zip's comment and a tar's padding can be missing."""
    if b"PK\5\6" in packed:
        return packed.rindex(b"PK\5\6") + 22
    if packed.endswith(END):
        return (len(packed.rstrip(b"\0")) // BLOCK + 2) * BLOCK
    return len(packed)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"GIF89a" * 99, random.Random(4).randbytes(3000), b"\n" * 512, b"PK" * 300]
)
def test_neither_tar_nor_zip(data: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"memory\.bin: expected a tar or zip archive"):
        extract(data)


# ── tar: the chain of spans ──────────────────────────────────────────────────────────────────────


def member(name: str, data: bytes = b"") -> bytes:
    return block(name.encode(), len(data)) + padded(data)


def extended(kind: bytes, data: bytes) -> bytes:
    """An extended header: of a long name (L), of one member (x), or of all that follow (g)."""
    return block(b"././@LongLink", len(data), kind) + padded(data)


def record(key: str, value: str) -> bytes:
    """A pax record, which begins with its own length."""
    tail = f" {key}={value}\n".encode()
    size = next(size for size in range(len(tail), len(tail) + 9) if len(b"%d" % size) + len(tail) == size)
    return b"%d" % size + tail


INNER_HUGE = block(b"inner/huge", b"\x80\0\0\0\x7f" + b"\xff" * 7)
FALSE_STARTS = {
    "a tar": KINDS["gnu"].pack([File(f"inner/{i}", bytes([i]) * 700) for i in range(9)]),
    "a tar with long names": KINDS["gnu"].pack([File(f"inner/{i}" * 60, bytes(600)) for i in range(9)]),
    "a tar with pax headers": KINDS["pax-global"].pack([File(f"inner/{i}" * 60, bytes(600)) for i in range(9)]),
    "a cut-off tar": member("inner/a", bytes(700))[:-BLOCK],
    "a tar without end": member("inner/a", bytes(700)) * 2,
    "a header, then noise": block(b"inner/a") + random.Random(5).randbytes(2000),
    "a header of a huge member": INNER_HUGE,
    "a header of a negative size": block(b"inner/a", b"\xff" * 12),
    "a header of a huge name": block(b"inner/a", 1 << 30, b"L") + bytes(2000),
    "a pax header with nonsense": extended(b"x", b"0 path=a\n") + block(b"inner/a"),
    "the first half of a long name": extended(b"L", b"inner/a" * 100)[:BLOCK],
    "an end-of-archive block": bytes(4 * BLOCK),
}


@pytest.mark.parametrize("span", [512, 1024, 1536])
@pytest.mark.parametrize("name", FALSE_STARTS)
def test_a_member_that_looks_like_headers(name: str, span: int) -> None:
    sound = [File("before", b"b" * 300), File("inner.tar", FALSE_STARTS[name]), File("after", b"a" * 1300)]
    assert extract(KINDS["ustar"].pack(sound), span) == [Got(file.name, len(file.data), file.data) for file in sound]


def test_a_false_start_is_seen_only_by_the_chain() -> None:
    reader = Memory(KINDS["ustar"].pack([File("inner.tar", FALSE_STARTS["a tar"]), File("after")]))
    spans, links = kinds.plan(reader, 1024), list[SpanBoundary]()
    for span in spans:
        links.append(SpanBoundary())
        found = [taken(got) for got in kinds.members(reader, span, links[-1])]
        if span.start == 2048:
            assert found[0].name == "inner/1"
    broken = broken_link(reader.name, spans, links)
    assert broken == (2, None)


@pytest.mark.parametrize("span", SPANS)
def test_global_headers_reach_every_span(span: int) -> None:
    name = extended(b"g", record("path", "renamed") + record("comment", "c"))
    packed = member("a", b"1") + name + member("b", b"2") + member("c", bytes(3000)) + member("d") + END
    assert [got.name for got in extract(packed, span)] == ["a", "renamed", "renamed", "renamed"]
    assert extract(packed, span) == truth(packed)


def test_the_last_spans_of_a_long_tar_are_half_as_long() -> None:
    files = [File(f"{number:02}", bytes([number]) * 1000) for number in range(26)]
    packed = KINDS["ustar"].pack(files)[: 26 * 3 * BLOCK] + END  # 80 blocks, without what fills up tarfile's record
    cuts = [(span.start, span.stop) for span in kinds.plan(Memory(packed), 2 * BLOCK)]
    lengths = [(stop - start) // BLOCK for start, stop in cuts]
    assert lengths == [2] * (40 - kinds.LAST) + [1] * (2 * kinds.LAST)
    assert [start for start, _ in cuts[1:]] == [stop for _, stop in cuts[:-1]]
    assert extract(packed, 2 * BLOCK) == truth(packed)


@pytest.mark.parametrize("span", SPANS)
def test_every_bit_of_a_header_counts(span: int) -> None:
    sound = [File("a", b"1" * 600), File("b", b"2" * 600), File("c", b"3" * 600)]
    packed = KINDS["ustar"].pack(sound)
    right = truth(packed)
    at = 3 * BLOCK  # the header of b; tarfile takes it for the archive's end when it is damaged
    reasons = []
    for bit in range(0, 8 * BLOCK, 3):
        try:
            found = extract(flipped(packed, 8 * at + bit), span)
        except ArchiveError as error:
            reasons.append(str(error))
        else:
            assert found == right
            assert bit // 8 in range(148, 156)  # the checksum itself, written in another way
    assert reasons
    assert all(re.search(r"memory\.bin: .* at byte 1,?536", reason) for reason in reasons)


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("name", TARS)
def test_a_tar_without_its_end(name: str, span: int, caplog: pytest.LogCaptureFixture) -> None:
    """Neither GNU tar nor bsdtar asks for it, and no member is missing."""
    packed = KINDS[name].pack(SOUND)
    right = truth(packed)
    whole = packed[: needed(packed) - BLOCK]
    assert extract(whole + bytes(BLOCK), span) == right
    assert not caplog.text
    for rest in (b"", bytes(100)):
        assert extract(whole + rest, span) == right
    assert "without blocks of zeros; every member is whole" in caplog.text


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(
    "rest",
    [
        random.Random(6).randbytes(3000),
        b"x",
        KINDS["gnu"].pack([File("second/a", bytes(3000)), File("second/b")]),
        member("second/a", bytes(3000))[:-BLOCK],
        member("second/a") + random.Random(7).randbytes(3000),
        extended(b"L", b"second"),
        bytes(20 * BLOCK),
    ],
    ids=["noise", "one byte", "a tar", "a cut-off tar", "a broken tar", "half a header", "zeros"],
)
def test_what_follows_the_end_is_no_member(rest: bytes, span: int) -> None:
    packed = KINDS["gnu"].pack(SOUND)
    right = truth(packed)
    assert extract(packed[: needed(packed) + BLOCK] + rest, span) == right


def test_two_members_of_one_name() -> None:
    packed = member("a", b"1") + member("a", b"2") + END
    assert [got.data for got in extract(packed, 512)] == [b"1", b"2"]


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compressed_file_that_is_no_tar(name: str) -> None:
    kinds: dict[str, Callable[[bytes], bytes]] = {
        "tar.gz": gzip.compress,
        "tar.bz2": bz2.compress,
        "tar.xz": lzma.compress,
    }
    for data in (b"", b"just a text", random.Random(8).randbytes(3000)):
        with pytest.raises(ArchiveError, match=r"memory\.bin"):
            extract(kinds[name](data))


@pytest.mark.parametrize("name", COMPRESSED)
def test_bits_flipped_in_a_compressed_tar(name: str) -> None:
    packed = KINDS[name].pack([File("a", random.Random(9).randbytes(300)), File("b", b"b" * 900)])
    right = truth(packed)
    passed = 0
    for bit in range(0, 8 * len(packed), 5):
        try:
            assert extract(flipped(packed, bit)) == right
            passed += 1
        except ArchiveError:
            pass
    assert passed < 30  # gzip's header has a time and a system, which mean nothing here


# ── tar: what is refused, and attacks ────────────────────────────────────────────────────────────

SPARSE = bytes(121) + b"00000000000\0" + b"00000000005\0" + bytes(72)  # of a GNU header, from byte 265 on
SPARSE_1_0 = [
    ("GNU.sparse.major", "1"),
    ("GNU.sparse.minor", "0"),
    ("GNU.sparse.name", "s"),
    ("GNU.sparse.realsize", "9"),
]
HOLES = "a sparse file: its holes would have to be written out"
REFUSED = {
    "symbolic link": ("a symbolic link to ''", block(b"s", 0, b"2")),
    "hard link": ("a hard link to ''", block(b"s", 0, b"1")),
    "character device": ("a device or pipe", block(b"s", 0, b"3")),
    "block device": ("a device or pipe", block(b"s", 0, b"4")),
    "pipe": ("a device or pipe", block(b"s", 0, b"6")),
    "unknown type": ("of unknown tar type b'Q'", block(b"s", 600, b"Q") + bytes(1024)),
    "GNU sparse": (
        HOLES,
        block(b"s", 5, b"S", magic=b"ustar  ", rest=SPARSE + b"\x0000000001000\0") + padded(b"hello"),
    ),
    "pax sparse 0.1": (
        HOLES,
        extended(b"x", record("GNU.sparse.map", "0,5") + record("GNU.sparse.size", "9")) + member("s", b"hello"),
    ),
    "pax sparse map of nonsense": (HOLES, extended(b"x", record("GNU.sparse.map", "0,x")) + member("s")),
    "pax sparse map of a billion": (
        HOLES,
        extended(b"x", b"".join(record(*pair) for pair in SPARSE_1_0)) + member("s", b"999999999\n" * 99),
    ),
    "star's and Solaris' sparse": (HOLES, extended(b"x", record("SUN.holesdata", " 0 5")) + member("s", b"hello")),
    "the rest of a file": (
        "the rest of a file that begins in another volume of the archive",
        block(b"s", 600, b"M", magic=b"ustar  ") + bytes(1024),
    ),
    "pax sparse 1.0": (
        HOLES,
        extended(b"x", b"".join(record(*pair) for pair in SPARSE_1_0)) + member("s", padded(b"1\n0\n5\n") + b"hello"),
    ),
}


@pytest.mark.parametrize("span", [512, 1 << 20])
@pytest.mark.parametrize(("reason", "entry"), REFUSED.values(), ids=REFUSED)
def test_what_a_tar_may_hold_and_we_do_not_store(reason: str, entry: bytes, span: int) -> None:
    before, refused, after = extract(member("a", b"1") + entry + member("b", b"2") + END, span)
    assert (before, after) == (Got("a", 1, b"1"), Got("b", 1, b"2"))
    assert (refused.name, refused.data, refused.refusal, refused.damaged) == ("s", None, reason, False)


@contextmanager
def frugal(seconds: float = 5, memory: int = 64 << 20) -> Iterator[None]:
    """What is done here must be done in little CPU time, whoever else wants the cores, and in little memory (bytes)."""
    tracemalloc.start()
    begin = time.thread_time()
    try:
        yield
    finally:
        took, (_, peak) = time.thread_time() - begin, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert took < seconds
    assert peak < memory


NEGATIVE, HUGE = (
    b"\xff" * 10 + b"\xfc\0",
    b"\x80\0\0\0\x7f" + b"\xff" * 7,
)  # -1024, and 2^63 - 1: binary numbers, as GNU has them
ATTACKS = {
    "negative size": block(b"a", NEGATIVE),
    "huge size": block(b"a", HUGE),
    "huge size beside a small pax size": extended(b"x", record("size", "9" * 18)) + member("a"),
    "negative pax size": extended(b"x", record("size", "-1024")) + member("a"),
    "pax size of 5,000 digits": extended(b"x", record("a", "b") + b"9" * 5000 + b" size=1\n") + member("a"),
    "pax record of no length": extended(b"x", b"0 path=a\n") + member("a"),
    "sparse map that goes on after the end": block(
        b"a", 0, b"S", magic=b"ustar  ", rest=SPARSE + b"\1" + b"00000001000\0"
    ),
    "5,000 long names": extended(b"L", b"a") * 5000 + member("a"),
    "5,000 pax headers": extended(b"x", record("a", "b")) * 5000 + member("a"),
    "5,000 global headers": extended(b"g", record("a", "b")) * 5000 + member("a"),
    "80,000 digits": extended(b"x", b"1" * 80_000) + member("a"),
    "long name of nothing": extended(b"L", b"a"),
    **{f"negative size of {kind!r}": block(b"a", NEGATIVE, kind) + member("a") for kind in (b"L", b"K", b"x", b"g")},
    **{f"huge size of {kind!r}": block(b"a", HUGE, kind) + member("a") for kind in (b"L", b"K", b"x", b"g")},
    "endless long name": block(b"a", 1 << 32, b"L") + bytes(4 << 20),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_soon(name: str, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(member("before") + ATTACKS[name] + (b"" if name.endswith("after the end") else END))
    with frugal(), pytest.raises(ArchiveError, match=r"memory\.bin|extended header"):
        extract(packed, 1 << 20)


KIND_LETTERS = st.sampled_from([bytes([letter]) for letter in b"\x000123456 7SLKxgXDVQ"])
FIELDS = st.one_of(st.integers(0, 3000).map(lambda size: b"%011o\0" % size), st.binary(min_size=12, max_size=12))
KEYS = st.sampled_from(["path", "size", "hdrcharset", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.realsize", "a"])
RECORDS = st.lists(st.builds(record, KEYS, st.text("0123456789,-xé ", max_size=9)), max_size=5).map(b"".join)
BODIES = st.one_of(RECORDS, RECORDS.map(padded), st.binary(max_size=40).map(padded), st.just(b"\0" * 1024))
BLOCKS = st.builds(
    lambda kind, size, body, rest: (
        block(b"a", size or len(body), kind, magic=b"ustar  " if rest else b"ustar\x0000", rest=rest) + padded(body)
    ),
    KIND_LETTERS,
    st.none() | FIELDS,
    BODIES,
    st.binary(max_size=240),
)


@settings(max_examples=300, deadline=None)
@given(blocks=st.lists(BLOCKS, max_size=6), span=st.sampled_from(SPANS), ended=st.booleans())
def test_whatever_headers_say(blocks: list[bytes], span: int, ended: bool) -> None:
    try:
        found = extract(member("first", b"1") + b"".join(blocks) + (END if ended else b""), span)
    except ArchiveError:
        return
    assert found[0] == Got("first", 1, b"1")


# ── zip ──────────────────────────────────────────────────────────────────────────────────────────


def zipped(method: int = zipfile.ZIP_STORED) -> bytes:
    return pack_zip(method)([File(name, name.encode() * 300) for name in ("one", "six", "two")])


RIGHT = [Got(name, 900, name.encode() * 300) for name in ("one", "six", "two")]
SECOND = 30 + 3 + 900  # bytes to the second member's local header, when members are stored


def replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (SECOND + 30 + 3 + 450, b"?"),
        (SECOND, b"PK\3\5"),
        (SECOND + 26, b"\x04"),
        (SECOND, bytes(900)),
    ],
    ids=["wrong CRC", "no local header", "a longer name", "zeros"],
)
@pytest.mark.parametrize(("fixture", "span"), [("tmp_path", 1), ("tmp_path", 1 << 20), ("small", 512)])
def test_a_damaged_member_leaves_the_others(
    request: pytest.FixtureRequest, fixture: str, span: int, at: int, new: bytes
) -> None:
    request.getfixturevalue(fixture)
    first, second, third = extract(replaced(zipped(), at, new), span)
    assert (first, third) == (RIGHT[0], RIGHT[2])
    assert (second.name, second.data, second.damaged) == ("six", None, True)
    assert second.refusal.startswith("damaged")


@pytest.mark.parametrize(("at", "size"), [(20, 100), (24, 100), (16, 4), (20, -1), (24, -1)])
def test_a_directory_that_disagrees_with_the_member(at: int, size: int) -> None:
    packed = zipped(zipfile.ZIP_DEFLATED)
    at += packed.index(b"PK\1\2", packed.index(b"PK\1\2") + 1)
    new = struct.pack("<I", (struct.unpack_from("<I", packed, at)[0] + size) & 0xFFFFFFFF)
    first, second, third = extract(replaced(packed, at, new))
    assert (first, third) == (RIGHT[0], RIGHT[2])
    if (at, size) == (20, 100):  # what follows the member's deflated stream is not looked at
        assert second == RIGHT[1]
    assert second == RIGHT[1] or second.damaged


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (stat.S_IFLNK | 0o777, "a symbolic link"),
        (stat.S_IFIFO | 0o644, "a device, pipe or socket"),
        (stat.S_IFCHR | 0o644, "a device, pipe or socket"),
        (stat.S_IFSOCK | 0o644, "a device, pipe or socket"),
    ],
)
def test_entries_that_are_no_files(mode: int, reason: str) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", b"1")
        info = zipfile.ZipInfo("s")
        info.external_attr = mode << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("b", b"2")
    assert extract(out.getvalue()) == [Got("a", 1, b"1"), Got("s", 11, None, reason), Got("b", 1, b"2")]


@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile warns the writer
def test_of_entries_of_one_name_the_last_counts() -> None:
    packed = pack_zip()([File("a", b"1"), File("b", b"2"), File("a", b"3")])
    assert extract(packed) == [Got("b", 1, b"2"), Got("a", 1, b"3")]


def test_a_member_that_unpacks_to_more_than_it_says() -> None:
    packed = pack_zip()([File("bomb", bytes(100 << 20))])
    packed = replaced(packed, packed.index(b"PK\1\2") + 24, struct.pack("<I", 1000))
    with frugal(memory=8 << 20):
        [got] = extract(packed)
    assert (got.size, got.data, got.damaged) == (1000, None, True)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), span=st.sampled_from([1, 512, 1 << 20]), method=st.sampled_from([0, 8]))
def test_whatever_a_directory_says(data: st.DataObject, span: int, method: int) -> None:
    packed = zipped(method)
    directory = packed.index(b"PK\1\2")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(directory, len(packed) - 1))
        packed = replaced(packed, at, bytes([data.draw(st.integers(0, 255))]))
    try:
        found = extract(packed, span)
    except ArchiveError:
        return
    assert {got.data for got in found} <= {None, b"", *(right.data for right in RIGHT)}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_bits_flipped_in_a_zip(method: int) -> None:
    packed = zipped(method)
    for bit in range(32, 8 * packed.index(b"PK\1\2"), 11):  # from behind the magic number
        found = extract(flipped(packed, bit), 512)
        assert [got.name for got in found] == ["one", "six", "two"]
        assert all(got in RIGHT or got.damaged for got in found)


def test_bits_flipped_in_a_directory() -> None:
    """Only a name can come out otherwise: nothing but the name itself says what it is."""
    packed = zipped()
    right = {got.name: got.data for got in RIGHT}
    names = {at for found in re.finditer(b"PK\x01\x02", packed) for at in range(found.end() + 42, found.end() + 45)}
    lost, refused = [], 0
    for bit in range(8 * packed.index(b"PK\1\2"), 8 * len(packed)):
        try:
            found = extract(flipped(packed, bit), 512)
        except ArchiveError:
            refused += 1
            continue
        wrong = [got for got in found if got.data not in (None, right.get(got.name))]
        if len(found) != 3 or (wrong and bit // 8 not in names):
            lost.append((bit // 8 - len(packed), bit % 8))
    assert not lost
    assert refused < 40  # in the end record, where nothing else says it


def test_a_name_that_is_not_the_utf_8_it_claims_to_be() -> None:
    packed = pack_zip()([File("a", b"1"), File("é", b"1")]).replace("é".encode(), b"\xff\xff")
    assert extract(packed) == [Got("a", 1, b"1"), Got("\udcff\udcff", 1, b"1")]  # which is no name of an object
