"""Names and links made to do harm, on their whole way into a directory and a bucket."""

from __future__ import annotations

import io
import logging
import re
import tarfile
import unicodedata
from pathlib import Path

import pytest

from support.archives import File, truth
from support.bench import PACKS, Bench, failures, only
from support.tars import END, block, extended, member, mended, pack_pax, padded, record
from support.zips import pack_zip

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
    "..\\out.jpg": OUT,
    "\\\\host\\share\\out.jpg": ABSOLUTE,
    "\\out.jpg": ABSOLUTE,
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
def test_a_name_that_could_do_harm_is_refused(any_bench: Bench, kind: str) -> None:
    files = [File("first.jpg", b"1"), *(File(name, b"evil") for name in NAMES), File("last.jpg", b"2")]
    result = any_bench.extract(only(any_bench, kind, PACKS[kind](files)))
    assert (result.status, any_bench.objects()) == (3, {"first.jpg": b"1", "last.jpg": b"2"})
    found = failures(any_bench)
    assert sorted(found.values()) == sorted(NAMES.values())
    assert all(path.isprintable() and len(path) <= 201 for path in found)
    assert {row.path for row in result.missing} == set(found)


def test_nothing_is_written_beside_the_destination(bench: Bench, tmp_path: Path) -> None:
    bench.extract(bench.dataset(a_tar=pack_pax([File(name, b"evil") for name in NAMES])))
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"_extraction"}


@pytest.mark.parametrize("kind", PACKS)
def test_what_follows_a_nul_is_no_part_of_the_name(bench: Bench, kind: str) -> None:
    packed = PACKS[kind]([File("good.jpgX../../evil", b"1")]).replace(b"good.jpgX", b"good.jpg\0")
    packed = mended(packed) if kind == "tar" else packed
    assert [got.name for got in truth(packed)] == ["good.jpg"]
    bench.extract(only(bench, kind, packed))
    assert bench.objects() == {"good.jpg": b"1"}


def test_a_nul_in_a_pax_name_is_refused(bench: Bench) -> None:
    bench.extract(bench.dataset(a_tar=extended(b"x", record("path", "a\0b.jpg")) + member("x", b"1") + END))
    assert (bench.objects(), failures(bench)) == ({}, {r"mini/a\x00b.jpg": CONTROL})


def test_a_name_that_is_not_utf_8_is_refused_and_written_down(any_bench: Bench) -> None:
    packed = block(b"caf\xe9.jpg", 1) + padded(b"1") + member("good.jpg", b"2") + END
    assert any_bench.extract(any_bench.dataset(a_tar=packed)).status == 3
    assert (any_bench.objects(), failures(any_bench)) == (
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
    "back\\slash.jpg",
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
def test_odd_names_are_kept_to_the_letter(any_bench: Bench, kind: str) -> None:
    """In a directory as far as its file system keeps them: macOS takes the first two for one."""
    files = [File(name, name.encode()) for name in ODD]
    assert len(f"mini/{ODD[-1]}".encode()) == 1024
    result = any_bench.extract(only(any_bench, kind, PACKS[kind](files)))
    assert (result.state, any_bench.objects()) == ("complete", {name: name.encode() for name in ODD})


@pytest.mark.parametrize("kind", PACKS)
@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile warns the writer
def test_of_members_of_one_name_the_last_counts_and_it_is_reported(
    any_bench: Bench, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spotted")
    files = [
        File("a.jpg", b"old"),
        File("b.jpg", b"b"),
        File("./b.jpg", b"B"),
        File("a.jpg", b"new"),
        File("c//d", b"d"),
    ]
    result = any_bench.extract(only(any_bench, kind, PACKS[kind](files)))
    assert (result.state, any_bench.objects()) == ("complete", {"a.jpg": b"new", "b.jpg": b"B", "c/d": b"d"})
    counted = re.findall(r"(\d+) members were replaced by a later one of the same name", caplog.text)
    assert sum(map(int, counted)) == 2


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", PACKS)
def test_a_file_and_a_folder_of_one_name(bench: Bench, kind: str, turned: bool) -> None:
    """GCS has both, its names being flat. A directory cannot: one is missing; this run tells it, and the next."""
    files = [File("a", b"file"), File("a/b", b"in the folder")]
    packed = PACKS[kind](files[::-1] if turned else files)
    for _ in range(2):
        result = bench.extract(only(bench, kind, packed))
        assert result.status == 3
        assert bench.objects() == ({"a/b": b"in the folder"} if turned else {"a": b"file"})
        assert set(failures(bench).values()) <= {"Not a directory", "Is a directory", "File exists"}


@pytest.mark.parametrize(
    "packed",
    [member("a/", b"data"), pack_zip()([File("a/", b"data")])],
    ids=PACKS,
)
def test_a_folder_that_has_data_is_reported(bench: Bench, packed: bytes) -> None:
    result = bench.extract(bench.dataset(a_tar=packed + (b"" if packed.startswith(b"PK") else END)))
    assert (result.status, failures(bench)) == (3, {"mini/a/": "a folder that has data"})


@pytest.mark.parametrize("name", ["/", "./", "//", "/./"])
@pytest.mark.parametrize("kind", PACKS)
def test_a_folder_that_is_the_archives_own_root_is_no_name(any_bench: Bench, kind: str, name: str) -> None:
    packed = PACKS[kind]([File(name, b""), File("a.jpg", b"1")])
    assert any_bench.extract(only(any_bench, kind, packed)).state == "complete"
    assert any_bench.objects() == {"a.jpg": b"1"}


# ── links and devices ────────────────────────────────────────────────────────────────────────────


def test_a_link_is_not_followed_by_the_members_after_it(any_bench: Bench, tmp_path: Path) -> None:
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
    assert any_bench.extract(any_bench.dataset(a_tar=file.getvalue())).status == 3
    assert any_bench.objects() == {"way/new": b"evil", "up/new": b"evil", "way/secret": b"evil"}
    assert len(failures(any_bench)) == 6
    assert [(path.name, path.read_bytes()) for path in outside.iterdir()] == [("secret", b"secret")]
