"""Archives made to do harm, on their whole way: from a real server, through the readers, into a directory and a bucket.

What the readers alone make of damaged and hostile bytes is in test_archives.py; inputs by the thousand come from
fuzz_archives.py. docs/odd-inputs.md names the test of each hostile input.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import logging
import lzma
import os
import random
import re
import shutil
import struct
import subprocess
import tarfile
import time
import unicodedata
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import Cli, clean_environment, command
from fuzz_archives import check, mutate, seeds
from gcs_front import GcsFront
from source_server import SourceServer
from test_archives import (
    END,
    HUGE,
    RIGHT,
    SPARSE,
    File,
    Got,
    block,
    extended,
    extract,
    frugal,
    member,
    pack_tar,
    pack_zip,
    padded,
    record,
    replaced,
    truth,
    zipped,
)
from test_extraction import Bench
from vast import Vast, outer_join, served, tar_of_many, tar_of_one, zip_of_one

from archives import kinds, spans
from archives.spans import ALWAYS_ALLOWED, Limits
from datasets import Dataset
from errors import ArchiveError
from gcs import Destination, open_bucket
from pipeline.cluster import start_cluster
from pipeline.options import RunOptions, WorkerConfig

MB = 1 << 20
CPYTHON = Path(__file__).parent / "cpython"
pack_pax = pack_tar(tarfile.PAX_FORMAT)
PACKS = {"tar": pack_pax, "zip": pack_zip(zipfile.ZIP_STORED)}


# ── the way into a directory and into a bucket ───────────────────────────────────────────────────


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


@pytest.fixture
def folder(server: SourceServer, tmp_path: Path) -> Iterator[Bench]:
    destination = Destination(str(tmp_path / "out"))
    with start_cluster(WorkerConfig(destination, connections=4)) as workers:
        yield Bench(server, destination, workers)


@pytest.fixture
def api(server: SourceServer, front: GcsFront, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
    destination = Destination(f"gs://test-{uuid.uuid4().hex[:12]}", "api")
    open_bucket(destination).ready()
    with start_cluster(WorkerConfig(destination, connections=4)) as workers:
        yield Bench(server, destination, workers)


@pytest.fixture(params=["folder", "api"])
def bench(request: pytest.FixtureRequest) -> Bench:
    found: Bench = request.getfixturevalue(request.param)
    return found


def only(bench: Bench, name: str, data: bytes) -> Dataset:
    """A dataset of this archive alone."""
    return bench.dataset(False, **{f"a_{name.split(maxsplit=1)[0].replace('.', '_')}": data})


def failures(bench: Bench) -> dict[str, str]:
    """What failures.csv says: path → reason."""
    table = (bench.bucket.get("_extraction/mini/failures.csv") or b"").decode()
    return {row["path"]: row["reason"] for row in csv.DictReader(io.StringIO(table))}


# ── names ────────────────────────────────────────────────────────────────────────────────────────

OUT, ABSOLUTE, CONTROL = (
    "a name that leads out of its folder",
    "an absolute name",
    "a name with a control character",
)
NAMES = {
    "../out.jpg": OUT,
    "a/../../out.jpg": OUT,
    "a/..": OUT,
    "..": OUT,
    "a\\..\\..\\out.jpg": OUT,
    "\\\\host\\share\\out.jpg": OUT,
    "/etc/cron.d/out": ABSOLUTE,
    "//host/out.jpg": ABSOLUTE,
    "C:/out.jpg": ABSOLUTE,
    "c:out.jpg": ABSOLUTE,
    "new\nline.jpg": CONTROL,
    "forged.jpg\r\nstanford: complete": CONTROL,
    "\x1b[2J\x1b]0;title\x07.jpg": CONTROL,
    "delete\x7f.jpg": CONTROL,
    "c1\x9b2J.jpg": CONTROL,
    ".": "no name",
    "a/.spotted-part-1-1": "a name that this program keeps for itself",
    "long/" + "x" * 1100: "a name of 1,110 bytes; 1,024 are allowed",
    "é" * 510: "a name of 1,025 bytes; 1,024 are allowed",
}


@pytest.mark.parametrize("kind", PACKS)
def test_a_name_that_could_do_harm_is_refused(bench: Bench, kind: str) -> None:
    files = [File("first.jpg", b"1"), *(File(name, b"evil") for name in NAMES), File("last.jpg", b"2")]
    result = bench.extract(only(bench, kind, PACKS[kind](files)))
    assert (result.status, bench.objects()) == (3, {"first.jpg": b"1", "last.jpg": b"2"})
    found = failures(bench)
    assert sorted(found.values()) == sorted(NAMES.values())
    assert all(path.isprintable() and len(path) <= 201 for path in found)
    assert {row.path for row in result.missing} == set(found)


def test_nothing_is_written_beside_the_destination(folder: Bench, tmp_path: Path) -> None:
    folder.extract(folder.dataset(a_tar=pack_pax([File(name, b"evil") for name in NAMES])))
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"_extraction"}


@pytest.mark.parametrize("kind", PACKS)
def test_what_follows_a_nul_is_no_part_of_the_name(folder: Bench, kind: str) -> None:
    packed = PACKS[kind]([File("good.jpgX../../evil", b"1")]).replace(b"good.jpgX", b"good.jpg\0")
    packed = mended(packed) if kind == "tar" else packed
    assert [got.name for got in truth(packed)] == ["good.jpg"]
    folder.extract(only(folder, kind, packed))
    assert folder.objects() == {"good.jpg": b"1"}


def mended(packed: bytes) -> bytes:
    """With the first header's checksum put right."""
    head = packed[:148] + b" " * 8 + packed[156:512]
    return head[:148] + b"%06o\0 " % sum(head) + head[156:] + packed[512:]


def test_a_nul_in_a_pax_name_is_refused(folder: Bench) -> None:
    folder.extract(folder.dataset(a_tar=extended(b"x", record("path", "a\0b.jpg")) + member("x", b"1") + END))
    assert (folder.objects(), failures(folder)) == ({}, {r"mini/a\x00b.jpg": CONTROL})


def test_a_name_that_is_not_utf_8_is_refused_and_written_down(bench: Bench) -> None:
    packed = block(b"caf\xe9.jpg", 1) + padded(b"1") + member("good.jpg", b"2") + END
    assert bench.extract(bench.dataset(a_tar=packed)).status == 3
    assert (bench.objects(), failures(bench)) == (
        {"good.jpg": b"2"},
        {r"mini/caf\udce9.jpg": "a name that is not UTF-8"},
    )


ODD = [
    "café.jpg",
    unicodedata.normalize("NFD", "café.jpg"),  # another object, though it looks the same
    "space in it.jpg",
    " before and after ",
    "per%20cent%2Fslash.jpg",
    "a#b?c=d&e.jpg",
    "star*[1]{2}~.jpg",
    "quote'\"`.jpg",
    "-rf",
    "~root",
    "$HOME;id|x<y>z.jpg",
    "CON",
    "dot.",
    "漢字/🐕.jpg",
    "UPPER.jpg",
    "upper.jpg",
    "/".join(["d" * 200] * 5) + "/" + "n" * 14,  # 1,024 bytes with the prefix
]


@pytest.mark.parametrize("kind", PACKS)
def test_odd_names_are_kept_to_the_letter(bench: Bench, kind: str) -> None:
    """In a directory as far as its file system keeps them: macOS takes the first two for one."""
    files = [File(name, name.encode()) for name in ODD]
    assert len(f"mini/{ODD[-1]}".encode()) == 1024
    result = bench.extract(only(bench, kind, PACKS[kind](files)))
    assert (result.state, bench.objects()) == ("complete", {name: name.encode() for name in ODD})


@pytest.mark.parametrize("kind", PACKS)
@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile warns the writer
def test_of_members_of_one_name_the_last_counts_and_it_is_told(
    bench: Bench, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spotted")
    files = [
        File("a.jpg", b"old"),
        File("b.jpg", b"b"),
        File("./b.jpg", b"B"),
        File("a.jpg", b"new"),
        File("c//d", b"d"),
    ]
    result = bench.extract(only(bench, kind, PACKS[kind](files)))
    assert (result.state, bench.objects()) == ("complete", {"a.jpg": b"new", "b.jpg": b"B", "c/d": b"d"})
    told = re.findall(r"(\d+) members were replaced by a later one of the same name", caplog.text)
    assert sum(map(int, told)) == 2


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", PACKS)
def test_a_file_and_a_folder_of_one_name(folder: Bench, kind: str, turned: bool) -> None:
    """GCS has both, its names being flat. A directory cannot: one is missing; this run tells it, and the next."""
    files = [File("a", b"file"), File("a/b", b"in the folder")]
    packed = PACKS[kind](files[::-1] if turned else files)
    for _ in range(2):
        result = folder.extract(only(folder, kind, packed))
        assert result.status == 3
        assert folder.objects() == ({"a/b": b"in the folder"} if turned else {"a": b"file"})
        assert set(failures(folder).values()) <= {"Not a directory", "Is a directory", "File exists"}


@pytest.mark.parametrize(
    "packed",
    [member("a/", b"data"), pack_zip()([File("a/", b"data")])],
    ids=PACKS,
)
def test_a_folder_that_has_data_is_told(folder: Bench, packed: bytes) -> None:
    result = folder.extract(folder.dataset(a_tar=packed + (b"" if packed.startswith(b"PK") else END)))
    assert (result.status, failures(folder)) == (3, {"mini/a/": "a folder that has data"})


# ── links and devices ────────────────────────────────────────────────────────────────────────────


def test_a_link_is_not_followed_by_the_members_after_it(bench: Bench, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind, target in (
            ("way", tarfile.SYMTYPE, str(outside)),
            ("up", tarfile.SYMTYPE, "../../outside"),
            ("hard", tarfile.LNKTYPE, str(outside / "secret")),
            ("null", tarfile.CHRTYPE, ""),
            ("disk", tarfile.BLKTYPE, ""),
            ("pipe", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        for name in ("way/new", "up/new", "way/secret"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"evil"))
    assert bench.extract(bench.dataset(a_tar=file.getvalue())).status == 3
    assert bench.objects() == {"way/new": b"evil", "up/new": b"evil", "way/secret": b"evil"}
    assert len(failures(bench)) == 6
    assert [(path.name, path.read_bytes()) for path in outside.iterdir()] == [("secret", b"secret")]


# ── bombs ────────────────────────────────────────────────────────────────────────────────────────

TIGHT = Limits(ratio=10)


@pytest.fixture
def nothing_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits as they are for archives of gigabytes, a few thousand times smaller."""
    monkeypatch.setattr(spans, "ALWAYS_ALLOWED", MB // 4)


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
def test_a_bomb_is_refused(name: str, folder: Bench) -> None:
    dataset = only(folder, name, BOMBS[name])
    with frugal(seconds=20), pytest.raises(ArchiveError, match=r"a\.\w+(\.\w+)?: unpacks to .* --max-ratio"):
        folder.extract(dataset, RunOptions(limits=TIGHT))
    assert folder.about() == {}
    assert "bomb.jpg" not in folder.objects()


@pytest.mark.usefixtures("nothing_free")
def test_what_the_user_allows_is_no_bomb(folder: Bench) -> None:
    dataset = folder.dataset(a_zip=BOMBS["zip"])
    assert folder.extract(dataset, RunOptions(limits=Limits(ratio=2000))).state == "complete"
    assert folder.objects() == {"bomb.jpg": bytes(4 * MB)}


def test_a_small_archive_may_unpack_to_much() -> None:
    assert Limits().most(1000) == ALWAYS_ALLOWED == 1 << 30
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
def test_members_that_overlap_are_refused(packed: bytes, folder: Bench) -> None:
    """Only the last in the file is whole; zipfile refuses the others too (since Python 3.11.8)."""
    count = len(zipfile.ZipFile(io.BytesIO(packed)).namelist())
    result = folder.extract(folder.dataset(a_zip=packed))
    assert result.status == 3 and len(folder.objects()) <= 1
    assert len(failures(folder)) >= count - 1
    assert all("overlaps" in reason or "no local header" in reason for reason in failures(folder).values())


def test_a_bomb_in_an_archive_stays_packed(folder: Bench) -> None:
    inner = pack_zip()([File("bomb", bytes(20 * MB))])
    members = {"a.zip": inner, "b.tar.gz": gzip.compress(inner)}
    assert folder.extract(folder.dataset(a_tar=pack_pax([File(*each) for each in members.items()]))).state == "complete"
    assert folder.objects() == members


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
        assert len(kinds.plan(Tar(5 * 10**9, b"", "five.tar"))) == 597 + kinds.LAST  # halves


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


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────

EMPTY = {
    "tar": END,
    "tar of one block": bytes(512),
    "zip": pack_zip()([]),
    "tar.gz": gzip.compress(END),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_archive_is_complete_with_nothing_in_it(name: str, folder: Bench) -> None:
    result = folder.extract(only(folder, name, EMPTY[name]))
    assert (result.state, result.objects, folder.objects()) == ("complete", 0, {})


@pytest.mark.parametrize("kind", PACKS)
def test_an_archive_of_folders_alone(bench: Bench, kind: str) -> None:
    packed = PACKS[kind]([File("a/"), File("a/b/"), File("c/")])
    result = bench.extract(only(bench, kind, packed))
    assert (result.state, result.objects) == ("complete", 0)
    assert {stored.name for stored in bench.bucket.list("mini/")} == {"mini/", "mini/a/", "mini/a/b/", "mini/c/"}


LONG = bool(os.environ.get("LONG"))  # make fuzz sets it
LARGE = (5000 if LONG else 200) * MB
MANY = 1_000_000 if LONG else 10_000
MEMORY = 220 * MB  # of the whole program, half of which it has before it begins


def extracted(vast: dict[str, Vast], to: Path) -> tuple[int, int]:
    """Run the program on these in the place of Stanford's archives; its exit status, and its memory at most (bytes)."""
    rest = {"/images.tar": outer_join(END), "/annotation.tar": outer_join(END), "/lists.tar": outer_join(END)}
    with served({**rest, "/SHA256SUMS": outer_join(b""), **vast}) as url:
        process = subprocess.Popen(
            command("-d", "stanford", "--mirror", url, "--to", to, "--quiet"),
            env=clean_environment(to.parent, {}),
            stdout=subprocess.DEVNULL,
        )
        memory = 0
        while process.poll() is None:
            memory = max(memory, peak(process.pid))
            time.sleep(0.02)
    return process.returncode, memory


def peak(pid: int) -> int:
    """Bytes that a process has had at most. Its rusage would count what its parent had when it was started."""
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = re.search(r"VmHWM:\s+(\d+) kB", status)  # none once it has ended
    return int(kilobytes[1]) << 10 if kilobytes else 0


@pytest.mark.parametrize("make", [tar_of_one, zip_of_one])
def test_a_large_member_takes_no_more_memory(make: Callable[[int], Vast], tmp_path: Path) -> None:
    """A plain tar or a zip, whatever the file is called; 5 GB in the long form."""
    status, memory = extracted({"/images.tar": make(LARGE)}, tmp_path / "out")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out/stanford").iterdir() if path.is_file()}
    shutil.rmtree(tmp_path / "out")
    assert (status, sizes["large"]) == (0, LARGE)
    assert memory < MEMORY


def test_very_many_empty_members(tmp_path: Path) -> None:
    """A million in the long form."""
    status, memory = extracted({"/images.tar": tar_of_many(MANY)}, tmp_path / "out")
    count = sum(len(files) for _, _, files in os.walk(tmp_path / "out/stanford"))
    shutil.rmtree(tmp_path / "out")
    assert (status, count) == (0, MANY)
    assert memory < MEMORY + MANY * 500


# ── CPython's own ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("span", [512, 4096, 1 << 20])
@pytest.mark.parametrize(
    "name", ["exe_with_z64", "exe_with_zip", "zip_cp437_header.zip", "zipdir.zip", "zipdir_backslash.zip"]
)
def test_cpythons_zips_are_read_as_zipfile_reads_them(name: str, span: int) -> None:
    packed = (CPYTHON / name).read_bytes()
    right = [got._replace(name=got.name.replace("\\", "/")) for got in truth(packed)]
    assert extract(packed, span) == right != []


@pytest.mark.parametrize("span", [512, 4096, 1 << 20])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["tar", "gz", "xz"])
def test_cpythons_tar_is_read_as_tarfile_reads_it(pack: Callable[[bytes], bytes], span: int) -> None:
    packed = lzma.decompress((CPYTHON / "testtar.tar.xz").read_bytes())
    found, right = extract(pack(packed), span), truth(packed)
    assert [(got.name, got.size) for got in found] == [
        (each.name.rstrip("/") + "/" * got.name.endswith("/"), each.size * (not got.name.endswith("/")))
        for got, each in zip(found, right, strict=True)
    ]
    stored = [(got, each) for got, each in zip(found, right, strict=True) if not got.refusal]
    assert len(stored) == 25 and all(got == each for got, each in stored)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        infos = {info.name: info for info in archive}
    assert all(not infos[got.name].isreg() or infos[got.name].issparse() for got in found if got.refusal)


def test_cpythons_endless_recursion_ends() -> None:
    with frugal(), pytest.raises(ArchiveError, match=r"memory\.bin: bad pax header before byte 1,024"):
        extract((CPYTHON / "recursion.tar").read_bytes())


# ── inputs by the thousand, and what they found ──────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_bytes_are(seed: int) -> None:
    rng, known = random.Random(seed), seeds()
    for _ in range(500):
        check(mutate(rng.choice(known), rng))


def test_seeds_are_read_as_they_should_be() -> None:
    for seed in seeds():
        check(seed)


def test_a_tar_whose_first_name_begins_like_a_zip() -> None:
    packed = member("PK\5\6.jpg", b"1") + END
    assert extract(packed) == [Got("PK\5\6.jpg", 1, b"1")]


def test_a_zip_of_several_disks_after_something_else() -> None:
    packed = b"#!/bin/sh\n" + zipped(zipfile.ZIP_STORED)
    at = packed.index(b"PK\5\6")
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at, 2)
    with pytest.raises(ArchiveError, match=r"memory\.bin: .* multiple disks"):
        extract(packed[:at] + locator + packed[at:])


@pytest.mark.parametrize("digits", [19, 25, 400])
def test_a_pax_record_longer_than_any_memory(digits: int) -> None:
    packed = member("a") + extended(b"x", b"9" * digits + b" path=b\n") + member("c") + END
    with pytest.raises(ArchiveError, match=r"memory\.bin"):
        extract(packed)


@pytest.mark.parametrize("kind", [b"0", b"Q"], ids=["file", "unknown type"])
def test_a_member_of_a_compressed_tar_that_never_ends(kind: bytes) -> None:
    packed = gzip.compress(member("a", b"1") + block(b"b", HUGE, kind) + bytes(2000) + member("c") + END)
    with pytest.raises(ArchiveError, match=r"memory\.bin: cut off"):
        extract(packed)


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        (0x1, "encrypted (ZipCrypto)"),
        (0x20, "a patch to another file"),
        (0x40, "encrypted (PKWARE strong encryption)"),
        (0x2000, "encrypted (PKWARE strong encryption)"),
    ],
)
def test_flags_that_say_the_bytes_are_something_else(flag: int, reason: str) -> None:
    packed = zipped(zipfile.ZIP_STORED)
    packed = replaced(packed, packed.index(b"PK\1\2") + 8, struct.pack("<H", flag))
    assert extract(packed) == [Got("one", 900, None, reason), *RIGHT[1:]]


def test_a_name_in_an_error_is_short_and_draws_nothing() -> None:
    name = "\x1b[2J" + "x" * 5000
    with pytest.raises(ArchiveError) as caught:
        extract(pack_pax([File(name, bytes(9000))])[:-9000])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    assert "\\x1b[2Jxxx" in str(caught.value)


def test_a_sparse_map_without_end() -> None:
    """A map of pax is not read: the file is refused. One of GNU is gone through block by block."""
    keys = {"major": "1", "minor": "0", "name": "s", "realsize": "1"}
    header = extended(b"x", b"".join(record(f"GNU.sparse.{key}", value) for key, value in keys.items()))
    packed = member("a", b"1") + header + block(b"s", 1 << 30) + b"44444444\n" + b"999\n" * 1_100_000
    with frugal(), pytest.raises(ArchiveError, match=r"memory\.bin: cut off"):
        extract(gzip.compress(packed, 1), chunk=MB)
    endless = block(b"s", 0, b"S", magic=b"ustar  ", rest=SPARSE + b"\1") + (bytes(504) + b"\1" + bytes(7)) * 9000
    with frugal(), pytest.raises(ArchiveError, match=r"more than 4,194,304 bytes of headers for one member"):
        extract(gzip.compress(member("a", b"1") + endless, 1), chunk=MB)


def test_global_headers_by_the_thousand() -> None:
    """They change no byte and no name, so they do no harm; for tarfile each member after them took 0.01 seconds."""
    many = extended(b"g", b"".join(record(f"k{number}", "v") for number in range(1001)))
    with frugal():
        assert len(extract(many + member("a") * 1000 + END)) == 1000
