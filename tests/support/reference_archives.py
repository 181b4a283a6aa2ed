"""Archives with the traits of CPython's own test archives, and those archives where the running Python ships them."""

from __future__ import annotations

import importlib.util
import random
import struct
from pathlib import Path

from support.tars import END, SPARSE, SPARSE_1_0, block, changed, extended, member, padded, record, signed
from support.zip_records import FAT, FULL, ZipRecord, body, deflated, end_records64, pack

DATA = random.Random(11).randbytes(7011)
LONG = "123/" * 60  # longer than the name and the prefix of ustar together
GNU, USTAR, V7 = b"ustar  \0", b"ustar\x0000", b""
LATIN_1 = b"\xc4\xd6\xdc\xe4\xf6\xfc\xdf"  # no UTF-8
SUN = "1500000000.000000000"


def file(name: bytes, kind: bytes = b"0", magic: bytes = USTAR) -> bytes:
    return block(name, len(DATA), kind, magic=magic) + padded(DATA)


def link(name: bytes, kind: bytes, target: bytes) -> bytes:
    """A hard link (1) or a symbolic one (2)."""
    return changed(block(name, 0, kind), 157, target)


def pax(name: bytes, *records: bytes) -> bytes:
    return extended(b"x", b"".join(records)) + file(name)


def in_latin_1(path: str) -> bytes:
    """A pax record of a path whose question mark is a byte of Latin-1."""
    return record("path", path).replace(b"?", b"\xe4")


SPARSE_0_0 = [("size", "9"), ("numblocks", "1"), ("offset", "0"), ("numbytes", "5")]
TAR = b"".join([
    file(b"ustar/contiguous", b"7"),
    file(b"ustar/file"),
    block(b"ustar/folder", 0, b"5"),
    block(b"ustar/folder-with-size", 255, b"5"),
    link(b"ustar/hard", b"1", b"ustar/file"),
    link(b"ustar/symbolic", b"2", b"file"),
    block(b"ustar/block-device", 0, b"4"),
    block(b"ustar/character-device", 0, b"3"),
    block(b"ustar/pipe", 0, b"6"),
    member("ustar/zeros", bytes(86_016)),
    file(b"ustar/umlauts-" + LATIN_1),
    changed(block(b"name", len(DATA)), 345, b"ustar" + b"/12345" * 20) + padded(DATA),
    link(b"./ustar/links/symbolic", b"2", b"../file"),
    link(b"./ustar/links/hard", b"1", b"./ustar/file"),
    extended(b"L", f"gnu/{LONG}name\0".encode()) + file(b"gnu/123", magic=GNU),
    extended(b"K", f"gnu/{LONG}name\0".encode()) + extended(b"L", f"gnu/{LONG}link\0".encode())
    + link(b"gnu/123", b"1", b"gnu/123"),
    block(b"gnu/sparse", 5, b"S", magic=GNU, rest=SPARSE + b"\x0000000001000\0") + padded(b"hello"),
    extended(b"x", b"".join(record(f"GNU.sparse.{key}", value) for key, value in SPARSE_0_0))
    + member("gnu/sparse-0.0", b"hello"),
    extended(b"x", record("GNU.sparse.map", "0,5") + record("GNU.sparse.size", "9"))
    + member("gnu/sparse-0.1", b"hello"),
    extended(b"x", b"".join(record(*pair) for pair in SPARSE_1_0))
    + member("gnu/sparse-1.0", padded(b"1\n0\n5\n") + b"hello"),
    changed(block(b"gnu/owner", len(DATA), magic=GNU), 108, b"\x80\0\0\0\xff\xff\xff\xff") + padded(DATA),
    file(b"misc/v7", b"\0", V7),
    signed(block(b"misc/signed-sum-" + LATIN_1, len(DATA))) + padded(DATA),
    signed(block(b"misc/v7-signed-sum-" + LATIN_1, len(DATA), b"\0", magic=V7)) + padded(DATA),
    block(b"misc/v7-folder/", 0, b"\0", magic=V7),
    extended(b"X", record("mtime", SUN)) + file(b"misc/solaris"),
    changed(block(b"misc/xstar", len(DATA)), 508, b"tar\0") + padded(DATA),
    pax(b"pax/123", record("path", f"pax/{LONG}name"), record("atime", SUN)),
    extended(b"x", record("path", f"pax/{LONG}link") + record("linkpath", f"pax/{LONG}name"))
    + link(b"pax/123", b"1", b"pax/123"),
    pax(b"pax/umlauts", record("path", "pax/umlauts-ÄÖÜäöüß")),
    extended(b"g", record("gname", "staff") + record("uname", "me") + record("VENDOR.umlauts", "ÄÖÜäöüß")),
    file(b"pax/after-a-global-header"),
    pax(b"pax/owners", record("gname", "other"), record("uname", "")),
    pax(b"pax/numbers", record("size", str(len(DATA))), record("uid", "123"), record("mtime", SUN)),
    pax(b"pax/latin-1", in_latin_1("pax/latin-1-?")),
    pax(b"pax/charset", record("hdrcharset", "BINARY"), in_latin_1("pax/charset-?")),
    member("misc/end"),
]) + END  # fmt: skip
STORED = 23  # files and folders; not links, devices and sparse files

SCRIPT = b'#!/bin/sh\nexec python3 "$0" "$@"\n' * 20
TWO = [deflated(b"main.py", b"print(1)\n" * 99), ZipRecord(b"data", DATA)]


def zip64(entries: list[ZipRecord], before: bytes) -> bytes:
    """After something else; only the records for large files say where the directory is."""
    local, directory = body(entries, len(before))
    at = len(before) + len(local)
    end = end_records64(len(entries), len(directory), at, at + len(directory), (len(entries), len(directory), FULL))
    return before + local + directory + end


ZIPS = {
    "a script before it, which its offsets leave out": pack(TWO, before=SCRIPT),
    "a script before it, which its offsets count": pack(TWO, before=SCRIPT, base=len(SCRIPT)),
    "a script before a zip64": zip64(TWO, SCRIPT),
    "names in code page 437": pack([
        deflated("with æoå.txt".encode("cp437"), b"hello", ZipRecord(b"", system=FAT, flags=2)),
        deflated(b"without.txt", b"world", ZipRecord(b"", system=FAT, flags=2)),
    ]),
    "folders": pack([
        ZipRecord(b"a/", attributes=0o40755 << 16 | 16), ZipRecord(b"a/b/", attributes=0o40755 << 16 | 16),
        ZipRecord(b"a/b/c", extra=struct.pack("<HHBI", 0x5455, 5, 3, 1_500_000_000)),
    ]),
    "backslashes": pack([
        ZipRecord(b"a\\b\\c", DATA, system=FAT, attributes=32), ZipRecord(b"d\\e\\", system=FAT, attributes=32),
    ]),
}  # fmt: skip
RECURSION = block(b"b", 4, b"g") + b"0 X="  # a pax record whose length leads to itself (CVE-2019-20907)


def shipped(*names: str) -> dict[str, bytes]:
    """Those of CPython's test archives that came with the running Python: all, some or none."""
    spec = importlib.util.find_spec("test")
    roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
    folders = [root / each for root in roots for each in ("", "archivetestdata", "ziptestdata")]
    return {name: (folder / name).read_bytes() for name in names for folder in folders if (folder / name).is_file()}
