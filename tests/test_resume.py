"""A run that is killed goes on where it stopped: what of a piece is stored is not read again, and all is compared."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from archives.spans import SpanBoundary
from manifest.journal import VERSION, JournalEntry, joined_parts
from manifest.records import FAILED, Row, Rows
from manifest.seal import seal
from manifest.store import ManifestStore
from pipeline import parts
from pipeline.parts import Mark, PartWriter
from storage.directory import FolderBucket
from support.archives import some_members, tar_of, zip_of
from support.bench import Bench
from support.fake_gcs import GcsFront
from support.fake_gcs_requests import flipped
from support.miniature import sums
from support.program import Cli, clean_environment, command
from support.source_server import Plan, SourceServer

MEMBERS = some_members(400, 20_000)  # one piece of 6 MB
DRIP = Plan(drip=0.02)  # at most 200 kB/s on a connection
ROWS = [Row(f"d/{number}", 1, number, "http://x/a.tar", 1024 * number + 512) for number in range(9)]


def read_from(server: SourceServer, path: str) -> int:
    """The first byte of the first piece that was asked for, after the looks at what it is."""
    asked = [re.fullmatch(r"bytes=(\d+)-(\d+)", each or "") for each in server.ranges(path)]
    return min(int(each[1]) for each in asked if each and int(each[2]) - int(each[1]) > 100_000)


def killed(
    tmp_path: Path, mirror: SourceServer, front: GcsFront, puts: int, data: str = "stanford", *options: str
) -> tuple[str, dict[str, str]]:
    """Kill a run when so many objects are stored; its destination and its environment."""
    import subprocess

    to, environment = f"gs://test-{uuid.uuid4().hex[:12]}", {"STORAGE_EMULATOR_HOST": front.url}
    arguments = command("-d", data, "--mirror", mirror.url, "--to", to, *options)
    process = subprocess.Popen(
        arguments, env=clean_environment(tmp_path, environment), stderr=subprocess.DEVNULL, start_new_session=True
    )
    while front.counts["xml.put"] < puts:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    return to, environment


def stored(front: GcsFront, to: str, prefix: str) -> dict[str, tuple[int, int]]:
    objects = front.objects(to.removeprefix("gs://"))
    return {name: what for name, what in objects.items() if name.startswith(prefix) and not name.endswith("/")}


# ── the whole way, with a kill ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "path", "pack", "prefix"),
    [
        ("stanford", "/images.tar", tar_of, "stanford/Images"),
        ("tsinghua", "/low-resolution.zip", zip_of, "tsinghua/low-resolution"),
    ],
)
def test_only_the_rest_of_a_piece_is_read(
    cli: Cli, tmp_path: Path, mirror: SourceServer, front: GcsFront, data: str, path: str,
    pack: Callable[[object], bytes], prefix: str,
) -> None:  # fmt: skip
    archive = pack([(f"{prefix.partition('/')[2]}/{name}", data) for name, data in MEMBERS])
    mirror.files[path] = archive
    mirror.files["/SHA256SUMS"] = sums(mirror)
    mirror.plan(path, DRIP)
    to, environment = killed(tmp_path, mirror, front, 300, data, "--no-checksum")
    mirror.heal()
    mirror.requests.clear()
    there = stored(front, to, prefix)
    puts = dict(front.puts)
    done = cli("-d", data, "--mirror", mirror.url, "--to", to, "--no-checksum", **environment)
    assert done.returncode == 0 and "and parts of 1" in done.stderr, done.stderr
    assert read_from(mirror, path) > 0.5 * len(archive) * len(there) / len(MEMBERS)
    assert len(stored(front, to, prefix)) == len(MEMBERS)
    assert [name for name in there if front.puts[name] != puts[name]] == []
    assert [name for name in front.objects(to.removeprefix("gs://")) if "/journal/" in name] == []


def test_a_compressed_tar_is_read_from_its_beginning_and_nothing_stored_again(
    cli: Cli, tmp_path: Path, mirror: SourceServer, front: GcsFront
) -> None:
    archive = mirror.files["/images.tar.gz"] = gzip.compress(tar_of([(f"images/{n}", d) for n, d in MEMBERS]), 0)
    mirror.files["/SHA256SUMS"] = f"{hashlib.sha256(archive).hexdigest()}  images.tar.gz\n".encode()
    mirror.plan("/images.tar.gz", DRIP)
    to, environment = killed(tmp_path, mirror, front, 200, "oxford")
    mirror.heal()
    there, puts = stored(front, to, "oxford/images/"), dict(front.puts)
    done = cli("-d", "oxford", "--mirror", mirror.url, "--to", to, **environment)
    assert done.returncode == 0, done.stderr
    assert there and [name for name in there if front.puts[name] != puts[name]] == []
    assert "images.tar.gz: sha256 matches" in done.stderr


@pytest.mark.parametrize("place", [0.2, 0.9])
def test_a_bit_that_flipped_before_the_kill_is_found_by_the_next_run(
    cli: Cli, tmp_path: Path, mirror: SourceServer, front: GcsFront, place: float
) -> None:
    archive = tar_of([(f"Images/{name}", data) for name, data in some_members(1200, 20_000)])  # two pieces
    mirror.files["/images.tar"] = archive
    mirror.files["/SHA256SUMS"] = sums(mirror)
    victim = archive.index(some_members(1200, 20_000)[round(200 * place)][1]) + 999
    mirror.plan("/images.tar", Plan(drip=0.004, body=flipped(archive, victim)))
    to, environment = killed(tmp_path, mirror, front, 600)
    mirror.heal()
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", to, **environment)
    # On a busy machine the kill can come before the member is in the journal: then it is stored again.
    if done.returncode:
        # It is read again, or the state of the checksum that is carried to this run has it.
        causes = "the bytes are not those that were stored before|expected sha256 .*: not the published archive"
        found = f"error: .*images.tar.*: ({causes})"
        assert re.search(found, done.stderr), done.stderr
        done = cli("-d", "stanford", "--mirror", mirror.url, "--to", to, **environment)
    assert done.returncode == 0 and "images.tar: sha256 matches" in done.stderr, done.stderr
    assert (
        cli("-d", "stanford", "--verify", "--deep", "--mirror", mirror.url, "--to", to, **environment).returncode == 0
    )


# ── the archives' checksums ──────────────────────────────────────────────────────────────────────


def check_of(out: Path) -> list[str]:
    about = json.loads((out / "_extraction/stanford/manifest.json").read_text())
    return [source["sha256_check"] for source in about["sources"]]


def test_what_several_processes_read_is_read_again_to_be_compared(
    cli: Cli, tmp_path: Path, mirror: SourceServer
) -> None:
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("again to compare its sha256") == 3 and check_of(tmp_path / "out") == ["matches"] * 3


def test_a_bit_that_flipped_on_its_way_to_one_of_several_processes(
    cli: Cli, tmp_path: Path, mirror: SourceServer
) -> None:
    archive = tar_of([(f"Images/{name}", data) for name, data in MEMBERS])
    mirror.files["/images.tar"] = archive
    mirror.files["/SHA256SUMS"] = sums(mirror)
    victim = archive.index(MEMBERS[70][1]) + 9
    mirror.plan_at("/images.tar", victim, Plan(body=flipped(archive, victim)), times=1)
    arguments = ("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out", "--workers", "2")
    done = cli(*arguments)
    assert done.returncode == 1 and "the bytes are not those that were stored before" in done.stderr, done.stderr
    done = cli(*arguments)
    assert done.returncode == 0 and check_of(tmp_path / "out") == ["matches"] * 3


def test_no_checksum(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/SHA256SUMS"] = re.sub(rb"^[0-9a-f]{64}", b"0" * 64, mirror.files["/SHA256SUMS"], flags=re.M)
    arguments = ("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert cli(*arguments).returncode == 1
    done = cli(*arguments, SPOTTED_NO_CHECKSUM="1")
    assert done.returncode == 0 and done.stderr.count("sha256 not compared: --no-checksum") == 3, done.stderr
    assert check_of(tmp_path / "out") == ["not compared: --no-checksum"] * 3


def test_an_archive_that_was_compared_is_not_read_again(bench: Bench) -> None:
    """The journal keeps it, while another archive of the dataset lacks something."""
    whole = tar_of(some_members(700, 40_000))
    refused = tar_of([("b.jpg", b"1"), ("../refused.jpg", b"")])
    dataset = bench.dataset(pin=True, a_tar=whole, b_tar=refused)
    assert bench.extract(dataset).status == 3
    bench.server.requests.clear()
    assert bench.extract(dataset).status == 3
    assert [each for each in bench.server.ranges("/a.tar") if each != "bytes=0-511"] == []


def test_an_object_that_is_lost_has_its_archive_compared_anew(bench: Bench) -> None:
    dataset = bench.dataset(pin=True, a_tar=tar_of([*some_members(700, 40_000), ("../refused.jpg", b"")]))
    assert bench.extract(dataset).status == 3
    bench.bucket.delete(["mini/f3/3.jpg"])
    bench.server.requests.clear()
    result = bench.extract(dataset)
    assert result.status == 3 and result.fetched >= bench.server.files["/a.tar"].__len__()
    assert bench.bucket.get("mini/f3/3.jpg") == dict(some_members(700, 40_000))["f3/3.jpg"]


def test_a_large_member_and_its_covered_pieces_are_compared_too(bench: Bench) -> None:
    members = [("a.jpg", b"1"), ("large.bin", bytes(range(256)) * (120 << 10)), ("b.jpg", b"2"), ("../no.jpg", b"")]
    dataset = bench.dataset(pin=True, a_tar=tar_of(members))
    assert bench.extract(dataset).status == 3
    bench.bucket.delete(["mini/b.jpg"])
    assert bench.extract(dataset).status == 3
    assert bench.objects() == dict(members[:3])
    assert any("sha256" in each.name for each in bench.bucket.list("_extraction/mini/journal/"))


@pytest.mark.parametrize("is_inner", [True, False])
def test_a_tar_in_the_tar_goes_on_from_its_parts(bench: Bench, is_inner: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A false start writes parts, too; what the chain proves wrong goes with them."""
    monkeypatch.setattr(parts, "MIN_PART_SECONDS", 0)
    filler = some_members(500, 60_000)
    inner = tar_of(filler)
    members = [("x.jpg", b"1"), ("inner.tar", inner) if is_inner else filler[0], *filler[1:], ("last.jpg", b"2")]
    dataset = bench.dataset(a_tar=tar_of(members))
    bench.server.plan("/a.tar", Plan(), times=4)
    bench.server.plan("/a.tar", Plan(status=404), times=1)
    first = bench.extract(dataset)
    bench.server.heal()
    assert first.status == 3 and bench.extract(dataset).state == "complete"
    assert bench.objects() == dict(members)


# ── parts ────────────────────────────────────────────────────────────────────────────────────────


def writer(written: list[JournalEntry], begin: int = 0) -> PartWriter:
    blank = JournalEntry("u", "v", begin=begin)
    return PartWriter(lambda part, *_: written.append(part), blank, (0, 9 << 20), SpanBoundary(0), time.monotonic())


def test_parts_are_in_order_whatever_is_stored_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MIN_PART_SECONDS", 0)
    monkeypatch.setattr(parts, "PART_SHARE", 0)
    written: list[JournalEntry] = []
    to = writer(written)
    to.add(1, [ROWS[1]], Mark(2048))
    assert written == []
    to.add(0, [ROWS[0]], Mark(1024))
    to.add(2, [ROWS[2]], Mark(3072, (("path", "x"),)))
    assert [(each.begin, each.upto, each.size, list(each.rows)) for each in written] == [
        (0, 2048, 2048, ROWS[:2]), (2048, 3072, 1024, [ROWS[2]]),
    ]  # fmt: skip
    whole = joined_parts(written)["u"]
    assert (list(whole.rows), whole.upto, whole.size) == (ROWS[:3], 3072, 3072)
    assert whole.link == SpanBoundary(0, 3072, (("path", "x"),))


def test_nothing_after_a_member_that_failed_is_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MIN_PART_SECONDS", 0)
    written: list[JournalEntry] = []
    to = writer(written)
    to.add(0, [ROWS[0]], Mark(1024))
    to.add(1, [ROWS[1]._replace(outcome=FAILED, reason="no")], Mark(2048))
    to.add(2, [ROWS[2]], Mark(3072))
    to.flush()
    assert [each.upto for each in written] == [1024]


def test_parts_that_do_not_join_do_not_count() -> None:
    found = [JournalEntry("u", "v", Rows.of(ROWS[at : at + 1]), begin=at * 9, upto=at * 9 + 9) for at in range(4)]
    assert joined_parts(found)["u"].upto == 36
    assert joined_parts([found[0], *found[2:]])["u"].upto == 9
    assert "u" not in joined_parts(found[1:])
    other = JournalEntry("u", "another version", begin=9, upto=18)
    assert joined_parts([found[0], other, *found[2:]])["u"].upto == 9


def test_parts_of_a_finished_piece_are_passed_over_and_forgotten_with_it(tmp_path: Path) -> None:
    store = ManifestStore(FolderBucket(tmp_path), "d")
    store.write(JournalEntry("a.tar/0-9", "v", Rows.of(ROWS[:1]), begin=0, upto=5))
    store.write(JournalEntry("a.tar/0-9", "v", Rows.of(ROWS[1:2]), begin=5, upto=7))
    store.write(JournalEntry("a.tar/sha256", "v", sha256="0" * 64))
    assert store.journal()["a.tar/0-9"].upto == 7
    whole = JournalEntry("a.tar/0-9", "v", Rows.of(ROWS), 9)
    store.write(whole)
    assert store.journal()["a.tar/0-9"] == whole
    store.discard(["a.tar/0-9"])
    assert store.journal() == {}


def test_an_entry_of_the_first_version_is_read_and_one_of_a_later_is_not() -> None:
    rows = {
        "packed": "", "count": 0, "stored": 0, "gone": 0, "bad": 0, "size": 0, "text_size": 0, "folders": [],
        "marks": [],
    }  # fmt: skip
    link = {"first": 512, "end": 1024, "pax": [["path", "x"]], "ended": True}
    fields = {"unit": "a.tar/0", "fingerprint": "v", "size": 5, "link": link, "rows": rows}
    assert JournalEntry.decode(seal(fields)) == JournalEntry(
        "a.tar/0", "v", size=5, link=SpanBoundary(512, 1024, (("path", "x"),), True)
    )
    with pytest.raises(ValueError, match="newer"):
        JournalEntry.decode(seal({**fields, "version": VERSION + 1}))
