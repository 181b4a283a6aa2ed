"""Zips written record by record, so that any field can say anything, and what other programs take out of them."""

from __future__ import annotations

import os
import struct
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from support.program import unlock

FULL = 0xFFFFFFFF
FAT, UNIX, NTFS, MACOS = 0, 3, 10, 19
READERS = {
    "unzip": ["unzip", "-qq", "-o"],
    "7z": ["7z", "x", "-y", "-bso0", "-bsp0", "-tzip"],
    "bsdtar": ["bsdtar", "-x"],
}


@dataclass(frozen=True)
class ZipRecord:
    """One member with all that its two headers say; where a field is None it is what is right."""

    name: bytes
    data: bytes = b""  # as it is packed
    method: int = 0
    flags: int = 0
    crc: int | None = None
    packed: int | None = None
    size: int | None = None
    offset: int | None = None
    system: int = UNIX
    needed: int = 20
    attributes: int = 0
    local_name: bytes | None = None
    extra: bytes = b""  # of the directory
    local_extra: bytes = b""
    comment: bytes = b""
    descriptor: bytes = b""  # what follows the data

    def local(self) -> bytes:
        name = self.name if self.local_name is None else self.local_name
        return b"PK\3\4" + struct.pack("<H", self.needed) + self._common(name, self.local_extra) + self.data

    def record(self, offset: int) -> bytes:
        at = offset if self.offset is None else self.offset
        head = struct.pack("<4sBBH", b"PK\1\2", 30, self.system, self.needed)
        tail = struct.pack("<HHHII", len(self.comment), 0, 0, self.attributes, at)
        common = self._common(self.name, self.extra)
        return head + common[:24] + tail + common[24:] + self.comment

    def _common(self, name: bytes, extra: bytes) -> bytes:
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        packed = len(self.data) if self.packed is None else self.packed
        size = packed if self.size is None else self.size
        numbers = self.flags, self.method, 0, 33, crc, packed, size, len(name), len(extra)
        return struct.pack("<HHHHIIIHH", *numbers) + name + extra


def deflated(name: bytes, data: bytes, entry: ZipRecord = ZipRecord(b"")) -> ZipRecord:
    packed = zlib.compress(data, wbits=-15)
    return replace(entry, name=name, data=packed, method=8, crc=zlib.crc32(data), size=len(data))


def end_record(
    entries: int, size: int, offset: int, comment: bytes = b"", *, disk: int = 0, count: int | None = None
) -> bytes:
    count = entries if count is None else count
    return struct.pack("<4sHHHHIIH", b"PK\5\6", disk, disk, count, count, size, offset, len(comment)) + comment


def end_records64(entries: int, size: int, offset: int, at: int, plain: tuple[int, int, int]) -> bytes:
    """The zip64 end record and its locator, and the end record with these numbers; `at` is where they begin."""
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, size, offset)
    return end64 + struct.pack("<4sIQI", b"PK\6\7", 0, at, 1) + end_record(*plain)


def body(entries: Sequence[ZipRecord], base: int = 0) -> tuple[bytes, bytes]:
    """The local part and the directory, whose offsets begin at `base`."""
    local, directory = b"", b""
    for entry in entries:
        directory += entry.record(base + len(local))
        local += entry.local() + entry.descriptor
    return local, directory


def pack(
    entries: Sequence[ZipRecord],
    comment: bytes = b"",
    *,
    before: bytes = b"",
    base: int = 0,
    count: int | None = None,
) -> bytes:
    """A whole zip; `base` is what its offsets count from, which is the length of `before` where they are absolute."""
    local, directory = body(entries, base)
    return before + local + directory + end_record(
        len(entries), len(directory), base + len(local), comment, count=count
    )  # fmt: skip


def files_by(reader: str, packed: bytes, folder: Path) -> dict[str, bytes | None]:
    """What a program takes out of a zip: its files, and its folders as None; it may warn, or fail after the files."""
    out = folder / reader
    out.mkdir(parents=True)
    (folder / "a.zip").write_bytes(packed)
    file = str(folder / "a.zip")
    to = {"unzip": [file, "-d", str(out)], "7z": [f"-o{out}", file], "bsdtar": ["-f", file, "-C", str(out)]}
    command = [*READERS[reader], *to[reader]]
    subprocess.run(command, env=os.environ | {"LC_ALL": "C.UTF-8"}, capture_output=True, timeout=60, check=False)
    unlock(out)
    # Not rglob: where it meets a link whose target is no path, some releases of Python 3.11 raise an error.
    names = (Path(root, name) for root, folders, files in os.walk(out) for name in (*folders, *files))
    found = sorted(path for path in names if not path.is_symlink())
    return {
        str(path.relative_to(out)) + "/" * path.is_dir(): None if path.is_dir() else path.read_bytes() for path in found
    }
