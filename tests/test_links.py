"""Hard links of a tar become files: as GNU tar and bsdtar make them, in any span, after a resume, on a cluster."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from archives.compressed_tar import CompressedTar
from archives.spans import Extent, Span
from archives.tar import Tar
from commands.repair import repair
from commands.verify import verify, verify_deep
from errors import ArchiveError
from gcs import Destination
from manifest.records import FAILED, LINKED, REFUSED, STORED, Row, Rows
from pipeline import hard_links
from pipeline.cluster import start_cluster
from pipeline.hard_links import resolve, spans_with
from support.archives import some_members
from support.bench import Bench, context_of, failures
from support.source_server import SourceServer
from support.tars import END, block, changed, extended, member, padded, record

MB = 1 << 20


def hard(name: str, target: str) -> bytes:
    """A hard link with a name that fits, or with GNU's long ones."""
    long = b"".join(
        extended(kind, text.encode() + b"\0") for kind, text in ((b"L", name), (b"K", target)) if len(text) > 99
    )
    info = tarfile.TarInfo(name[:99])
    info.type, info.linkname = tarfile.LNKTYPE, target[:99]
    return long + info.tobuf(tarfile.GNU_FORMAT)


FILLER = some_members(500, 40_000)  # two spans
LONG = "folder/" * 20
CASES = {
    "in the same span": member("n1/a", b"a") + hard("n2/same", "n1/a") + member("n2/b", b"b"),
    "of an earlier span": member("n1/a", b"a") + b"".join(member(*each) for each in FILLER) + hard("far", "n1/a"),
    "to a link to a link": member("a", b"a") + hard("b", "a") + hard("c", "b") + hard("d", "./c"),
    "to what is replaced later": member("a", b"1") + hard("l", "a") + member("a", b"2"),
    "to what was replaced before": member("a", b"1") + member("a", b"2") + hard("l", "a"),
    "once before and once after": member("a", b"1") + hard("l", "a") + member("a", b"2") + hard("m", "a"),
    "that is replaced later": member("a", b"1") + hard("l", "a") + member("l", b"2"),
    "that replaces a file": member("l", b"0") + member("a", b"1") + hard("l", "a"),
    "that replaces a link": member("a", b"1") + member("b", b"2") + hard("l", "a") + hard("l", "b"),
    "of long names": extended(b"L", f"{LONG}a\0".encode()) + member("x", b"1") + hard(f"{LONG}b", f"{LONG}a"),
    "of pax names": extended(b"x", record("path", "é/a")) + member("x", b"1")
    + extended(b"x", record("path", "é/b") + record("linkpath", "é/a")) + hard("y", "z"),
    "to an empty file": member("a") + hard("l", "a"),
    "to an absolute name, which tar cuts": member("r/a", b"1") + hard("r/b", "/r/a") + hard("c", "./r/b"),
    "to itself": member("a", b"1") + hard("a", "a"),
    "to a large member": member("a", bytes(9 * MB)) + hard("l", "a") + hard("m", "a"),
}  # fmt: skip
PACKS: dict[str, Callable[[bytes], bytes]] = {
    "a_tar": bytes,
    "a_tar_gz": lambda data: gzip.compress(data, 1),
    "a_tar_bz2": lambda data: bz2.compress(data, 1),
    "a_tar_xz": lambda data: lzma.compress(data, preset=0),
}


def by_tool(tool: str, packed: bytes, to: Path) -> dict[str, bytes]:
    """What GNU tar or bsdtar makes of it."""
    to.mkdir()
    subprocess.run([tool, "-xf", "-", "-C", to], input=packed, check=True, capture_output=True)
    return {str(path.relative_to(to)): path.read_bytes() for path in to.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["a_tar", "a_tar_gz"])
@pytest.mark.parametrize("name", CASES)
def test_a_link_is_what_tar_makes_of_it(name: str, kind: str, bench: Bench, tmp_path: Path) -> None:
    packed = CASES[name] + END
    right = by_tool("tar", packed, tmp_path / "tar")
    if name != "to itself":  # bsdtar removes the file first, and then has no target
        assert by_tool("bsdtar", packed, tmp_path / "bsdtar") == right
    dataset = bench.dataset(True, **{kind: PACKS[kind](packed)})
    assert bench.extract(dataset).state == "complete"
    assert bench.objects() == right
    assert verify_deep(dataset, bench.job()).state == "complete"


@pytest.mark.parametrize("kind", PACKS)
def test_every_kind_of_tar_through_the_api(kind: str, api_bench: Bench) -> None:
    packed = PACKS[kind](CASES["of an earlier span"] + hard("n1/b", "far") + END)
    dataset = api_bench.dataset(True, **{kind: packed})
    assert api_bench.extract(dataset).state == "complete"
    assert api_bench.objects() == {**dict(FILLER), "n1/a": b"a", "far": b"a", "n1/b": b"a"}
    assert verify(dataset, api_bench.bucket).state == "complete"


UNKNOWN = "which is no earlier member of the archive"
REFUSED_LINKS = {
    "to nothing": (hard("l", "none"), f"a hard link to 'mini/none', {UNKNOWN}"),
    "to what comes later": (hard("l", "last"), f"a hard link to 'mini/last', {UNKNOWN}"),
    "out of the tree": (hard("l", "../up"), "a hard link to '../up': a name that leads out of its folder"),
    "to a file of the machine": (hard("l", "/etc/passwd"), f"a hard link to 'mini/etc/passwd', {UNKNOWN}"),
    "to a folder": (block(b"f/", 0, b"5") + hard("l", "f"), f"a hard link to 'mini/f', {UNKNOWN}"),
    "to a symbolic link": (
        block(b"s", 0, b"2") + hard("l", "s"),
        "a hard link to 'mini/s', which is not stored: a symbolic link to ''",
    ),
    "to a refused link": (hard("k", "none") + hard("l", "k"), f"a hard link to 'mini/none', {UNKNOWN}"),
}


@pytest.mark.parametrize("kind", ["a_tar", "a_tar_gz"])
@pytest.mark.parametrize("name", REFUSED_LINKS)
def test_a_link_to_anything_else_is_refused(name: str, kind: str, bench: Bench) -> None:
    entry, reason = REFUSED_LINKS[name]
    packed = member("first", b"1") + entry + member("last", b"2") + END
    result = bench.extract(bench.dataset(False, **{kind: PACKS[kind](packed)}))
    assert (result.status, bench.objects()) == (3, {"first": b"1", "last": b"2"})
    assert failures(bench)["mini/l"] == reason


def test_a_link_with_the_bytes_of_its_file(bench: Bench, tmp_path: Path) -> None:
    """pax -o linkdata; the size alone means nothing, for star writes it too."""
    headers = []
    for name in ("with", "without"):
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = tarfile.LNKTYPE, "a", 5
        headers.append(info.tobuf(tarfile.USTAR_FORMAT))
    in_pax = extended(b"x", record("size", "5")) + changed(block(b"pax", 0, b"1"), 157, b"a") + padded(b"12345")
    packed = member("a", b"12345") + headers[0] + padded(b"12345") + headers[1] + in_pax + member("z") + END
    assert bench.extract(bench.dataset(a_tar=packed)).state == "complete"
    assert bench.objects() == {**dict.fromkeys(["a", "with", "without", "pax"], b"12345"), "z": b""}
    assert by_tool("bsdtar", packed, tmp_path / "bsdtar") == bench.objects()


@pytest.mark.parametrize("kind", ["a_tar", "a_tar_gz"])
@pytest.mark.parametrize("place", ["bench", "api_bench"])
def test_links_after_a_run_that_broke(place: str, kind: str, request: pytest.FixtureRequest) -> None:
    """Its journal has the spans; the links come from it, and those that are there are not stored again."""
    bench: Bench = request.getfixturevalue(place)
    packed = PACKS[kind](CASES["of an earlier span"] + hard("near", "f3/3.jpg") + END)
    dataset = bench.dataset(False, **{kind: packed})
    assert bench.extract(dataset).state == "complete"
    right = bench.objects()
    bench.bucket.delete(["_extraction/mini/manifest.csv", "mini/far", "mini/n1/a"])
    assert bench.extract(dataset).state == "complete"
    assert bench.objects() == right
    bench.bucket.delete(["mini/near"])  # of a complete dataset
    assert bench.extract(dataset).state == "complete"
    assert bench.objects() == right


def test_links_from_the_journal_alone(bench: Bench) -> None:
    """Another archive is damaged, so the run ends after this one's spans; the next run has only its links to do."""
    packed = CASES["of an earlier span"] + END
    with pytest.raises(ArchiveError, match=r"z\.tar: .* got a damaged header"):
        bench.extract(bench.dataset(a_tar=packed, z_tar=member("z", b"z") + b"?" * 20_000_000))
    assert "far" not in bench.objects()
    assert bench.extract(bench.dataset(a_tar=packed, z_tar=member("z", b"z") + END)).state == "complete"
    assert bench.objects() == {**dict(FILLER), "n1/a": b"a", "far": b"a", "z": b"z"}


@pytest.mark.parametrize("kind", ["a_tar", "a_tar_gz"])
def test_a_lost_link_is_repaired(kind: str, bench: Bench) -> None:
    packed = member("a", b"1") + hard("l", "a") + member("a", b"22") + hard("m", "l") + member("z", bytes(9 * MB))
    dataset = bench.dataset(False, **{kind: PACKS[kind](packed + hard("large", "z") + END)})
    bench.extract(dataset)
    right = bench.objects()
    assert right == {"a": b"22", "l": b"1", "m": b"1", "z": bytes(9 * MB), "large": bytes(9 * MB)}
    bench.bucket.delete(["mini/l", "mini/m", "mini/large", "mini/a"])
    result = repair(dataset, bench.job())
    assert (result.state, bench.objects()) == ("complete", right)


def test_processes_share_the_links(server: SourceServer, tmp_path: Path) -> None:
    destination = Destination(str(tmp_path / "out"))
    with start_cluster(context_of(destination, connections=2), workers=2) as workers:
        bench = Bench(server, workers)
        packed = CASES["of an earlier span"] + END
        assert bench.extract(bench.dataset(a_tar=packed, b_tar_gz=gzip.compress(packed, 1))).state == "complete"
        assert bench.objects() == {**dict(FILLER), "n1/a": b"a", "far": b"a"}


# ── alone ────────────────────────────────────────────────────────────────────────────────────────


def row(path: str, offset: int, outcome: str = STORED, reason: str = "", size: int = 5) -> Row:
    return Row(path, size if outcome == STORED else 0, offset if outcome == STORED else 0, "s", offset, outcome, reason)


def test_links_mean_the_last_member_before_them_in_whatever_unit() -> None:
    runs = [
        Rows.of([row("a", 512), row("l", 2048, LINKED, "a"), row("a", 2560)]),
        Rows.of([row("m", 4096, LINKED, "a"), row("n", 4608, LINKED, "l"), row("o", 9000, LINKED, "none")]),
        Rows.of([row("x", 9500, FAILED, "full"), row("p", 9900, LINKED, "x"), row("q", 9950, REFUSED, "bad")]),
    ]
    found = {extent.name: extent for extent in resolve(runs)}
    assert {name: extent.offset for name, extent in found.items() if not extent.refusal} == {
        "l": 512, "m": 2560, "n": 512,
    }  # fmt: skip
    assert {name for name, extent in found.items() if extent.refusal} == {"o", "p"}
    assert "full" in found["p"].refusal
    assert resolve([Rows.of([row("a", 512)])]) == []


def test_a_name_in_a_link_stays_as_it_is_when_it_is_written_down() -> None:
    target = "http://user:secret@host/a?token=x"
    [got] = Rows.of([row("l", 512, LINKED, target)])
    assert got.reason == target


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hard_links, "SPAN_BYTES", 4000)
    monkeypatch.setattr(hard_links, "LARGE", 4000)
    monkeypatch.setattr(hard_links, "MAX_GAP_BYTES", 1000)


@pytest.mark.usefixtures("small")
def test_links_are_read_in_spans() -> None:
    extents = [Extent("a", 0, 500), Extent("b", 900, 500), Extent("c", 9000, 500), Extent("d", 9000, 500)]
    extents += [Extent("e", 20_000, 9000), Extent("f", 20_000, 9000), Extent("g", 1, 0, refusal="no")]
    plain = [[extent.name for extent in span.extents] for span in spans_with(extents, Span(Tar(), 0, 99_999))]
    assert plain == [["a", "b"], ["c", "d"], ["e"], ["f", "g"]]
    passes = [
        [extent.name for extent in span.extents] for span in spans_with(extents, Span(CompressedTar("gz"), 0, 999))
    ]
    assert passes[0][:5] == ["a", "b", "c", "d", "e"] and passes[1][0] == "f"
