"""Tar headers by their format, and the ends of tars: what GNU tar and bsdtar take out of the same bytes is right."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from archives import kinds
from archives.decompress import UNPACKED, unpack
from archives.tar_headers import number
from errors import ArchiveError
from support.archive_kinds import KINDS, SOUND, TARS
from support.archives import SPANS, Memory, extract, truth
from support.program import unlock
from support.tars import END, block, changed, extended, member, padded, record, signed
from support.zips import pack_zip

GNU, USTAR, V7 = b"ustar  \0", b"ustar\x0000", b""


def by_tool(tool: str, packed: bytes, to: Path) -> tuple[dict[str, bytes | None], int]:
    """What a program takes out of it, a folder being None, and its exit status."""
    to.mkdir()
    status = subprocess.run([tool, "-xf", "-", "-C", to], input=packed, capture_output=True, check=False).returncode
    unlock(to)
    found = ((str(path.relative_to(to)), path) for path in to.rglob("*"))
    return {name: None if path.is_dir() else path.read_bytes() for name, path in found}, status


def ours(packed: bytes, span: int = 4096) -> dict[str, bytes | None]:
    """The same of this program's readers."""
    found = dict[str, bytes | None]()
    for got in extract(packed, span):
        assert not got.refusal, got
        parts = got.name.rstrip("/").split("/")
        found |= {"/".join(parts[:end]): None for end in range(1, len(parts))}
        found["/".join(parts)] = None if got.name.endswith("/") else got.data
    return found


def resummed(header: bytes, form: bytes) -> bytes:
    """With its checksum in another form."""
    return header[:148] + form % int(header[148:154], 8) + header[156:]


TIMES = b"%011o\0%011o\0" % (1_500_000_111, 1_500_000_222)
STAR = changed(changed(changed(block(b"c", 1), 345, b"a/b"), 476, TIMES), 508, b"tar\0")
FORMATS = {
    "v7": block(b"a/b", 1, b"\0", magic=V7) + padded(b"1"),
    "v7 with something where ustar has the prefix": changed(block(b"b", 1, b"\0", magic=V7), 345, b"x") + padded(b"1"),
    "ustar with a prefix": changed(block(b"c", 1, magic=USTAR), 345, b"a/b") + padded(b"1"),
    "ustar with a prefix of 155 bytes": changed(block(b"c", 1, magic=USTAR), 345, b"a" * 155) + padded(b"1"),
    "GNU with times in place of the prefix": changed(block(b"b", 1, magic=GNU), 345, TIMES) + padded(b"1"),
    "GNU of several volumes, with an offset": changed(block(b"b", 1, magic=GNU), 369, b"00000000000\0") + padded(b"1"),
    "star": STAR + padded(b"1"),
    "a contiguous file": block(b"b", 1, b"7") + padded(b"1"),
    "an old folder": block(b"d/", 0, b"\0", magic=V7) + member("d/f", b"1"),
    "a folder with a size and no data": block(b"d/", 1, b"\0", magic=V7) + member("d/f", b"1"),
    "a folder": block(b"d", 0, b"5") + member("d/f", b"1"),
    "a dump of a folder": block(b"d/", 4, b"D", magic=GNU) + padded(b"Yf\0\0") + member("d/f", b"1"),
    "a dump of an empty folder": block(b"d/", 1, b"D", magic=GNU) + padded(b"\0") + member("d/f", b"1"),
    "a volume's label": block(b"label", 0, b"V", magic=GNU) + member("f", b"1"),
    "a base-256 size": block(b"f", b"\x80" + (3).to_bytes(11, "big")) + padded(b"abc"),
    "a size without an end": block(b"f", b"000000000003") + padded(b"abc"),
    "a size with spaces": block(b"f", b"         3  ") + padded(b"abc"),
    "a sum of signed bytes": signed(block("é".encode(), 1)) + padded(b"1"),
    "a sum without its NUL": resummed(block(b"f", 1), b"%07o ") + padded(b"1"),
    "a sum with something after its NUL": resummed(block(b"f", 1), b"%06o\0x") + padded(b"1"),
    "a folder with data": block(b"d/", 5, b"5") + padded(b"names") + member("d/f", b"1"),
    "a GNU long name": extended(b"L", b"n" * 150 + b"\0") + member("n" * 99, b"1"),
    "a pax name and size": extended(b"x", record("path", "é" * 70) + record("size", "3"))
    + block(b"f", 1) + padded(b"abc"),
    "a Solaris pax name": extended(b"X", record("path", "p" * 120)) + member("f", b"1"),
    "a pax record without a key": extended(b"x", record("", "v") + record("path", "p")) + member("f", b"1"),
    "a pax record without a value": extended(b"x", record("path", "")) + member("f", b"1"),
    "pax records that change nothing": extended(b"x", record("mtime", "x") + record("uid", "-1")) + member("f", b"1"),
    "a global pax header": extended(b"g", record("comment", "c" * 900)) + member("f", b"1"),
}  # fmt: skip

DISPUTED = {
    ("a folder with a size and no data", "tar"),  # loses the member after it
    ("a sum with something after its NUL", "bsdtar"),  # takes it for damage, as 7z and tarfile do not
    ("a folder with data", "tar"),  # says that it skips to the next header, with status 2
    ("a pax record without a key", "bsdtar"),  # ends there
    ("a Solaris pax name", "bsdtar"),  # libarchive 3.6 takes it for a file
    ("a pax record without a value", "tar"),  # takes it for a file without a name
}


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("name", FORMATS)
def test_headers_mean_what_their_format_says(name: str, span: int, tmp_path: Path) -> None:
    packed = member("before", b"b" * 700) + FORMATS[name] + member("after", bytes(600)) + END
    found = ours(packed, span)
    assert ours(gzip.compress(packed), span) == found
    for tool in ("tar", "bsdtar"):
        right, _ = by_tool(tool, packed, tmp_path / tool)
        if (name, tool) not in DISPUTED:
            assert right == found, tool


BROKEN = {
    "mode": (100, 8),
    "owner": (108, 8),
    "group": (116, 8),
    "time": (136, 12),
    "names": (265, 64),
    "device": (329, 16),
}


@pytest.mark.parametrize("junk", [b"\xff" * 64, b"x" * 64, b"-1 " * 22, b"\0" * 64, b"9" * 64], ids=range(5))
@pytest.mark.parametrize("field", BROKEN)
def test_a_field_that_changes_no_byte_fails_nothing(field: str, junk: bytes) -> None:
    at, size = BROKEN[field]
    packed = member("a", b"1") + changed(block(b"b", 1), at, junk[:size]) + padded(b"2") + member("c", b"3") + END
    for span in SPANS:
        assert [(got.name, got.data) for got in extract(packed, span)] == [("a", b"1"), ("b", b"2"), ("c", b"3")]


@pytest.mark.parametrize("size", ["-1024", "-1", "x", "1.5", "9" * 30])
def test_a_pax_size_that_is_none_loses_no_member_without_a_word(size: str) -> None:
    """tarfile, from Python 3.11.14 on, went on behind it: its constructor reads a header too."""
    packed = member("before") + extended(b"x", record("size", size)) + member("a", b"1") + member("after") + END
    for span in SPANS:
        with pytest.raises(ArchiveError, match="impossible size"):
            extract(packed, span)


def test_an_empty_long_name_is_a_member_without_a_name() -> None:
    found = extract(member("before") + extended(b"L", b"\0") + member("f", b"1") + member("after") + END)
    assert [got.name for got in found] == ["before", "", "after"]  # as GNU tar and libarchive list them


def test_a_first_header_that_is_bad_is_reported() -> None:
    with pytest.raises(ArchiveError, match="impossible size"):
        extract(extended(b"x", record("size", "-1024")) + member("a", b"1") + END)


@pytest.mark.parametrize(("field", "expected"), [
    (b"0000644\0", 0o644), (b"   644 \0", 0o644), (b"\0" * 8, 0), (b" " * 8, 0), (b"12345670", 0o12345670),
    (b"x" * 8, None), (b"0000648\0", None), (b"-1\0\0\0\0\0\0", None), (b"\x80\0\0\0\0\0\1\0", 256), (b"\xff" * 8, -1),
    (b"\xff" * 7 + b"\0", -256),
])  # fmt: skip
def test_numbers(field: bytes, expected: int | None) -> None:
    assert number(field) == expected


# ── ends ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("kind", TARS)
def test_another_tar_after_the_end_is_reported_and_not_read(
    kind: str, span: int, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    packed = KINDS[kind].pack(SOUND)
    both = packed + KINDS["gnu"].pack([SOUND[2]._replace(name="second")])
    assert extract(both, span) == truth(packed)
    assert f"another tar begins at byte {len(packed)}, after the end; it is not read, as by tar" in caplog.text
    assert "second" not in by_tool("tar", both, tmp_path / "tar")[0]
    caplog.clear()
    assert extract(gzip.compress(both), span) == truth(packed)
    assert f"another tar begins at byte {len(packed)}" in caplog.text


def test_a_tar_in_a_tar_is_not_taken_for_another_one(caplog: pytest.LogCaptureFixture) -> None:
    inner = KINDS["gnu"].pack(SOUND)
    for span in SPANS:
        assert len(extract(member("inner.tar", inner) + member("last") + END, span)) == 2
    assert not caplog.text


TAR = KINDS["gnu"].pack(SOUND)
ONE: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
AFTER = {
    "zeros": (bytes(4096), False),
    "one zero": (b"\0", False),
    "a line end": (b"\r\n", True),
    "text": (b"some text after it" * 9, True),
    "zeros and text": (bytes(700) + b"text", True),
}


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("kind", ONE)
@pytest.mark.parametrize("chunk", [1, 7, 65536])
def test_what_follows_a_compressed_tar_is_no_part_of_it(
    kind: str, after: str, chunk: int, caplog: pytest.LogCaptureFixture
) -> None:
    rest, is_told = AFTER[after]
    assert extract(ONE[kind](TAR) + rest, chunk=chunk) == truth(TAR)
    assert (f"what follows the end of the .{kind} is not read" in caplog.text) == is_told


@pytest.mark.parametrize("gap", [b"", bytes(4), bytes(512)])
@pytest.mark.parametrize("kind", ONE)
@pytest.mark.parametrize("chunk", [1, 7, 65536])
def test_several_streams(kind: str, gap: bytes, chunk: int) -> None:
    """As pigz, bgzip, pbzip2 and pixz write them, and an empty one at the end, as bgzip has it."""
    pieces = [TAR[at : at + 3000] for at in range(0, len(TAR), 3000)]
    packed = gap.join(ONE[kind](piece) for piece in [*pieces, b""])
    assert extract(packed, chunk=chunk) == truth(TAR)
    with pytest.raises(ArchiveError, match=rf"not a whole \.{kind} file: it is cut off"):
        extract(packed[:-3], chunk=chunk)
    with pytest.raises(ArchiveError, match=r"memory\.bin"):
        extract(packed[: -len(ONE[kind](b""))] + ONE[kind](b"")[:2], chunk=chunk)


@pytest.mark.parametrize("kind", ONE)
def test_a_compressed_tar_without_end_blocks(kind: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    bare = b"".join(member(file.name, file.data) for file in SOUND if file.data)
    for packed in (ONE[kind](bare), ONE[kind](bare[:-100])):
        caplog.clear()
        assert len(extract(packed)) == 4
        assert "without blocks of zeros; every member is whole" in caplog.text
    assert len([each for each in by_tool("tar", bare, tmp_path / "tar")[0].values() if each is not None]) == 4
    with pytest.raises(ArchiveError, match="cut off"):
        extract(ONE[kind](bare[:-1500]))


@pytest.mark.parametrize("pack", [bytes, *ONE.values()], ids=["tar", *ONE])
@pytest.mark.parametrize("tail", [b"\r\n", b"\n", b" \0\x1a"])
def test_a_line_end_instead_of_end_blocks(
    tail: bytes, pack: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    bare = member("a", b"1") + member("b", b"2")
    for span in SPANS:
        assert [got.data for got in extract(pack(bare + tail), span)] == [b"1", b"2"]
    assert caplog.messages.count(
        "memory.bin: it ends with its last member, without blocks of zeros; every member is whole"
    ) == len(SPANS)
    with pytest.raises(ArchiveError, match="at byte 2,048, got the end of the file"):
        extract(pack(bare + b"c.jpg"))


@pytest.mark.parametrize("zeros", [512, 1024, 100_000])
def test_zeros_are_an_empty_tar_only_if_nothing_else_follows(zeros: int) -> None:
    assert extract(bytes(zeros)) == []
    packed = pack_zip()(SOUND)
    assert extract(bytes(zeros) + packed) == truth(packed)
    for rest in (TAR, b"\1"):
        with pytest.raises(ArchiveError, match="expected a tar or zip archive, got something else"):
            extract(bytes(zeros) + rest)


@pytest.mark.parametrize("kind", ONE)
@pytest.mark.parametrize("data", [b"", b"text", gzip.compress(TAR), b"text" * 900], ids=range(4))
def test_what_is_compressed_and_no_tar(data: bytes, kind: str) -> None:
    with pytest.raises(ArchiveError, match="expected a compressed tar, got something else that is compressed"):
        extract(ONE[kind](data))


def test_a_little_that_unpacks_to_much_is_handed_on_piece_by_piece() -> None:
    packed = gzip.compress(bytes(50 << 20))
    assert max(map(len, unpack("a", "gz", iter([packed])))) <= UNPACKED
    assert sum(map(len, unpack("a", "gz", iter([packed])))) == 50 << 20


# ── other formats ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("head", "name"), [
    (b"\x28\xb5\x2f\xfd", "Zstandard"), (b"\x50\x2a\x4d\x18", "Zstandard"), (b"7z\xbc\xaf\x27\x1c\0\4", "7z"),
    (b"Rar!\x1a\x07\0", "RAR"), (b"Rar!\x1a\x07\1\0", "RAR"), (b"\x1f\x9d\x90", "compress"), (b"LZIP\1", "lzip"),
    (b"\x04\x22\x4d\x18", "LZ4"), (b"070701", "cpio"), (b"070707", "cpio"), (b"\xc7\x71", "cpio"), (b"!<arch>\n", "ar"),
    (b"\x5d\0\0\x80\0", "LZMA"), (b"xar!", "xar"), (b"MSCF", "cabinet"), (bytes(32769) + b"CD001", "iso"),
])  # fmt: skip
def test_other_formats_are_named_with_what_to_do(head: bytes, name: str) -> None:
    packed = head.ljust(40_000, b"?")
    with pytest.raises(ArchiveError, match=rf"got an? .*{name}.*: unpack it, pack the files as tar, tar\.gz or zip"):
        kinds.plan(Memory(packed))


def test_an_empty_file_is_named() -> None:
    with pytest.raises(ArchiveError, match="expected a tar or zip archive, got an empty file"):
        kinds.plan(Memory(b""))


def test_a_disk_image_of_macos() -> None:
    with pytest.raises(ArchiveError, match=r"a disk image \(\.dmg\)"):
        kinds.plan(Memory(b"?" * 4096 + b"koly".ljust(512, b"\0")))


def test_the_members_before_a_wrong_checksum_are_not_enough() -> None:
    packed = bytearray(gzip.compress(TAR))
    packed[-6] ^= 1
    with pytest.raises(ArchiveError, match=r"not a whole \.gz file: .*incorrect"):
        extract(bytes(packed))
