"""Find and parse the central directory of a zip (APPNOTE.TXT 4.3.12, 4.5.3).

zipfile refuses a whole archive for one bad record. Here a bad record is marked, and an error is raised only if the
directory as a whole is missing or inconsistent.
"""

from __future__ import annotations

import bisect
import logging
import struct
from collections.abc import Iterator
from typing import NamedTuple

from archives.spans import Reader
from archives.zip_end import RECORD_SIGNATURE, End, Tail
from errors import ArchiveError

log = logging.getLogger("spotted")

MAX_DIRECTORY_BYTES = 128 << 20  # bytes; it is held as a whole, and this is of a million members
TAIL_BYTES = 66 << 10  # bytes; the end record, its comment of 64 KiB at most, and the zip64 records
LONG_TAIL_BYTES = 1 << 20  # bytes to look through where something was appended
WRAPAROUND = 1 << 32
PROBED_RECORDS = 3  # records whose local headers show what offsets count from
LOCAL_HEADER_BYTES = 30  # bytes of a local header without name and extra field (4.3.7)
FULL32 = 0xFFFFFFFF  # "see the zip64 record"

RECORD = struct.Struct("<4s6H3I5H2I")  # 4.3.12


class Record(NamedTuple):
    """A record of the directory; offsets and sizes in bytes, `offset` from the archive's beginning."""

    raw_name: bytes
    system: int  # that it was made by: 0 FAT, 3 Unix … (4.4.2)
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    attributes: int
    offset: int
    extra: bytes
    is_damaged: bool  # it does not fit between its neighbours, so no field of it is sure


Directory = tuple[list[Record], int]  # the records, in their order, and where they begin


def has_end(reader: Reader) -> bool:
    """Return whether the archive ends as a zip does; any bytes may precede a zip."""
    return bool(Tail(reader, LONG_TAIL_BYTES).ends())


def read_directory(reader: Reader) -> Directory:
    """Find and parse the central directory; raises ArchiveError where it is missing or inconsistent."""
    ends = list[End]()
    for length in (TAIL_BYTES, LONG_TAIL_BYTES):
        tail = Tail(reader, length)
        ends = tail.ends()
        if found := _found(tail, ends):
            return found
    if not ends:
        raise ArchiveError(f"{reader.name}: not a whole zip archive: it has no directory at its end; is it cut off?")
    _check_disks(reader.name, ends[0])
    _check_size(reader.name, ends[0].size if ends[0].size < ends[0].at else 0)
    _check_place(reader.name, ends[0], ends[0].offset)
    raise ArchiveError(f"{reader.name}: expected a zip directory at byte {ends[0].offset:,}, got something else")


def _check_place(name: str, end: End, start: int) -> None:
    if start + end.size > end.at:
        raise ArchiveError(
            f"{name}: not a whole zip archive: its directory has {end.size:,} bytes from byte {start:,} on,"
            f" but ends before byte {end.at:,}; is it cut off?"
        )


def _check_disks(name: str, end: End) -> None:
    if end.disks > 1:
        raise ArchiveError(
            f"{name}: one of multiple disks ({end.disks:,}) of a split zip: join them to one with zip -s 0"
        )


def _check_size(name: str, size: int) -> None:
    if size > MAX_DIRECTORY_BYTES:
        raise ArchiveError(f"{name}: a zip directory of {size:,} bytes; at most {MAX_DIRECTORY_BYTES:,} are read")


# ── records ──────────────────────────────────────────────────────────────────────────────────────


def _found(tail: Tail, ends: list[End]) -> Directory | None:
    """Return the directory with as many records as its end record says, or one that reaches up to it."""
    candidates = [(end, start) for end in ends for start in tail.starts(end)]
    parsed = list[tuple[End, int, list[Record], int]]()
    for end, start in candidates:
        _check_size(tail.reader.name, end.at - start)
        records, stop = _parse(tail.read(start, end.at), end.listed)
        if (len(records) - end.listed) % (1 << 16) == 0:
            return _directory(tail.reader, end, start, records)
        parsed.append((end, start, records, start + stop))
    for end, start, records, stop in parsed:
        if stop == end.at and not any(record.is_damaged for record in records):
            what = "%s: its end says %d entries, its directory has %d; all are taken"
            log.warning(what, tail.reader.name, end.listed, len(records))
            return _directory(tail.reader, end, start, records)
    if parsed:
        end, start, records, _ = parsed[0]
        _check_place(tail.reader.name, end, start)
        raise ArchiveError(
            f"{tail.reader.name}: a damaged zip directory: expected {end.listed:,} entries, got {len(records):,}"
        )
    return next((([], end.at) for end in ends if not end.listed and not end.size), None)


def _directory(reader: Reader, end: End, start: int, records: list[Record]) -> Directory:
    if end.at != end.place:
        _check_disks(reader.name, end)
    return _moved(reader, records, start, end), start


def _parse(data: bytes, count: int) -> tuple[list[Record], int]:
    """Return the records, and the end of the last one."""
    records, at = list[Record](), 0
    unpack, size, last = RECORD.unpack_from, RECORD.size, len(data) - RECORD.size
    while at <= last:
        (
            signature, made_by, _, flags, method, _, _, crc,
            packed, unpacked, name, extra, comment, _, _, attributes, offset,
        ) = unpack(data, at)  # fmt: skip
        name += at + size
        extra += name
        end, is_damaged = extra + comment, False
        if signature != RECORD_SIGNATURE or (data[end : end + 4] != RECORD_SIGNATURE and end != len(data)):
            if signature != RECORD_SIGNATURE and len(records) >= count:
                break
            end, is_damaged = _mended(data, at, end, len(records) + 1 == count)
            name, extra = min(name, end), min(extra, end)
        if FULL32 in (packed, unpacked, offset):
            packed, unpacked, offset = _long(data[name:extra], packed, unpacked, offset)
        records.append(
            Record(
                data[at + size : name], made_by >> 8, flags, method, crc, packed, unpacked, attributes, offset,
                data[name:extra], is_damaged,
            )
        )  # fmt: skip
        at = end
    return records, at


def _mended(data: bytes, at: int, end: int, is_last: bool) -> tuple[int, bool]:
    """Return the end of a record that no other one follows, and whether it is damaged itself."""
    following = data.find(RECORD_SIGNATURE, at + 4)
    if data.startswith(RECORD_SIGNATURE, at):
        if end <= len(data) and (following < 0 or is_last):  # something else may follow, as the directory's signature
            return end, True
        if end + RECORD.size <= len(data):
            _, *_, name, extra, comment, _, _, _, _ = RECORD.unpack_from(data, end)
            if following == end + RECORD.size + name + extra + comment:  # the next one's signature alone is damaged
                return end, False
    elif data.startswith(RECORD_SIGNATURE, end):
        return end, True
    return following if following >= 0 else len(data), True


def fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the complete extra fields of a record: kind and data (4.5.1)."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if at + 4 + size > len(extra):
            return
        yield kind, extra[at + 4 : at + 4 + size]
        at += 4 + size


def _long(extra: bytes, packed: int, size: int, offset: int) -> tuple[int, int, int]:
    """Replace full sizes and offsets by those of the zip64 field (4.5.3); some writers give all three there."""
    field = next((data for kind, data in fields(extra) if kind == 1), b"")
    values = [value for (value,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8])]
    plain = [size, packed, offset]
    is_all = len(values) >= 3 and all(each in (FULL32, value) for each, value in zip(plain, values, strict=False))
    rest = iter(values)
    size, packed, offset = (next(rest, each) if each == FULL32 or is_all else each for each in plain)
    return packed, size, offset


# ── offsets ──────────────────────────────────────────────────────────────────────────────────────


def _moved(reader: Reader, records: list[Record], start: int, end: End) -> list[Record]:
    """Return the records with offsets from the archive's beginning, even if other bytes precede the zip."""
    base = start - end.offset
    if not base and end.disks <= 1:
        return records
    first = records[:PROBED_RECORDS]
    right = {shift: sum(_is_local(reader, each.offset + shift) for each in first) for shift in (base, 0)}
    shift = max(right, key=lambda shift: right[shift])
    if right[shift] < len(first):  # the others are on another disk
        _check_disks(reader.name, end)
    if base > 0 and base % WRAPAROUND == 0 and shift != base:
        return _unwrapped(reader, records, start)
    if shift > 0:
        log.warning("%s: %d bytes stand before the zip", reader.name, shift)
    return [record._replace(offset=record.offset + shift) for record in records] if shift else records


def _is_local(reader: Reader, offset: int) -> bool:
    return 0 <= offset <= reader.size - 4 and bytes(reader.read(offset, offset + 4)[:]) == b"PK\3\4"


def _unwrapped(reader: Reader, records: list[Record], start: int) -> list[Record]:
    """Restore offsets and sizes beyond 4 GiB as macOS' Archive Utility writes them: modulo 2^32, in file order."""
    places, end = list[int](), 0
    for record in records:
        places.append(record.offset + -(-max(0, end - record.offset) // WRAPAROUND) * WRAPAROUND)
        end = places[-1] + LOCAL_HEADER_BYTES + len(record.raw_name) + record.packed
    for _ in range((start - end) // WRAPAROUND):  # members that are larger than that themselves
        after = bisect.bisect_left(places, True, lo=1, key=lambda place: not _is_local(reader, place))
        places[after:] = [place + WRAPAROUND for place in places[after:]]
    return [_grown(*each) for each in zip(records, places, [*places[1:], start], strict=True)]


def _grown(record: Record, offset: int, stop: int) -> Record:
    room = stop - offset - LOCAL_HEADER_BYTES - len(record.raw_name)
    packed = record.packed + (room - record.packed) // WRAPAROUND * WRAPAROUND
    return record._replace(offset=offset, packed=packed, size=record.size if record.method else packed)
