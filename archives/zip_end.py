"""Find the end records of a zip, with their zip64 records (APPNOTE.TXT 4.3.14 to 4.3.16)."""

from __future__ import annotations

import heapq
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from archives.spans import Reader

MAX_ENDS = 16  # end records looked at; a comment may hold thousands of what looks like one
RECORD_SIGNATURE, END_SIGNATURE = b"PK\1\2", re.compile(b"PK\5\6")
MIN_RECORD_BYTES = 46  # bytes of the directory
END = struct.Struct("<4s4H2IH")  # 4.3.16
END64 = struct.Struct("<4sQ2H2I4Q")  # 4.3.14
LOCATOR64 = struct.Struct("<4sIQI")  # 4.3.15


class End(NamedTuple):
    """An end record, merged with its zip64 record."""

    place: int
    at: int  # where the end records begin: with zip64, before it
    disks: int
    listed: int  # how many entries it says there are; without zip64 modulo 2^16
    size: int
    offset: int


class Tail:
    """The last bytes of an archive, read once; all but large directories lie in them."""

    def __init__(self, reader: Reader, length: int) -> None:
        self.reader, self.start = reader, max(0, reader.size - length)
        self.data = bytes(reader.read(self.start, reader.size)[:])

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop), fewer at the end of the archive."""
        if start >= self.start:
            return self.data[start - self.start : stop - self.start]
        return bytes(self.reader.read(max(start, 0), min(stop, self.reader.size))[:])

    def starts(self, end: End) -> list[int]:
        """Return the possible starts of the directory: a record is there, or both numbers of the end record agree."""
        places = [place for place in dict.fromkeys((end.at - end.size, end.offset)) if 0 <= place < end.at]
        if len(places) == 1 and end.at - end.size == end.offset and end.size >= MIN_RECORD_BYTES:
            return places
        return [place for place in places if end.size and self.read(place, place + 4) == RECORD_SIGNATURE]

    def ends(self) -> list[End]:
        """Return the end records, the likeliest first: whose comment ends with the archive, then the last."""
        found = END_SIGNATURE.finditer(self.data, 0, max(0, len(self.data) - END.size + 4))
        places = heapq.nsmallest(MAX_ENDS, (each.start() for each in found), key=lambda at: (self._rest(at), -at))
        return [end for at in places for end in self._ends(at) if not self._is_inner(end)]

    def _is_inner(self, end: End) -> bool:
        """Return whether it belongs to a zip stored in this one, whose own end is cut off."""
        is_appended = end.at - end.size != end.offset
        return is_appended and self._rest(end.place - self.start) != 0 and self.read(0, 4) == b"PK\3\4"

    def _rest(self, at: int) -> int:
        """Return the number of bytes after its comment, or missing from it."""
        return abs(len(self.data) - at - END.size - int.from_bytes(self.data[at + 20 : at + 22], "little"))

    def _ends(self, at: int) -> Iterator[End]:
        """Yield the end record merged with its zip64 records, if any, and alone: a name may look like such records."""
        _, disk, _, _, listed, size, offset, _ = END.unpack_from(self.data, at)
        plain = End(self.start + at, self.start + at, (disk + 1) % (1 << 16), listed, size, offset)
        found = LOCATOR64.unpack_from(self.data, at - LOCATOR64.size) if at >= LOCATOR64.size else (b"",)
        if found[0] == b"PK\6\7" and plain.at - size != offset:
            end = plain._replace(at=plain.at - LOCATOR64.size, disks=max(plain.disks, found[3]))
            yield self._long(end, found[2]) or end
        yield plain

    def _long(self, end: End, place: int) -> End | None:
        for at in (place, end.at - END64.size, self.start + self.data.rfind(b"PK\6\6", 0, end.at - self.start)):
            record = self.read(at, at + END64.size) if 0 <= at <= end.at - END64.size else b""
            if record.startswith(b"PK\6\6"):
                *_, listed, size, offset = END64.unpack(record)
                return end._replace(at=at, listed=listed, size=size, offset=offset)
        return None
