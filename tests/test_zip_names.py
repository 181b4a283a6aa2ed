"""Names in zips: their encoding, their separators, and which of them are folders, as unzip, 7z and bsdtar have it."""

from __future__ import annotations

import logging
import stat
import struct
import unicodedata
import zlib
from pathlib import Path

import pytest

from support.archives import extract
from support.program import Cli
from support.source_server import SourceServer
from support.zip_records import FAT, MACOS, NTFS, READERS, UNIX, ZipRecord, files_by, pack

UTF_8 = 0x800


def names(*entries: ZipRecord) -> list[str]:
    return [got.name for got in extract(pack(entries))]


def unicode_path(raw: bytes, name: str, crc: int | None = None, version: int = 1) -> bytes:
    data = struct.pack("<BI", version, zlib.crc32(raw) if crc is None else crc) + name.encode()
    return struct.pack("<HH", 0x7075, len(data)) + data


# ── encodings ────────────────────────────────────────────────────────────────────────────────────

CP437 = "Köter.jpg".encode("cp437")


@pytest.mark.parametrize(
    ("raw", "flags", "extra", "name"),
    [
        (CP437, 0, unicode_path(CP437, "犬.jpg"), "犬.jpg"),
        (b"?.jpg", 0, unicode_path(b"?.jpg", "犬.jpg"), "犬.jpg"),
        (b"?.jpg", 0, struct.pack("<HHB", 0x5455, 1, 0) + unicode_path(b"?.jpg", "犬.jpg"), "犬.jpg"),
        (b"a.jpg", UTF_8, unicode_path(b"a.jpg", "犬.jpg"), "犬.jpg"),
        (CP437, 0, unicode_path(CP437, "犬.jpg", crc=1), "Köter.jpg"),
        (CP437, 0, unicode_path(CP437, "犬.jpg", version=2), "Köter.jpg"),
        (CP437, 0, unicode_path(CP437, "犬.jpg")[:-1], "Köter.jpg"),
        (CP437, 0, unicode_path(CP437, ""), "Köter.jpg"),
        (b"?.jpg", 0, unicode_path(b"?.jpg", "ö.jpg").replace("ö".encode(), b"\xf6?"), "?.jpg"),
        ("Köter.jpg".encode(), UTF_8, b"", "Köter.jpg"),
        ("Köter.jpg".encode(), 0, b"", "Köter.jpg"),
        ("藏獒.jpg".encode(), 0, b"", "藏獒.jpg"),
        (CP437, 0, b"", "Köter.jpg"),
        (CP437, UTF_8, b"", "K\udc94ter.jpg"),
        (b"a.jpg\0.exe", 0, b"", "a.jpg"),
    ],
    ids=[
        "field", "field of an ASCII name", "field after another", "field and flag", "field of another name",
        "field of version 2", "field cut off", "field without a name", "field that is not UTF-8",
        "flag", "no flag", "no flag, Chinese", "DOS",
        "flag, but not UTF-8", "NUL",
    ],
)  # fmt: skip
def test_the_encoding_of_a_name(raw: bytes, flags: int, extra: bytes, name: str) -> None:
    assert names(ZipRecord(raw, b"1", flags=flags, extra=extra)) == [name]


def test_names_that_are_neither_ascii_nor_utf_8_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    entries = [
        ZipRecord(CP437),
        ZipRecord("ä.jpg".encode("cp437")),
        ZipRecord("ö.jpg".encode()),
        ZipRecord(b"a.jpg"),
    ]
    assert names(*entries) == ["Köter.jpg", "ä.jpg", "ö.jpg", "a.jpg"]
    assert [record.getMessage() for record in caplog.records] == [
        "memory.bin: 2 names are neither ASCII nor UTF-8; they are read as code page 437"
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_decomposed_names_stay_as_they_are_and_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spotted")
    decomposed = [unicodedata.normalize("NFD", name) for name in ("é.jpg", "ö/ä.jpg")]
    assert names(*(ZipRecord(name.encode(), flags=UTF_8) for name in (*decomposed, "é.jpg"))) == [
        *decomposed,
        "é.jpg",
    ]
    logged = [record.getMessage() for record in caplog.records]
    assert logged == ["memory.bin: 2 names have decomposed letters (NFD), and are kept so"]


def test_names_that_become_equal_are_one_name() -> None:
    """The same name as UTF-8 and as code page 437: the last in the file counts."""
    found = extract(pack([ZipRecord("ö.jpg".encode(), b"1"), ZipRecord("ö.jpg".encode("cp437"), b"2")]))
    assert [(got.name, got.data) for got in found] == [("ö.jpg", b"2")]


def test_the_last_in_the_file_counts_whatever_the_directorys_order() -> None:
    first, second = ZipRecord(b"a", b"1"), ZipRecord(b"a", b"2")
    size = len(first.local())
    turned = first.local() + second.local() + second.record(size) + first.record(0)
    end = pack([first, second])[-22:]
    assert [got.data for got in extract(turned + end)] == [b"2"]


# ── separators ───────────────────────────────────────────────────────────────────────────────────

WINDOWS = (b"n1\\", b"n1\\a.jpg", b"n2\\b.jpg")
SLASHED = ["n1/", "n1/a.jpg", "n2/b.jpg"]


@pytest.mark.parametrize("system", [FAT, NTFS, 11, 14, UNIX], ids=["FAT", "NTFS", "Info-ZIP's NTFS", "VFAT", "Unix"])
def test_backslashes_where_no_name_has_a_slash(system: int, caplog: pytest.LogCaptureFixture) -> None:
    assert names(*(ZipRecord(name, system=system) for name in WINDOWS)) == SLASHED
    assert caplog.messages == ["memory.bin: 3 names have backslashes; they are read as slashes"]


def test_backslashes_beside_slashes_count_where_the_maker_has_such() -> None:
    assert names(ZipRecord(b"n1/a.jpg", system=FAT), ZipRecord(b"n2\\b.jpg", system=FAT)) == [
        "n1/a.jpg",
        "n2/b.jpg",
    ]
    assert names(ZipRecord(b"n1/a.jpg"), ZipRecord(b"n2\\b.jpg")) == [
        "n1/a.jpg",
        "n2\\b.jpg",
    ]  # which no object may be called


@pytest.mark.parametrize("raw", [b"..\\x.jpg", b"a\\..\\..\\x.jpg", b"\\x.jpg", b"C:\\x.jpg", b"\\\\host\\x.jpg"])
def test_a_backslash_leads_out_as_a_slash_does(raw: bytes, cli: Cli, mirror: SourceServer, tmp_path: Path) -> None:
    mirror.files["/low-resolution.zip"] = pack(
        [ZipRecord(b"a\\b.jpg", b"1", system=FAT), ZipRecord(raw, b"2", system=FAT)]
    )
    del mirror.files["/SHA256SUMS"]
    done = cli("-d", "tsinghua", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 3
    assert "a name that leads out of its folder" in done.stderr or "an absolute name" in done.stderr
    assert (tmp_path / "out/tsinghua/a/b.jpg").read_bytes() == b"1"
    assert {path.name for path in tmp_path.rglob("*.jpg")} >= {"b.jpg"} and not list(tmp_path.rglob("x.jpg"))


# ── folders ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("system", "attributes", "name"),
    [
        (FAT, 0x10, "n1/"),
        (NTFS, 0x10, "n1/"),
        (UNIX, (stat.S_IFDIR | 0o755) << 16, "n1/"),
        (MACOS, (stat.S_IFDIR | 0o755) << 16, "n1/"),
        (UNIX, 0x10, "n1/"),
        (FAT, 0x20, "n1"),
        (UNIX, (stat.S_IFREG | 0o644) << 16, "n1"),
        (UNIX, (stat.S_IFREG | 0o644) << 16 | 0x10, "n1"),
        (FAT, (stat.S_IFDIR | 0o755) << 16, "n1"),
    ],
)
def test_folders_by_their_attributes(system: int, attributes: int, name: str) -> None:
    assert names(ZipRecord(b"n1", system=system, attributes=attributes)) == [name]


def test_a_folder_by_its_attributes_that_has_data_is_a_file() -> None:
    [got] = extract(pack([ZipRecord(b"n1", b"data", system=FAT, attributes=0x10)]))
    assert (got.name, got.data) == ("n1", b"data")


@pytest.mark.parametrize("attributes", [0, 0x20, (stat.S_IFREG | 0o644) << 16, (stat.S_IFDIR | 0o755) << 16])
@pytest.mark.parametrize("system", range(20))
def test_an_empty_entry_that_others_are_in_is_a_folder(system: int, attributes: int) -> None:
    entry = ZipRecord(b"n1", system=system, attributes=attributes)
    assert names(entry, ZipRecord(b"n1/n2/a.jpg", b"1"), ZipRecord(b"n2")) == ["n1/", "n1/n2/a.jpg", "n2"]


@pytest.mark.parametrize(
    "entry",
    [
        ZipRecord(b"n1/", flags=1),
        ZipRecord(b"n1/", method=9),
        ZipRecord(b"n1/", method=99),
        ZipRecord(b"n1/", attributes=(stat.S_IFLNK | 0o777) << 16),
        ZipRecord(b"n1", size=4096, system=FAT, attributes=0x10),
    ],
    ids=["encrypted", "Deflate64", "AES", "a link's mode", "a size"],
)
def test_a_folder_without_data_needs_no_unpacking(entry: ZipRecord) -> None:
    assert [(got.name, got.data, got.refusal) for got in extract(pack([entry]))] == [("n1/", b"", "")]


# ── beside other programs ────────────────────────────────────────────────────────────────────────

ZIPS = {
    "Windows": [
        ZipRecord(b"low\\n1\\", system=FAT),
        ZipRecord(b"low\\n1\\a.jpg", b"1" * 40, system=FAT),
        ZipRecord(b"low\\n2\\b.jpg", b"2", system=FAT),
    ],
    "folders of DOS": [
        ZipRecord(b"low", system=FAT, attributes=0x10),
        ZipRecord(b"low/n1", system=FAT, attributes=0x10),
        ZipRecord(b"low/n1/a.jpg", b"1", system=FAT, attributes=0x20),
    ],
    "folders of Unix": [
        ZipRecord(b"low", attributes=(stat.S_IFDIR | 0o755) << 16),
        ZipRecord(b"low/a.jpg", b"1", attributes=(stat.S_IFREG | 0o644) << 16),
    ],
    "macOS": [
        ZipRecord("n02-Münsterländer/Köter.jpg".encode(), b"1", attributes=(stat.S_IFREG | 0o644) << 16),
        ZipRecord("藏獒/藏獒1.jpg".encode(), b"2", attributes=(stat.S_IFREG | 0o644) << 16),
    ],
    "flag": [ZipRecord("Köter/ä.jpg".encode(), b"1", flags=UTF_8)],
    "Info-ZIP's field": [
        ZipRecord(b"?.jpg", b"1", extra=unicode_path(b"?.jpg", "犬.jpg"), local_extra=unicode_path(b"?.jpg", "犬.jpg"))
    ],
    "another name in the local header": [ZipRecord(b"right.jpg", b"1", local_name=b"wrong.jpg")],
}
EXCEPT = {
    ("Windows", "7z"),  # it takes backslashes for letters, except for archives that it knows to be of Windows
    ("folders of DOS", "unzip"),  # it takes them for files, and then cannot make the folders
    ("folders of Unix", "unzip"),
    ("another name in the local header", "bsdtar"),  # it takes the local header's
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ZIPS)
def test_names_are_as_other_programs_have_them(kind: str, reader: str, tmp_path: Path) -> None:
    packed = pack(ZIPS[kind])
    ours = {got.name: got.data for got in extract(packed) if not got.name.endswith("/")}
    theirs = {name: data for name, data in files_by(reader, packed, tmp_path).items() if data is not None}
    assert len(ours) == sum(not got.name.endswith("/") for got in extract(packed))
    assert (ours == theirs) == ((kind, reader) not in EXCEPT), theirs


def test_a_local_header_that_spells_it_otherwise_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spotted")
    entries = [ZipRecord(b"a.jpg", b"1", local_name=b"A.JPG"), ZipRecord(b"b.jpg", b"2", local_name=b"B.JPG")]
    assert [got.data for got in extract(pack(entries))] == [b"1", b"2"]
    assert caplog.messages == [
        "memory.bin: 2 local headers spell the name otherwise; the directory's counts: A.JPG is a.jpg in the directory"
    ]
