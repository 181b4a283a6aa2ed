"""Zip members by their method: what is unpacked, and what is refused by its name."""

from __future__ import annotations

import bz2
import lzma
import random
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from conftest import Cli
from source_server import SourceServer
from test_archives import RIGHT, File, extract, flipped, frugal, pack_zip, zipped
from test_hostile import MB
from zips_by_hand import READERS, Entry, files_by, pack

NOISE = random.Random(8).randbytes(20_000)
DATA = {"empty": b"", "text": b"photo " * 3_000, "noise": NOISE}
UNPACKED = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def lzma_entry(name: str, data: bytes, *, dictionary: int = 1 << 20, has_end: bool = False, claimed: int = 0) -> Entry:
    """As 7z and WinZip write it: without the mark at the end of the stream, or with it and the flag that says so."""
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "lc": 3, "lp": 0, "pb": 2}]
    stream = lzma.compress(data, lzma.FORMAT_RAW, filters=filters)
    alone = lzma.compress(data, lzma.FORMAT_ALONE, filters=filters)[13:]
    packed = struct.pack("<BBHBI", 9, 20, 5, 93, claimed or dictionary) + (alone if has_end else stream)
    return Entry(name.encode(), packed, 14, 2 * has_end, zlib.crc32(data), size=len(data))


def xz_entry(name: str, data: bytes) -> Entry:
    return Entry(name.encode(), lzma.compress(data), 95, crc=zlib.crc32(data), size=len(data))


@pytest.mark.parametrize("span", [1, 1 << 20])
@pytest.mark.parametrize("chunk", [1, 7, 65536])
@pytest.mark.parametrize("method", UNPACKED)
def test_members_that_zipfile_writes(method: int, chunk: int, span: int) -> None:
    packed = pack_zip(method)([File(name, data) for name, data in DATA.items()])
    assert {got.name: got.data for got in extract(packed, span, chunk)} == DATA


ENTRIES = {
    "LZMA with an end mark": [lzma_entry(name, data, has_end=True) for name, data in DATA.items()],
    "LZMA without": [lzma_entry(name, data) for name, data in DATA.items()],
    "XZ": [xz_entry(name, data) for name, data in DATA.items()],
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_members_that_others_write(kind: str) -> None:
    assert {got.name: got.data for got in extract(pack(ENTRIES[kind]))} == DATA


@pytest.mark.parametrize("reader", ["7z", "bsdtar"])  # unzip has neither
@pytest.mark.parametrize("kind", ENTRIES)
def test_others_read_the_same(kind: str, reader: str, tmp_path: Path) -> None:
    entries = [entry for entry in ENTRIES[kind] if entry.size]
    assert files_by(reader, pack(entries), tmp_path) == {name: data for name, data in DATA.items() if data}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_others_read_what_zipfile_writes(method: int, reader: str, tmp_path: Path) -> None:
    assert files_by(reader, pack_zip(method)([File(*each) for each in DATA.items()]), tmp_path) == DATA


def test_they_are_stored_by_the_program(cli: Cli, mirror: SourceServer, tmp_path: Path) -> None:
    entries = [
        *ENTRIES["LZMA without"],
        Entry(b"bz", bz2.compress(NOISE), 12, crc=zlib.crc32(NOISE), size=len(NOISE)),
    ]
    mirror.files["/low-resolution.zip"] = pack(entries)
    del mirror.files["/SHA256SUMS"]
    assert cli("-d", "tsinghua", "--mirror", mirror.url, "--to", tmp_path / "out").returncode == 0
    stored = {name: (tmp_path / "out/tsinghua" / name).read_bytes() for name in (*DATA, "bz")}
    assert stored == {**DATA, "bz": NOISE}


# ── damage, and memory ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", [12, 14, 95])
def test_bits_flipped_in_a_member(method: int) -> None:
    entry = {12: Entry(b"six", bz2.compress(b"six" * 300), 12, crc=zlib.crc32(b"six" * 300), size=900)}.get(method)
    entry = entry or (lzma_entry if method == 14 else xz_entry)("six", b"six" * 300)
    packed = pack([Entry(b"one", b"one" * 300), entry, Entry(b"two", b"two" * 300)])
    start = 933 + 33
    for bit in range(8 * start, 8 * (start + len(entry.data))):
        first, second, third = extract(flipped(packed, bit))
        assert (first, third) == (RIGHT[0], RIGHT[2])
        assert second == RIGHT[1] or second.damaged


@pytest.mark.parametrize("length", [0, 3, 8, 9, 20])
def test_a_stream_that_is_cut_off(length: int) -> None:
    for entry in (lzma_entry("a", NOISE), xz_entry("a", NOISE)):
        cut = Entry(entry.name, entry.data[:length], entry.method, crc=entry.crc, size=entry.size)
        [got] = extract(pack([cut]))
        assert got.damaged and got.refusal.startswith("damaged: ")


def test_a_dictionary_of_4_gib_takes_no_more_than_the_member() -> None:
    packed = pack([lzma_entry("a", NOISE, claimed=0xFFFFFFFF)])
    with frugal(memory=8 * MB):
        [got] = extract(packed, chunk=MB)
    assert got.data == NOISE


@pytest.mark.parametrize("method", [12, 14, 95])
def test_a_member_that_unpacks_to_more_than_it_says(method: int) -> None:
    zeros = bytes(40 * MB)
    if method == 14:
        entry = lzma_entry("bomb", zeros, has_end=True)
    else:
        entry = Entry(b"bomb", bz2.compress(zeros) if method == 12 else lzma.compress(zeros), method)
    entry = Entry(b"bomb", entry.data, method, crc=zlib.crc32(zeros), size=1000)
    with frugal(seconds=20, memory=12 * MB):
        [got] = extract(pack([entry]))
    assert got.damaged and got.data is None


# ── what is refused ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "flags", "reason"),
    [
        (1, 0, "compressed by method 1 (Shrink)"),
        (6, 0, "compressed by method 6 (Implode)"),
        (9, 0, "compressed by method 9 (Deflate64)"),
        (20, 0, "compressed by method 20 (Zstandard)"),
        (93, 0, "compressed by method 93 (Zstandard)"),
        (97, 0, "compressed by method 97 (WavPack)"),
        (98, 0, "compressed by method 98 (PPMd)"),
        (7, 0, "compressed by method 7"),
        (0xFFFF, 0, "compressed by method 65535"),
        (8, 1, "encrypted (ZipCrypto)"),
        (99, 1, "encrypted (AES)"),
        (8, 0x41, "encrypted (PKWARE strong encryption)"),
        (0, 0x20, "a patch to another file"),
    ],
)
def test_what_is_not_unpacked_is_named(method: int, flags: int, reason: str) -> None:
    sound = Entry(b"a", b"1"), Entry(b"z", b"2")
    first, refused, last = extract(pack([sound[0], Entry(b"b", b"???", method, flags, size=9), sound[1]]))
    assert (first.data, last.data) == (b"1", b"2")
    assert (refused.data, refused.damaged) == (None, False)
    assert refused.refusal in (reason, f"{reason}; stored, deflated, bzip2, LZMA and XZ are supported")


def test_a_zip_of_each_method_is_what_it_was() -> None:
    assert [extract(zipped(method)) for method in UNPACKED] == [RIGHT] * 4
