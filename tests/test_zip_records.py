"""One bad record of a zip costs one record, and the directory is found wherever it is."""

from __future__ import annotations

import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archives import kinds
from archives.spans import SpanBoundary
from archives.zip import Zip
from archives.zip_directory import read_directory
from errors import ArchiveError
from support.archives import Memory, extract, flipped, frugal, taken
from support.zip_records import FAT, FULL, READERS, ZipRecord, body, deflated, end_record, end_records64, files_by, pack

A, B, C = ZipRecord(b"a.jpg", b"first"), deflated(b"b.jpg", b"second" * 50), ZipRecord(b"c.jpg", b"third")
DATA = {"a.jpg": b"first", "b.jpg": b"second" * 50, "c.jpg": b"third"}


def found(packed: bytes, span: int = 1 << 20) -> dict[str, bytes | None]:
    return {got.name: got.data for got in extract(packed, span)}


def extra(kind: int, data: bytes) -> bytes:
    return struct.pack("<HH", kind, len(data)) + data


# ── records that are odd, of members that are not ────────────────────────────────────────────────

LINK = (stat.S_IFLNK | 0o777) << 16
ODD = {
    "a version needed that is too high": replace(B, needed=99),
    "version 255 of an unknown system": replace(B, needed=0xFFFF, system=255),
    "an extra field that goes on beyond its end": replace(B, extra=struct.pack("<HH", 0x5455, 900) + b"abc"),
    "an extra field of three bytes": replace(B, extra=b"abc"),
    "a zip64 field of five bytes": replace(B, extra=extra(1, b"\1\2\3\4\5")),
    "a zip64 field that nothing asks for": replace(B, extra=extra(1, struct.pack("<QQ", 1 << 60, 1 << 61))),
    "a link's mode of a FAT entry": replace(B, system=FAT, attributes=LINK),
    "a comment with records in it": replace(B, comment=b"PK\1\2PK\3\4PK\5\6" + bytes(50)),
    "a data descriptor": replace(B, flags=8, descriptor=b"PK\7\b" + bytes(12)),
    "a data descriptor without its signature": replace(B, flags=8, descriptor=bytes(12)),
    "another name in the local header": replace(B, local_name=b"another name"),
    "a size that a stored member cannot have": replace(B, method=0, data=b"second" * 50, size=1 << 31),
    "numbers that are full, and no zip64 field": replace(B, flags=0x800),
    "a pipe with data, as 7z -si writes it": replace(B, attributes=(stat.S_IFIFO | 0o644) << 16),
}


@pytest.mark.parametrize("span", [1, 1 << 20])
@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_about_a_record_costs_nothing(name: str, span: int) -> None:
    assert found(pack([A, ODD[name], C]), span) == DATA


def test_what_info_zip_was_given_on_its_standard_input_is_a_file() -> None:
    assert found(pack([replace(A, name=b"-", attributes=(stat.S_IFIFO | 0o600) << 16)])) == {"-": b"first"}


HERE = len(A.local())
REFUSED = {
    "a place beyond the directory": (
        replace(B, offset=9_999),
        "damaged: its 12 bytes from byte 9,999 on are not there",
    ),
    "a place beyond all files": (replace(B, offset=FULL - 1), "damaged: its 12 bytes from byte 4,294,967,294 on"),
    "a place in another member": (replace(B, offset=7), "damaged: its 12 bytes from byte 7 on are not there"),
    "more bytes than there are": (replace(B, packed=1 << 30), f"damaged: its 1,073,741,824 bytes from byte {HERE} on"),
    "a size that deflate does not reach": (replace(B, size=FULL), "damaged: 12 bytes cannot unpack to 4,294,967,295"),
    "a wrong CRC-32": (replace(B, crc=1), "damaged: expected 300 bytes of CRC-32 00000001"),
    "a wrong size": (replace(B, size=299), "damaged: expected 299 bytes"),
    "a link": (replace(B, attributes=LINK), "a symbolic link"),
    "a pipe": (ZipRecord(b"b.jpg", attributes=(stat.S_IFIFO | 0o644) << 16), "a device, pipe or socket"),
}


@pytest.mark.parametrize("span", [1, 1 << 20])
@pytest.mark.parametrize("name", REFUSED)
def test_one_bad_record_costs_one_record(name: str, span: int) -> None:
    entry, reason = REFUSED[name]
    members = {got.name: got for got in extract(pack([A, entry, C]), span)}
    assert {name: got.data for name, got in members.items()} == {**DATA, "b.jpg": None}
    assert members["b.jpg"].refusal.startswith(reason)
    assert members["b.jpg"].damaged == reason.startswith("damaged")


def changed(field_at: int, value: bytes) -> bytes:
    """The three members, with this field of the second record of the directory changed."""
    packed = pack([A, replace(B, extra=extra(0x5455, b"12345"), comment=b"xy"), C])
    at = packed.index(b"PK\1\2", packed.index(b"PK\1\2") + 1) + field_at
    return packed[:at] + value + packed[at + len(value) :]


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, b"PK\1\3"), (0, bytes(4)), (30, b"\xff\xff"), (30, b"\x02\0"), (32, b"\xff\xff"), (32, b"\0\0")],
    ids=["signature", "zeros", "long extra field", "short extra field", "long comment", "no comment"],
)
@pytest.mark.parametrize("span", [1, 1 << 20])
def test_a_record_whose_lengths_are_wrong_is_stored_where_its_local_header_agrees(
    at: int, value: bytes, span: int
) -> None:
    assert found(changed(at, value), span) == DATA


@pytest.mark.parametrize("length", [2, 4, 0xFFFF])
def test_a_record_whose_names_length_is_wrong_is_listed(length: int) -> None:
    members = extract(changed(28, struct.pack("<H", length)))
    assert [(got.name, got.data) for got in members if not got.refusal] == [("a.jpg", b"first"), ("c.jpg", b"third")]
    [bad] = [got for got in members if got.refusal]
    assert bad.damaged and bad.refusal.startswith("damaged: its record in the zip directory is not whole")


# ── zip64 in every combination ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("full", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
@pytest.mark.parametrize("is_all", [False, True], ids=["only what is full", "all three"])
def test_zip64_fields(full: tuple[int, int, int], is_all: bool) -> None:
    """In the order size, packed size, place; some writers put in all three whenever one is full."""
    right = len(b"second" * 50), len(B.data), HERE
    values = [value for value, is_full in zip(right, full, strict=True) if is_full or is_all]
    size, packed, offset = (FULL if is_full else value for value, is_full in zip(right, full, strict=True))
    entry = replace(
        B, size=size, packed=packed, offset=offset, extra=extra(1, struct.pack(f"<{len(values)}Q", *values))
    )
    local, directory = body([A, B, C])
    directory = A.record(0) + entry.record(0) + C.record(HERE + len(B.local()))
    packed_zip = local + directory + end_record(3, len(directory), len(local))
    assert found(packed_zip) == DATA


def zip64(plain: tuple[int, int, int] | None = None, before: bytes = b"", base: int = 0) -> bytes:
    local, directory = body([A, B, C], base)
    numbers = 3, len(directory), base + len(local)
    at = base + len(local) + len(directory)
    return before + local + directory + end_records64(*numbers, at, plain or numbers)


@pytest.mark.parametrize(
    "plain", [None, (0xFFFF, FULL, FULL), (3, FULL, FULL), (0xFFFF, 171, FULL), (3, 171, FULL)], ids=str
)
@pytest.mark.parametrize("before", [b"", b"stub" * 99], ids=["nothing", "a stub"])
@pytest.mark.parametrize("is_absolute", [False, True], ids=["relative", "absolute"])
def test_zip64_ends(plain: tuple[int, int, int] | None, before: bytes, is_absolute: bool) -> None:
    assert found(zip64(plain, before, len(before) * is_absolute)) == DATA


def test_a_name_that_looks_like_the_zip64_records() -> None:
    name = b"PK\6\7" + b"0123456789abcdef"  # as long as the locator, and just before the end record
    assert list(found(pack([A, ZipRecord(name, b"1")]))) == ["a.jpg", name.decode()]


# ── counts, and where the directory is ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [0, 1, 2, 4, 7, 0xFFFE])
def test_a_count_that_is_wrong_where_the_directory_joins_its_end(count: int, caplog: pytest.LogCaptureFixture) -> None:
    assert found(pack([A, B, C], count=count)) == DATA
    assert caplog.messages == [f"memory.bin: its end says {count} entries, its directory has 3; all are taken"]


def test_a_count_modulo_65536() -> None:
    entries = [ZipRecord(b"%06d" % number) for number in range(65_539)]
    local, directory = bytearray(), bytearray()
    for entry in entries:
        directory += entry.record(len(local))
        local += entry.local()
    packed = bytes(local + directory) + end_record(3, len(directory), len(local))
    assert len(extract(packed, 1 << 20)) == 65_539


STUB = b"#!/bin/sh\n" * 50
PLACES = {
    "a stub, offsets relative": pack([A, B, C], before=STUB),
    "a stub, offsets absolute": pack([A, B, C], before=STUB, base=len(STUB)),
    "another zip before it": pack([ZipRecord(b"old", b"old")]) + pack([A, B, C]),
    "a marker of split archives": pack([A, B, C], before=b"PK\7\b", base=4),
    "another marker of split archives": pack([A, B, C], before=b"PK00", base=4),
    "a comment": pack([A, B, C], b"a comment"),
    "a comment with an end record": pack([A, B, C], b"..PK\5\6.." + bytes(30)),
    "a comment that is an end record": pack([A, B, C], end_record(0, 0, 0)),
    "a comment with a zip": pack([A, B, C], b"x" + pack([ZipRecord(b"evil", b"evil")]) + b"x"),
    "a comment of 65,535 bytes": pack([A, B, C], b"PK\5\6" * 16_383 + b"..."),
    "bytes after its end": pack([A, B, C]) + b"\r\n" * 99,
    "100,000 zeros after its end": pack([A, B, C]) + bytes(100_000),
    "a wrong size of the directory": pack([A, B, C])[:-10] + struct.pack("<I", 5) + pack([A, B, C])[-6:],
    "a wrong place of the directory": pack([A, B, C])[:-6] + struct.pack("<I", 5) + b"\0\0",
    "a signature of the directory": pack([A, B, C])[:-22] + b"PK\5\5\3\0abc" + pack([A, B, C])[-22:],
    "no member at the beginning": pack([A, B, C], before=bytes(100), base=100),
}


@pytest.mark.parametrize("span", [1, 1 << 20])
@pytest.mark.parametrize("name", PLACES)
def test_where_the_directory_is(name: str, span: int) -> None:
    assert found(PLACES[name], span) == DATA


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (pack([A, B, C])[:-30], r"it has no directory at its end; is it cut off\?"),
        (pack([A, B, C])[: HERE + 9], r"it has no directory at its end; is it cut off\?"),
        (
            pack([A, B, C])[:200] + pack([A, B, C])[-22:],
            r"its directory has 153 bytes from byte 127 on, but ends before byte 200; is it cut off\?",
        ),
        (
            pack([A, ZipRecord(b"b.zip", pack([B]) + bytes(99)), C])[:-90],
            r"it has no directory at its end; is it cut off\?",
        ),
    ],
    ids=["no end", "half", "a hole", "no end after a zip in it"],
)
def test_cut_off_is_said_only_where_it_is(packed: bytes, reason: str) -> None:
    with pytest.raises(ArchiveError, match=r"memory\.bin: not a whole zip archive: " + reason):
        extract(packed)


@pytest.mark.parametrize("head", [bytes(34), A.local()], ids=["none of them", "one of three"])
def test_the_last_part_of_a_split_zip_is_reported(head: bytes) -> None:
    _, directory = body([A, B, C])
    packed = head + bytes(40) + directory + end_record(3, len(directory), 0, disk=2)
    with pytest.raises(ArchiveError, match=r"memory\.bin: one of multiple disks \(3\)"):
        extract(packed)


# ── Archive Utility of macOS beyond 4 GiB ────────────────────────────────────────────────────────


@dataclass
class Sparse:
    """A huge archive of which only some places are not zeros."""

    places: dict[int, bytes] = field(default_factory=dict)
    name: str = "huge.zip"
    size: int = 0

    def put(self, at: int, data: bytes) -> int:
        self.places[at] = data
        self.size = max(self.size, at + len(data))
        return at + len(data)

    def read(self, start: int, stop: int) -> bytes:
        assert 0 <= start <= stop <= self.size and stop - start < 200 << 20
        out = bytearray(stop - start)
        for at, data in self.places.items():
            low, high = max(at, start), min(at + len(data), stop)
            if low < high:
                out[low - start : high - start] = data[low - at : high - at]
        return bytes(out)

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        yield self.read(start, stop)


@pytest.mark.parametrize("sizes", [(3 << 30, 2 << 30, 3 << 30, 3 << 30), (5 << 30, 1 << 30), (9 << 30, 5, 5 << 30, 7)])
def test_offsets_and_sizes_modulo_4_gib(sizes: tuple[int, ...]) -> None:
    """Small members between large ones, of which nothing is read but that they are where they should be."""
    reader, at, directory, offsets = Sparse(), 0, b"", []
    for number, size in enumerate(sizes):
        for entry, length in (
            (ZipRecord(b"small%d" % number, b"data"), 4),
            (ZipRecord(b"large%d" % number, packed=size % (1 << 32)), size),
        ):
            offsets.append(at)
            directory += entry.record(at % (1 << 32))
            at = reader.put(at, entry.local()[: 30 + len(entry.name)] + entry.data) - len(entry.data) + length
    reader.put(at, directory + end_record(2 * len(sizes), len(directory), at % (1 << 32)))
    entries = read_directory(reader)[0]
    assert [entry.offset for entry in entries] == offsets
    assert [entry.size for entry in entries] == [size for large in sizes for size in (4, large)]
    spans = kinds.plan(reader, 1 << 20)
    small = [span for span in spans if span.stop - span.start < 100 << 20]
    got = [taken(member) for span in small for member in span.kind.members(reader, span, SpanBoundary())]
    assert [each.data for each in got if each.name.startswith("small")] == [b"data"] * len(sizes)


# ── beside other programs ────────────────────────────────────────────────────────────────────────

SHARED = {
    **{
        f"odd: {name}": pack([A, entry, C])
        for name, entry in ODD.items()
        if "name" not in name and "stored" not in name
    },
    **{
        name: packed for name, packed in PLACES.items() if not name.startswith(("a comment ", "another zip", "a wrong"))
    },
    "zip64": zip64((0xFFFF, FULL, FULL)),
    "a count that is too large": pack([A, B, C], count=4),
    "a count that is too small": pack([A, B, C], count=2),
}


@pytest.mark.parametrize("name", SHARED)
def test_other_programs_read_them_too(name: str, tmp_path: Path) -> None:
    """Two of three at least, each byte of them; none has a file that we lack."""
    read = {reader: files_by(reader, SHARED[name], tmp_path) for reader in READERS}
    assert sum(files == DATA for files in read.values()) >= 2, read
    assert found(SHARED[name]) == DATA


# ── any bytes at all ────────────────────────────────────────────────────────────────────────────

PARTS = st.one_of(
    st.sampled_from([A.local(), B.local(), A.record(0), B.record(HERE), C.record(0), b"PK\1\2", b"PK\6\6", b"PK\6\7"]),
    st.builds(end_record, st.integers(0, 4), st.integers(0, 300), st.integers(0, 300)),
    st.builds(lambda a, b, c, d: end_records64(a, b, c, d, (0xFFFF, FULL, FULL)), *[st.integers(0, (1 << 64) - 1)] * 4),
    st.builds(lambda offset, packed: replace(A, offset=offset, packed=packed).record(0), *[st.integers(0, FULL)] * 2),
    st.binary(max_size=60),
)


@settings(max_examples=400, deadline=None)
@given(parts=st.lists(PARTS, max_size=9), span=st.sampled_from([1, 300, 1 << 20]))
def test_whatever_the_records_say(parts: list[bytes], span: int) -> None:
    packed = b"".join(parts)
    try:
        members = [
            got for part in kinds.plan(Memory(packed), span) if part.kind == Zip() for got in extract(packed, span)
        ]
    except ArchiveError:
        return
    assert all(zlib.crc32(got.data).to_bytes(4, "little") in packed for got in members if got.data)


def test_bits_flipped_anywhere() -> None:
    """What is stored is right, the two others are not harmed, or the end is damaged. A name can become another."""
    packed = pack([A, B, C])
    names = {at for found in re.finditer(b"PK\x01\x02", packed) for at in range(found.end() + 42, found.end() + 47)}
    for bit in range(8 * len(packed)):
        try:
            members = extract(flipped(packed, bit), 1 << 20)
        except ArchiveError:
            assert bit >= 8 * (len(packed) - 22) or bit < 32, bit  # the end record, or the magic number
            continue
        assert len(members) == 3 or (len(members) == 2 and bit // 8 in names), bit
        assert all(got.data in (None, *DATA.values()) for got in members), bit
        assert sum(got.data is None for got in members) <= 1, bit
        assert all(got.data in (None, DATA.get(got.name)) for got in members) or bit // 8 in names, bit


def test_a_directory_of_nothing_but_signatures_ends_soon() -> None:
    """Each of them claims a name and an extra field of 20,000 bytes."""
    directory = b"PK\1\2" * 50_000
    with frugal(seconds=10, memory=256 << 20):
        members = extract(A.local() + directory + end_record(20_000, len(directory), HERE), 1 << 20)
    assert len(members) == 20_000 and all(got.refusal for got in members)


def test_a_comment_of_nothing_but_ends_ends_soon() -> None:
    with frugal(), pytest.raises(ArchiveError, match="it has no directory at its end"):
        extract(A.local() + b"PK\5\6" * 16_000)


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (pack([A, B, C]).replace(b"PK\1\2", b"PK\1\3"), "a damaged zip directory: expected 3 entries, got 1$"),
        (pack([A, B, C])[:-22] + end_record(3, 40, 20), "expected a zip directory at byte 20, got something else$"),
    ],
    ids=["no signature", "another place"],
)
def test_a_directory_that_is_not_there(packed: bytes, reason: str) -> None:
    with pytest.raises(ArchiveError, match=r"memory\.bin: " + reason):
        extract(packed)
