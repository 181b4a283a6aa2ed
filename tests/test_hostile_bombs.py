"""Archives that unpack to more than they seem, and the limits that refuse them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from archives import kinds, spans
from archives.spans import ALWAYS_ALLOWED_BYTES, Limits
from errors import ArchiveError
from pipeline.options import RunOptions
from support.archives import MB, File, Got, extract, frugal, replaced
from support.bench import Bench, failures, only
from support.program import Cli
from support.source_server import SourceServer
from support.tars import END, block, member, pack_pax, pack_tar
from support.zips import pack_zip

TIGHT = Limits(ratio=10)


@pytest.fixture
def nothing_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits as they are for archives of gigabytes, a few thousand times smaller."""
    monkeypatch.setattr(spans, "ALWAYS_ALLOWED_BYTES", MB // 4)


def bombs() -> dict[str, bytes]:
    tar = pack_tar(tarfile.GNU_FORMAT)([File("bomb.jpg", bytes(4 * MB))])
    return {
        "zip": pack_zip()([File("bomb.jpg", bytes(4 * MB))]),
        "tar.gz": gzip.compress(tar),
        "tar.bz2": bz2.compress(tar),
        "tar.xz": lzma.compress(tar, preset=0),
        "tar.gz of small members": gzip.compress(member("a.jpg", bytes(1000)) * 1000 + END),
        "tar.gz with zeros after its end": gzip.compress(END + bytes(4 * MB)),
        "tar.gz with a member that is skipped": gzip.compress(block(b"a", 1 << 32, b"Q") + bytes(4 * MB)),
    }


BOMBS = bombs()


@pytest.mark.usefixtures("nothing_free")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(name: str, bench: Bench) -> None:
    dataset = only(bench, name, BOMBS[name])
    with frugal(seconds=20), pytest.raises(ArchiveError, match=r"a\.\w+(\.\w+)?: unpacks to .* --max-ratio"):
        bench.extract(dataset, RunOptions(limits=TIGHT))
    assert bench.metadata() == {}
    assert "bomb.jpg" not in bench.objects()


@pytest.mark.usefixtures("nothing_free")
def test_what_the_user_allows_is_no_bomb(bench: Bench) -> None:
    dataset = bench.dataset(a_zip=BOMBS["zip"])
    assert bench.extract(dataset, RunOptions(limits=Limits(ratio=2000))).state == "complete"
    assert bench.objects() == {"bomb.jpg": bytes(4 * MB)}


def test_a_small_archive_may_unpack_to_much() -> None:
    assert Limits().most(1000) == ALWAYS_ALLOWED_BYTES == 1 << 30
    assert extract(BOMBS["zip"]) == [Got("bomb.jpg", 4 * MB, bytes(4 * MB))]


def overlapping(names: int = 100) -> bytes:
    """Many names for one deflated megabyte, all of whose local headers are the same bytes (a full overlap)."""
    packed = pack_zip()([File("0000", bytes(MB))])
    at = packed.index(b"PK\1\2")
    entry, end = packed[at : packed.index(b"PK\5\6")], packed[packed.index(b"PK\5\6") :]
    directory = b"".join(entry.replace(b"0000", b"%04d" % number) for number in range(names))
    sizes = struct.pack("<HHI", names, names, len(directory))
    return packed[:at] + directory + replaced(end, 8, sizes)


def quoting(names: int = 20) -> bytes:
    """David Fifield's overlap: each local header's extra field, or a stored block, has the next one in it.

    https://www.usenix.org/system/files/woot19-paper_fifield_0.pdf
    """
    kernel = zlib.compress(bytes(MB), 9, wbits=-15)
    crc = zlib.crc32(bytes(MB))

    def local(number: int, extra: int) -> bytes:
        sizes = (crc, len(kernel), MB, 4, extra)
        return struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 8, 0, 33, *sizes) + b"%04d" % number

    out = b"".join(local(number, 34 * (names - 1 - number)) for number in range(names)) + kernel
    directory = b"".join(
        struct.pack(
            "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 8, 0, 33, crc, len(kernel), MB, 4, 0, 0, 0, 0, 0, 34 * number
        )
        + b"%04d" % number
        for number in range(names)
    )
    return out + directory + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, names, names, len(directory), len(out), 0)


@pytest.mark.parametrize("packed", [overlapping(), quoting()], ids=["one for all", "quoting"])
def test_members_that_overlap_are_refused(packed: bytes, bench: Bench) -> None:
    """Only the last in the file is whole; zipfile refuses the others too (since Python 3.11.8)."""
    count = len(zipfile.ZipFile(io.BytesIO(packed)).namelist())
    result = bench.extract(bench.dataset(a_zip=packed))
    assert result.status == 3 and len(bench.objects()) <= 1
    assert len(failures(bench)) >= count - 1
    assert all("overlaps" in reason or "no local header" in reason for reason in failures(bench).values())


def test_a_bomb_in_an_archive_stays_packed(bench: Bench) -> None:
    inner = pack_zip()([File("bomb", bytes(20 * MB))])
    members = {"a.zip": inner, "b.tar.gz": gzip.compress(inner)}
    assert bench.extract(bench.dataset(a_tar=pack_pax([File(*each) for each in members.items()]))).state == "complete"
    assert bench.objects() == members


def test_a_deflated_member_with_an_end_long_before_its_last_byte() -> None:
    """What follows the end of the stream is not kept: it was, each chunk added to all before it."""
    stream = zlib.compress(b"short", wbits=-15)
    packed = pack_zip(zipfile.ZIP_STORED)([File("a", stream + bytes(30 * MB))])
    at = packed.index(b"PK\1\2")
    packed = replaced(packed, at + 10, struct.pack("<H", 8))
    packed = replaced(packed, at + 16, struct.pack("<I", zlib.crc32(b"short")))
    packed = replaced(packed, at + 24, struct.pack("<I", 5))
    with frugal(memory=16 * MB):
        assert extract(packed, chunk=MB) == [Got("a", 5, b"short")]


def test_an_xz_that_asks_for_gigabytes_of_memory() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    packed = bytearray(lzma.compress(END, check=lzma.CHECK_NONE, filters=filters))
    at = packed.index(b"\x21\x01") + 2  # the block header's dictionary, as a code for its size; a CRC-32 follows
    packed[at] = 40  # 4 GiB - 1
    length = (packed[12] + 1) * 4
    packed[12 + length - 4 : 12 + length] = struct.pack("<I", zlib.crc32(packed[12 : 12 + length - 4]))
    with pytest.raises(ArchiveError, match=r"memory\.bin: not a whole \.xz file: Memory usage limit exceeded"):
        extract(bytes(packed))
    assert extract(lzma.compress(END, preset=9 | lzma.PRESET_EXTREME)) == []


@dataclass
class Endless:
    """An archive of any size, all zeros but for its end."""

    size: int
    end: bytes
    name: str = "vast.zip"
    largest: int = field(default=0)

    def read(self, start: int, stop: int) -> bytes:
        assert 0 <= start <= stop <= self.size
        self.largest = max(self.largest, stop - start)
        assert stop - start <= 300 * MB, "more than fits into the memory"
        tail = self.end[max(0, start - self.size + len(self.end)) : max(0, stop - self.size + len(self.end))]
        return tail.rjust(stop - start, b"\1" if start == 0 else b"\0")

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        yield self.read(start, stop)


def test_a_zip_directory_of_half_a_terabyte_is_not_read() -> None:
    size = 600 << 30
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 500 << 30, 10)
    end = end64 + struct.pack("<4sIQI", b"PK\6\7", 0, size - 98, 1)
    end += struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    with frugal(), pytest.raises(ArchiveError, match=r"vast\.zip: a zip directory of 536,870,912,000 bytes; at most"):
        kinds.plan(Endless(size, end))


def test_a_tar_that_claims_more_than_the_limit_is_not_begun() -> None:
    class Tar(Endless):
        def read(self, start: int, stop: int) -> bytes:
            return member("a")

    with frugal(), pytest.raises(ArchiveError, match=r"--max-unpacked"):
        kinds.plan(Tar(10**13, b"", "vast.tar"))
    with frugal():
        assert len(kinds.plan(Tar(5 * 10**9, b"", "five.tar"))) == 597


@pytest.mark.parametrize("limit", ["--max-ratio", "--max-unpacked"])
def test_the_limits_are_the_users(cli: Cli, mirror: SourceServer, tmp_path: Path, limit: str) -> None:
    packed = pack_zip()([File("low-resolution/a/b.jpg", random.Random(5).randbytes(3 * MB))])
    at = packed.index(b"PK\1\2")
    mirror.files["/low-resolution.zip"] = replaced(packed, at + 24, struct.pack("<I", 3_000_000_000))
    del mirror.files["/SHA256SUMS"]
    to = ("-d", "tsinghua", "--to", tmp_path / "out", "--mirror", mirror.url)
    tight = {
        "--max-ratio": ("--max-ratio", "100"),
        "--max-unpacked": ("--max-ratio", "10000000", "--max-unpacked", "2"),
    }
    refused = cli(*to, *tight[limit])
    assert refused.returncode == 1
    assert re.search(r"low-resolution.zip: unpacks to 3,000,000,000 bytes or more.*" + limit, refused.stderr)
    allowed = cli(*to, SPOTTED_MAX_RATIO="10000000")
    assert allowed.returncode == 3 and "damaged: expected 3,000,000,000 bytes" in allowed.stderr
