"""One bit is flipped somewhere between the source's disk and the bucket's listing; docs/integrity.md says who tells."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from archives.spans import SpanBoundary
from commands.repair import repair
from commands.verify import verify, verify_deep
from errors import ArchiveError, DamagedError
from manifest.journal import JournalEntry, is_part
from manifest.records import Row, Rows
from manifest.store import ManifestStore
from pipeline.differences import DIFFERENT
from pipeline.options import RunOptions
from sources import sample
from storage.directory import FolderBucket
from support.archives import some_members, tar_of, zip_of
from support.bench import Bench
from support.fake_gcs import GcsFront
from support.fake_gcs_requests import flipped
from support.program import Cli
from support.source_server import Plan, SourceServer

MEMBERS = some_members(60, 20_000)
LARGE = [*MEMBERS, ("large.bin", bytes(range(256)) * (80 << 10))]  # 20 MiB, stored while it is read
VICTIM, DATA = MEMBERS[30]


def inside(archive: bytes, data: bytes) -> int:
    """A place within a member's bytes in an archive that stores them as they are."""
    return archive.index(data) + len(data) // 2


# ── on the way from the source ───────────────────────────────────────────────────────────────────


def test_tar_with_a_published_checksum(bench: Bench) -> None:
    data = tar_of(MEMBERS)
    dataset = bench.dataset(a_tar=data, pin=True)
    for at in (inside(data, DATA), len(data) - 1, data.index(DATA) - 512 + 100):  # a member, the padding, a header
        bench.server.files["/a.tar"] = flipped(data, at)
        with pytest.raises(ArchiveError):
            bench.extract(dataset)
        assert bench.metadata() == {}


def test_tar_without_a_checksum_proves_its_headers_but_not_its_members(bench: Bench) -> None:
    data = tar_of(MEMBERS)
    dataset = bench.dataset(a_tar=data)
    bench.server.files["/a.tar"] = flipped(data, data.index(DATA) - 512 + 130)  # the header's field of the size
    with pytest.raises(ArchiveError):
        bench.extract(dataset)
    bench.server.files["/a.tar"] = flipped(data, inside(data, DATA))
    assert bench.extract(dataset).state == "complete"  # nothing in a tar could tell
    bench.server.files["/a.tar"] = data
    deep = verify_deep(dataset, bench.job())
    assert [(row.path, row.outcome) for row in deep.missing] == [(f"mini/{VICTIM}", DIFFERENT)]


def test_compressed_tar(bench: Bench) -> None:
    data = gzip.compress(tar_of(MEMBERS), 0)
    dataset = bench.dataset(a_tar_gz=data)
    bench.server.files["/a.tar.gz"] = flipped(data, inside(data, DATA))
    with pytest.raises(ArchiveError, match="not a whole .gz file: .*incorrect data check"):
        bench.extract(dataset)
    assert bench.metadata() == {}


def test_zip(bench: Bench) -> None:
    data = zip_of(MEMBERS)
    dataset = bench.dataset(a_zip=data)
    bench.server.files["/a.zip"] = flipped(data, data.index(VICTIM.encode()) + 500)
    result = bench.extract(dataset)
    assert (result.status, [row.path for row in result.missing]) == (3, [f"mini/{VICTIM}"])
    assert VICTIM not in bench.objects()
    bench.server.files["/a.zip"] = data
    assert bench.extract(dataset).state == "complete" and bench.objects() == dict(MEMBERS)


def test_a_photo_has_no_checksum_and_deep_compares_what_comes_later(
    cli: Cli, tmp_path: Path, mirror: SourceServer
) -> None:
    path = next(path for path, data in mirror.files.items() if path.endswith("_1.png") and data != sample.HTML)
    mirror.plan(path, Plan(body=flipped(mirror.files[path], 90)))
    assert cli("-i", "--mirror", mirror.url, "--to", tmp_path).returncode == 0
    mirror.plan(path, Plan())
    done = cli("-i", "--verify", "--deep", "--mirror", mirror.url, "--to", tmp_path)
    assert done.returncode == 3 and done.stderr.count("austin: different austin/full_quality/") == 1


# ── on the way into the bucket ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_between_worker_and_bucket_the_listing_tells_and_it_is_stored_again(
    api_bench: Bench, front: GcsFront, pack: Callable[[object], bytes]
) -> None:
    front.corrupt("xml.put", name=f"mini/{VICTIM}")
    assert api_bench.extract(api_bench.dataset(a=pack(MEMBERS))).state == "complete"
    assert api_bench.objects() == dict(MEMBERS)
    assert front.puts[f"mini/{VICTIM}"] == 2


def test_a_large_member_on_its_way(api_bench: Bench, front: GcsFront) -> None:
    front.corrupt("json.chunk", name="mini/large.bin")
    dataset = api_bench.dataset(a_tar=tar_of(LARGE))
    result = api_bench.extract(dataset)  # it goes with its checksum, and the bucket refuses it
    assert (result.status, [row.path for row in result.missing]) == (3, ["mini/large.bin"])
    assert "large.bin" not in api_bench.objects()
    assert api_bench.extract(dataset).state == "complete" and api_bench.objects() == dict(LARGE)


def test_what_never_arrives_as_it_is_is_named(api_bench: Bench, front: GcsFront) -> None:
    front.corrupt("xml.put", times=99, name=f"mini/{VICTIM}")
    result = api_bench.extract(api_bench.dataset(a_tar=tar_of(MEMBERS)))
    assert (result.status, [row.path for row in result.missing]) == (3, [f"mini/{VICTIM}"])
    assert api_bench.metadata() == {}


def test_a_journal_entry_or_a_manifest_on_its_way(api_bench: Bench, front: GcsFront) -> None:
    dataset = api_bench.dataset(a_tar=tar_of(MEMBERS))
    front.corrupt("xml.put", name="_extraction/mini/manifest.csv")
    api_bench.extract(dataset)
    assert "manifest: damaged" in verify(dataset, api_bench.bucket).missing[0].reason
    assert api_bench.extract(dataset).state == "complete"
    assert verify(dataset, api_bench.bucket).status == 0


# ── in the bucket ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("place", ["bench", "api_bench"])
def test_after_it_was_stored(place: str, request: pytest.FixtureRequest) -> None:
    bench: Bench = request.getfixturevalue(place)
    dataset = bench.dataset(a_zip=zip_of(MEMBERS))
    bench.extract(dataset)
    bench.bucket.put(f"mini/{VICTIM}", flipped(DATA, 7))
    found = verify(dataset, bench.bucket)
    assert [(row.path, row.outcome) for row in found.missing] == [(f"mini/{VICTIM}", DIFFERENT)]
    if place == "bench":  # of a directory those files are read that were changed after the manifest: here it is older
        time.sleep(0.02)  # a tick of the file system's clock
        os.utime(f"{bench.bucket.url}/_extraction/mini/manifest.csv")
        assert verify(dataset, bench.bucket).status == 0
        found = verify_deep(dataset, bench.job())
    assert [(row.path, row.outcome) for row in found.missing] == [(f"mini/{VICTIM}", DIFFERENT)]
    assert repair(dataset, bench.job(RunOptions(deep=True))).status == 0
    assert bench.objects() == dict(MEMBERS)


@pytest.mark.parametrize("file", ["manifest.csv", "manifest.json"])
def test_every_bit_of_the_manifest(tmp_path: Path, file: str) -> None:
    store = ManifestStore(FolderBucket(tmp_path), "d")
    rows = Rows.of([Row("d/é,1.jpg", 3, 7, "http://x/a.tar", 512), Row("d/b", 0, 0, "http://x/a.tar", 1024)])
    store.commit(rows, [], {"objects": 2, "sample": False, "sources": [{"file": "a.tar", "sha256": None}], "gone": 0})
    path = tmp_path / "_extraction/d" / file
    whole = path.read_bytes()
    assert json.loads((tmp_path / "_extraction/d/manifest.json").read_bytes())["objects"] == 2
    for at in range(len(whole)):
        for bit in (0, 5):  # one that makes other letters and digits, one that makes small letters large
            path.write_bytes(flipped(whole, at, bit))
            with pytest.raises(DamagedError):
                ManifestStore(FolderBucket(tmp_path), "d").manifest()
    path.write_bytes(whole)
    assert ManifestStore(FolderBucket(tmp_path), "d").manifest() is not None


def test_every_bit_of_a_journal_entry(tmp_path: Path) -> None:
    entry = JournalEntry(
        "a.tar/000",
        "v",
        Rows.of([Row("d/é", 3, 7, "http://x/a.tar", 512)]),
        9,
        SpanBoundary(512, 1024, (("path", "x"),), True),
    )
    whole = entry.encode()
    assert JournalEntry.decode(whole) == entry
    for at in range(len(whole)):
        for bit in range(8):
            with pytest.raises((ValueError, KeyError, TypeError)):
                JournalEntry.decode(flipped(whole, at, bit))


def test_a_damaged_journal_entry_is_reported_and_its_piece_read_again(bench: Bench) -> None:
    members = some_members(300, 90_000)
    dataset = bench.dataset(a_tar=tar_of([*members, ("../refused.jpg", b"")]))
    assert bench.extract(dataset).status == 3  # so that the journal stays
    listed = [each.name for each in bench.bucket.list("_extraction/mini/journal/") if each.size]
    entries = sorted(name for name in listed if not is_part(name))  # a part of a finished unit is not read
    whole = bench.bucket.get(entries[0]) or b""
    bench.bucket.put(entries[0], flipped(whole, len(whole) // 2))
    bench.server.requests.clear()
    assert bench.extract(dataset).status == 3
    assert [
        each for each in bench.server.ranges("/a.tar") if each and each.startswith("bytes=0-") and each[8:] != "511"
    ]
    assert bench.objects() == dict(members) and ManifestStore(bench.bucket, "mini").journal().keys() == {
        name.partition("/journal/")[2].removesuffix(".json") for name in entries
    }
