"""The end and the central directory of a zip become records (APPNOTE.TXT 4.3.12 to 4.3.16, 4.5.3).

zipfile refuses a whole archive for one bad record, so the records are parsed here: what is wrong with one of them is a
field of it, and an error is raised only where the directory as a whole cannot be found or does not hold together.
"""

from __future__ import annotations

import bisect
import itertools
import logging
import struct
from collections.abc import Iterator
from typing import NamedTuple

from errors import ArchiveError
from spans import Reader

log = logging.getLogger("spotted")

LARGEST_DIRECTORY = 128 << 20  # bytes; it is held as a whole, and this is of a million members
TAIL = 66 << 10  # bytes; the end record, its comment of 64 KiB at most, and the zip64 records
LONG_TAIL = 1 << 20  # bytes to look through where something was appended
MOST_ENDS = 16  # end records looked at; a comment may hold thousands of what looks like one
WRAP = 1 << 32
LOCAL_SIZE = 30  # bytes of a local header without name and extra field (4.3.7)
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF  # "see the zip64 record"

RECORD_SIGNATURE, END_SIGNATURE = b"PK\1\2", b"PK\5\6"
RECORD = struct.Struct("<4s6H3I5H2I")  # 4.3.12
END = struct.Struct("<4s4H2IH")  # 4.3.16
END64 = struct.Struct("<4sQ2H2I4Q")  # 4.3.14
LOCATOR64 = struct.Struct("<4sIQI")  # 4.3.15


class Record(NamedTuple):
    """What the directory says of a member; offsets and sizes in bytes, `offset` from the archive's beginning."""

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


class Directory(NamedTuple):
    """The records, in their order, and where they begin."""

    records: list[Record]
    start: int


class _End(NamedTuple):
    """An end record, with what the zip64 record adds."""

    place: int
    at: int  # where the end records begin: with zip64, before it
    disks: int
    listed: int  # how many entries it says there are; without zip64 modulo 2^16
    size: int
    offset: int


def has_end(reader: Reader) -> bool:
    """Whether there is the end of a zip, which may stand after anything."""
    return bool(_Tail(reader).ends())


def read_directory(reader: Reader) -> Directory:
    """Find and parse the central directory; raises ArchiveError where it is not there or does not hold together."""
    tail = _Tail(reader)
    ends = tail.ends()
    for end in ends:
        for start in dict.fromkeys((end.at - end.size, end.offset)):
            if end.listed and 0 <= start < end.at and tail.take(start, start + 4) == RECORD_SIGNATURE:
                return _read(tail, end, start)
    for end in ends:
        if not end.listed and not end.size:
            return Directory([], end.at)
    raise ArchiveError(f"{reader.name}: not a whole zip archive: {_reason(reader.name, ends)}")


def _reason(name: str, ends: list[_End]) -> str:
    if not ends:
        return "it has no directory at its end; is it cut off?"
    end = ends[0]
    _check_disks(name, end)
    _check_size(name, end.size if end.size < end.at else 0)
    if end.offset + end.size > end.at:
        return f"its directory goes on to byte {end.offset + end.size:,}, beyond byte {end.at:,}; is it cut off?"
    return f"expected its directory at byte {end.offset:,}, got something else"


def _check_disks(name: str, end: _End) -> None:
    if end.disks > 1:
        raise ArchiveError(
            f"{name}: one of multiple disks ({end.disks:,}) of a split zip: join them to one with zip -s 0"
        )


def _check_size(name: str, size: int) -> None:
    if size > LARGEST_DIRECTORY:
        raise ArchiveError(f"{name}: a zip directory of {size:,} bytes; at most {LARGEST_DIRECTORY:,} are read")


class _Tail:
    """The last bytes of an archive, which are read once; all but large directories lie in them."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._hold(TAIL)

    def _hold(self, length: int) -> None:
        self.start = max(0, self.reader.size - length)
        self.data = bytes(self.reader.read(self.start, self.reader.size)[:])

    def take(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), as far as the archive goes."""
        if start >= self.start:
            return self.data[start - self.start : stop - self.start]
        return bytes(self.reader.read(max(start, 0), min(stop, self.reader.size))[:])

    def ends(self) -> list[_End]:
        """The end records, the likeliest first: with a comment that ends where the archive does, then the last."""
        if END_SIGNATURE not in self.data and self.start:
            self._hold(LONG_TAIL)
        places = sorted(itertools.islice(self._places(), MOST_ENDS), key=self._rest)
        return [end for at in places for end in self._ends(at) if not self._is_inner(end)]

    def _is_inner(self, end: _End) -> bool:
        """Whether it ends a zip that is stored in this one, whose own end is cut off."""
        is_appended = end.at - end.size != end.offset
        return is_appended and self._rest(end.place - self.start) != 0 and self.take(0, 4) == b"PK\3\4"

    def _places(self) -> Iterator[int]:
        at = self.data.rfind(END_SIGNATURE, 0, max(0, len(self.data) - END.size + 4))
        while at >= 0:
            yield at
            at = self.data.rfind(END_SIGNATURE, 0, at + 3)

    def _rest(self, at: int) -> int:
        """How many bytes there are after its comment, or are missing of it."""
        return abs(len(self.data) - at - END.size - int.from_bytes(self.data[at + 20 : at + 22], "little"))

    def _ends(self, at: int) -> Iterator[_End]:
        """The end record as the zip64 records have it, where there are such, and as it is: a name may look like one."""
        _, disk, _, _, listed, size, offset, _ = END.unpack_from(self.data, at)
        plain = _End(self.start + at, self.start + at, (disk + 1) % (FULL16 + 1), listed, size, offset)
        found = LOCATOR64.unpack_from(self.data, at - LOCATOR64.size) if at >= LOCATOR64.size else (b"",)
        if found[0] == b"PK\6\7" and plain.at - size != offset:
            end = plain._replace(at=plain.at - LOCATOR64.size, disks=max(plain.disks, found[3]))
            yield self._long(end, found[2]) or end
        yield plain

    def _long(self, end: _End, place: int) -> _End | None:
        for at in (place, end.at - END64.size, self.start + self.data.rfind(b"PK\6\6", 0, end.at - self.start)):
            record = self.take(at, at + END64.size) if 0 <= at <= end.at - END64.size else b""
            if record.startswith(b"PK\6\6"):
                *_, listed, size, offset = END64.unpack(record)
                return end._replace(at=at, listed=listed, size=size, offset=offset)
        return None


# ── records ──────────────────────────────────────────────────────────────────────────────────────


def _read(tail: _Tail, end: _End, start: int) -> Directory:
    reader = tail.reader
    if end.at != end.place:
        _check_disks(reader.name, end)
    _check_size(reader.name, end.at - start)
    records, stop = _parse(tail.take(start, end.at), end.listed)
    got, is_listed = len(records), (len(records) - end.listed) % (FULL16 + 1) == 0
    if not is_listed and (start + stop != end.at or any(record.is_damaged for record in records)):
        raise ArchiveError(f"{reader.name}: a damaged zip directory: expected {end.listed:,} entries, got {got:,}")
    if not is_listed:
        log.warning("%s: its end says %d entries, its directory has %d; all are taken", reader.name, end.listed, got)
    return Directory(_moved(reader, records, start, end), start)


def _parse(data: bytes, count: int) -> tuple[list[Record], int]:
    """The records, and where the last one ends."""
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
    """Where a record that is not followed by another one ends, and whether it is damaged itself."""
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
    """The extra fields of a record, as far as they are whole (4.5.1)."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if at + 4 + size > len(extra):
            return
        yield kind, extra[at + 4 : at + 4 + size]
        at += 4 + size


def _long(extra: bytes, packed: int, size: int, offset: int) -> tuple[int, int, int]:
    """Sizes and offset with what the zip64 field says of those that are full (4.5.3); some writers give all three."""
    field = next((data for kind, data in fields(extra) if kind == 1), b"")
    values = [value for (value,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8])]
    plain = [size, packed, offset]
    is_all = len(values) >= 3 and all(each in (FULL32, value) for each, value in zip(plain, values, strict=False))
    rest = iter(values)
    size, packed, offset = (next(rest, each) if each == FULL32 or is_all else each for each in plain)
    return packed, size, offset


# ── offsets ──────────────────────────────────────────────────────────────────────────────────────


def _moved(reader: Reader, records: list[Record], start: int, end: _End) -> list[Record]:
    """The records with offsets from the archive's beginning; they may count from the zip's, after something else."""
    base = start - end.offset
    shift = next((each for each in dict.fromkeys((base, 0)) if _is_right(reader, records, each)), None)
    if shift is None:
        _check_disks(reader.name, end)
        shift = base
    if base > 0 and base % WRAP == 0 and shift != base:
        return _unwrapped(reader, records, start)
    if shift > 0:
        log.warning("%s: %d bytes stand before the zip", reader.name, shift)
    return [record._replace(offset=record.offset + shift) for record in records] if shift else records


def _is_right(reader: Reader, records: list[Record], shift: int) -> bool:
    return any(_is_local(reader, record.offset + shift) for record in records[:3])


def _is_local(reader: Reader, offset: int) -> bool:
    return 0 <= offset <= reader.size - 4 and bytes(reader.read(offset, offset + 4)[:]) == b"PK\3\4"


def _unwrapped(reader: Reader, records: list[Record], start: int) -> list[Record]:
    """Offsets and sizes as Archive Utility of macOS writes them beyond 4 GiB: modulo 2^32, no zip64, in file order."""
    places, end = list[int](), 0
    for record in records:
        places.append(record.offset + -(-max(0, end - record.offset) // WRAP) * WRAP)
        end = places[-1] + LOCAL_SIZE + len(record.raw_name) + record.packed
    for _ in range((start - end) // WRAP):  # members that are larger than that themselves
        after = bisect.bisect_left(places, True, lo=1, key=lambda place: not _is_local(reader, place))
        places[after:] = [place + WRAP for place in places[after:]]
    return [_grown(*each) for each in zip(records, places, [*places[1:], start], strict=True)]


def _grown(record: Record, offset: int, stop: int) -> Record:
    packed = record.packed + (stop - offset - LOCAL_SIZE - len(record.raw_name) - record.packed) // WRAP * WRAP
    return record._replace(offset=offset, packed=packed, size=record.size if record.method else packed)
