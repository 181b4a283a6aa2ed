"""A dataset's way into a bucket, in this process: what lands, what is proved, what is refused, what is resumed."""

from __future__ import annotations

import csv
import io
import os
import random
import signal
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from distributed import LocalCluster

from archives import tar
from commands.verify import verify
from errors import ArchiveError, ClusterError, ExtractionError, SourceChangedError, SourceError
from gcs import Destination
from pipeline import cluster, uploads
from pipeline.cluster import start_cluster
from pipeline.options import RunOptions
from storage.names import PARTIAL_PREFIX
from support.archives import MB, some_members, tar_of, zip_of
from support.bench import Bench, context_of
from support.fake_gcs import GcsFront
from support.source_server import Plan, SourceServer

# ── whole archives ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [tar_of, zip_of])
@pytest.mark.parametrize("place", ["bench", "api_bench"])
def test_every_member_lands_and_is_proved(kind: object, place: str, request: pytest.FixtureRequest) -> None:
    bench: Bench = request.getfixturevalue(place)
    members = some_members(900, 40_000)  # three spans
    assert callable(kind)
    result = bench.extract(bench.dataset(a_tar=kind(members), pin=True))
    assert (result.state, result.objects, result.size) == ("complete", 900, sum(len(data) for _, data in members))
    assert bench.objects() == dict(members)
    sources = bench.metadata()["sources"]
    assert isinstance(sources, list) and sources[0]["sha256_check"] == "matches"
    table = list(csv.DictReader(io.StringIO((bench.bucket.get("_extraction/mini/manifest.csv") or b"").decode())))
    assert {row["path"] for row in table} == {f"mini/{name}" for name, _ in members}
    assert bench.events[-1].bytes == bench.events[-1].bytes_total
    assert verify(bench.dataset(), bench.bucket).state == "complete"


def test_folders_have_placeholders(api_bench: Bench, front: GcsFront) -> None:
    api_bench.extract(api_bench.dataset(a_tar=tar_of([("x/y/z.jpg", b"1"), ("top.jpg", b"2")])))
    listed = {stored.name for stored in api_bench.bucket.list("mini/")}
    assert listed == {"mini/", "mini/x/", "mini/x/y/", "mini/x/y/z.jpg", "mini/top.jpg"}


def test_members_larger_than_a_span_stream_through(api_bench: Bench) -> None:
    rng = random.Random(3)
    members = [("a.jpg", b"1"), ("large.bin", rng.randbytes(30 * MB)), ("b.jpg", b"2")]
    result = api_bench.extract(
        api_bench.dataset(a_tar=tar_of(members), b_zip=zip_of([("large.zip.bin", members[1][1])]), pin=True)
    )
    assert result.state == "complete"
    assert api_bench.objects() == {**dict(members), "large.zip.bin": members[1][1]}
    sources = api_bench.metadata()["sources"]
    assert isinstance(sources, list) and [source["sha256_check"] for source in sources] == ["matches", "matches"]


def test_compressed_tar(bench: Bench) -> None:
    import gzip

    members = some_members(50, 10_000)
    assert bench.extract(bench.dataset(a_tar_gz=gzip.compress(tar_of(members)), pin=True)).state == "complete"
    assert bench.objects() == dict(members)


def test_no_byte_is_fetched_twice_but_the_seams(bench: Bench) -> None:
    data = tar_of(some_members(900, 40_000))
    bench.extract(bench.dataset(a_tar=data, pin=True))
    wanted = [header for _, header, _ in bench.server.requests if header]
    fetched = sum(
        int(stop) - int(start) + 1 for start, stop in (header.removeprefix("bytes=").split("-") for header in wanted)
    )
    assert len(data) <= fetched <= len(data) + 4 * (tar.LOOK_BACK_BYTES + tar.READ_AHEAD_BYTES)


# ── hostile and damaged archives ─────────────────────────────────────────────────────────────────


def test_of_two_members_of_one_name_the_last_wins(bench: Bench) -> None:
    filler = some_members(500, 40_000)
    members = [("twice.jpg", b"first"), *filler, ("twice.jpg", b"second"), ("near.jpg", b"1"), ("near.jpg", b"2")]
    assert bench.extract(bench.dataset(a_tar=tar_of(members))).state == "complete"
    assert bench.objects() == {**dict(filler), "twice.jpg": b"second", "near.jpg": b"2"}


def test_more_small_members_than_are_waited_for_at_once(api_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_PENDING_BATCHES", 3)
    members = [(f"{number % 40}.jpg", b"%d" % number) for number in range(100)]
    assert api_bench.extract(api_bench.dataset(a_tar=tar_of(members))).objects == 40
    assert api_bench.objects() == dict(members)


@pytest.mark.parametrize("turn", range(3))
def test_the_last_of_one_name_and_size_wins_in_a_directory_too(bench: Bench, turn: int) -> None:
    filler = some_members(500, 40_000, seed=turn)
    members = [("twice.jpg", b"first_"), *filler, ("twice.jpg", b"second")]
    assert bench.extract(bench.dataset(a_tar=tar_of(members))).state == "complete"
    assert bench.objects() == {**dict(filler), "twice.jpg": b"second"}


@pytest.mark.parametrize("place", ["bench", "api_bench"])
def test_a_tar_inside_a_tar_stays_one_member(place: str, request: pytest.FixtureRequest) -> None:
    bench: Bench = request.getfixturevalue(place)
    filler = some_members(700, 60_000)
    inner = tar_of([*filler[:350], ("outer/a.jpg", b"old"), ("only/inner.jpg", b"x"), *filler[350:]])
    members = [("outer/a.jpg", b"new"), ("inner.tar", inner), ("last.jpg", b"2")]
    assert bench.extract(bench.dataset(a_tar=tar_of(members), pin=True)).state == "complete"
    assert bench.objects() == dict(members)
    assert {name for name in (stored.name for stored in bench.bucket.list("mini/")) if name.endswith("/")} >= {
        "mini/outer/"
    }


def test_unsafe_members_are_refused_and_the_rest_is_stored(bench: Bench) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("good.jpg", "../evil.jpg", "/abs.jpg", "a/../../b.jpg", "c:\\x.jpg"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    result = bench.extract(bench.dataset(a_tar=file.getvalue()))
    assert (result.state, result.status, list(bench.objects())) == ("incomplete", 3, ["good.jpg"])
    reasons = (bench.bucket.get("_extraction/mini/failures.csv") or b"").decode()
    assert reasons.count("refused") == 5
    assert "a symbolic link to '/etc/passwd'" in reasons and "an absolute name" in reasons
    assert bench.metadata() == {}


def test_a_damaged_zip_member_is_listed_and_the_others_stored(bench: Bench) -> None:
    members = some_members(20, 5000)
    data = bytearray(zip_of(members))
    data[data.index(b"f3/3.jpg") + 200] ^= 1
    result = bench.extract(bench.dataset(a_zip=bytes(data)))
    assert (result.status, [row.path for row in result.missing]) == (3, ["mini/f3/3.jpg"])
    assert bench.objects() == {name: content for name, content in members if name != "f3/3.jpg"}
    bench.server.files["/a.zip"] = zip_of(members)
    assert bench.extract(bench.dataset(a_zip=zip_of(members))).state == "complete"


@pytest.mark.parametrize("place", ["bench", "api_bench"])
@pytest.mark.parametrize("where", [100, 19_000_000])
def test_a_damaged_large_member_is_listed_and_nothing_of_it_is_stored(
    place: str, where: int, request: pytest.FixtureRequest
) -> None:
    bench: Bench = request.getfixturevalue(place)
    members = [("a.jpg", b"1"), ("large.bin", random.Random(4).randbytes(20 * MB)), ("b.jpg", b"2")]
    data = bytearray(zip_of(members))
    data[data.index(b"large.bin") + where] ^= 1
    result = bench.extract(bench.dataset(a_zip=bytes(data)))
    assert (result.status, [row.path for row in result.missing]) == (3, ["mini/large.bin"])
    assert bench.objects() == {"a.jpg": b"1", "b.jpg": b"2"}


def test_a_checksum_that_differs_fails_and_nothing_counts(bench: Bench) -> None:
    data = bytearray(tar_of(some_members(500, 40_000)))
    dataset = bench.dataset(a_tar=bytes(data), pin=True)
    data[5_000_000] ^= 1
    bench.server.files["/a.tar"] = bytes(data)
    with pytest.raises(ArchiveError, match=r"a.tar: expected sha256 [0-9a-f]{64}, got [0-9a-f]{64}"):
        bench.extract(dataset)
    assert bench.metadata() == {}
    assert [stored.name for stored in bench.bucket.list("_extraction/mini/") if stored.name.endswith(".json")] == [
        "_extraction/mini/journal/begun.json"
    ]


@pytest.mark.parametrize("cut", [1024 * 10, 5_000_000, 1536])
def test_a_truncated_tar_is_called_that(bench: Bench, cut: int) -> None:
    data = tar_of(some_members(500, 40_000))
    with pytest.raises(ArchiveError, match="a.tar: .*(cut off|end of the file)"):
        bench.extract(bench.dataset(a_tar=data[: -cut - 10240]))
    assert bench.metadata() == {}


def test_a_truncated_zip_is_called_that(bench: Bench) -> None:
    with pytest.raises(ArchiveError, match="not a whole zip archive"):
        bench.extract(bench.dataset(a_zip=zip_of(some_members(50, 4000))[:-100]))


def test_a_size_that_differs_fails_before_anything_is_written(bench: Bench) -> None:
    dataset = bench.dataset(a_tar=tar_of([("a", b"1")]), pin=True)
    bench.server.files["/a.tar"] += bytes(512)
    with pytest.raises(SourceError, match="expected 10,240 bytes, got 10,752"):
        bench.extract(dataset)
    assert bench.objects() == {}


def test_a_source_that_changes_is_an_error_never_a_mixture(bench: Bench, server: SourceServer) -> None:
    dataset = bench.dataset(a_tar=tar_of(some_members(900, 40_000)))
    server.plan("/a.tar", Plan(), times=2)
    server.plan("/a.tar", Plan(body=tar_of(some_members(900, 40_000, seed=2)), etag='"2"'))
    with pytest.raises(SourceChangedError, match="changed while it was read"):
        bench.extract(dataset)
    assert bench.metadata() == {}


# ── again ────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_run_only_lists(api_bench: Bench, front: GcsFront) -> None:
    dataset = api_bench.dataset(a_tar=tar_of(some_members(300, 1000)))
    api_bench.extract(dataset)
    front.reset()
    api_bench.server.requests.clear()
    assert api_bench.extract(dataset).was_complete
    front.counts.pop("json.bucket.get", None)  # google-cloud-storage looks the bucket up once, by itself
    assert {kind: count for kind, count in front.counts.items() if count} == {"xml.get": 2, "json.list": 2}
    assert api_bench.server.requests == []


def test_what_a_run_killed_at_its_very_end_left_goes_with_the_next(bench: Bench) -> None:
    dataset = bench.dataset(a_tar=tar_of(some_members(30, 1000)))
    bench.extract(dataset)
    left = (
        "_extraction/mini/journal/a.tar/0-1.json",
        f"_extraction/mini/{PARTIAL_PREFIX}1",
        f"mini/f3/{PARTIAL_PREFIX}2",
    )
    for name in left:
        bench.bucket.put(name, b"{")
    assert bench.extract(dataset).was_complete
    assert not [stored.name for stored in bench.bucket.list("_extraction/mini/journal/")]
    assert [bench.bucket.get(name) for name in left] == [None, None, None]


def test_a_lost_object_is_found_and_only_that_is_written(api_bench: Bench, front: GcsFront) -> None:
    dataset = api_bench.dataset(a_tar=tar_of(some_members(300, 1000)))
    api_bench.extract(dataset)
    api_bench.bucket.delete(["mini/f3/3.jpg"])
    assert verify(dataset, api_bench.bucket).status == 3
    front.reset()
    assert api_bench.extract(dataset).state == "complete"
    assert {name for name in front.puts if name.startswith("mini/")} == {"mini/f3/3.jpg"}


def test_a_changed_object_is_put_right(bench: Bench) -> None:
    members = some_members(30, 1000)
    dataset = bench.dataset(a_tar=tar_of(members))
    bench.extract(dataset)
    bench.bucket.put("mini/f3/3.jpg", b"half")
    assert bench.extract(dataset).state == "complete"
    assert bench.objects() == dict(members)


def test_force_extracts_again_and_removes_what_no_longer_belongs(api_bench: Bench, front: GcsFront) -> None:
    members = some_members(30, 1000)
    api_bench.extract(api_bench.dataset(a_tar=tar_of([*members, ("old.jpg", b"x")])))
    front.reset()
    assert api_bench.extract(api_bench.dataset(a_tar=tar_of(members)), RunOptions(force=True)).state == "complete"
    assert api_bench.objects() == dict(members)
    assert all(front.puts[f"mini/{name}"] == 1 for name, _ in members)


def test_a_partial_folder_is_not_taken_for_a_complete_one(bench: Bench) -> None:
    members = some_members(30, 1000)
    for name, data in members[:20]:
        bench.bucket.put(f"mini/{name}", data)
    bench.bucket.put(f"mini/{members[20][0]}", bytes(len(members[20][1])))  # the right size, the wrong bytes
    result = bench.extract(bench.dataset(a_tar=tar_of(members)))
    assert not result.was_complete and bench.objects() == dict(members)


def test_the_sample_and_the_real_thing_do_not_mix(bench: Bench) -> None:
    dataset = bench.dataset(a_tar=tar_of(some_members(3, 100)))
    bench.extract(dataset, RunOptions(sample=True))
    with pytest.raises(ExtractionError, match="holds the sample of it; --force"):
        bench.extract(dataset)
    assert bench.extract(dataset, RunOptions(force=True)).state == "complete"


def test_a_member_that_the_bucket_refuses_is_missing_and_comes_with_the_next_run(
    api_bench: Bench, front: GcsFront
) -> None:
    members = some_members(30, 1000)
    dataset = api_bench.dataset(a_tar=tar_of(members))
    front.fail("xml.put", 400, times=1, name="mini/f3/3.jpg")
    result = api_bench.extract(dataset)
    assert (result.status, len(result.missing)) == (3, 1)
    assert api_bench.extract(dataset).state == "complete"
    assert api_bench.objects() == dict(members)


def test_a_machine_that_slept_has_not_lost_its_worker(bench: Bench) -> None:
    cluster = bench.workers.client.cluster
    assert cluster is not None and cluster.scheduler.worker_ttl is None


def test_a_cluster_without_workers_is_waited_for_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WORKER_TIMEOUT", 0.2)
    to = Destination(str(tmp_path))
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as empty:  # noqa: SIM117
        with pytest.raises(ExtractionError, match=r"the scheduler has no workers, after 0\.2 s; start some with"):
            with start_cluster(context_of(to), scheduler=empty.scheduler_address):
                pytest.fail("no worker is there")


def test_workers_that_never_come_back_end_the_run(
    server: SourceServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cluster.DASK, "distributed.scheduler.no-workers-timeout", "1s")
    server.plan("/a.tar", Plan(), times=3)  # what is read of it beforehand
    server.plan("/a.tar", Plan(drip=0.05))
    destination = Destination(str(tmp_path / "out"))
    with start_cluster(context_of(destination), workers=1) as workers:
        bench = Bench(server, workers)
        dataset = bench.dataset(a_tar=tar_of(some_members(300, 10_000)))
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(bench.extract, dataset)
            while not list((tmp_path / "out").rglob("*.jpg")):
                assert not run.done()
                time.sleep(0.05)
            assert workers.client.cluster
            (nanny,) = workers.client.cluster.workers.values()
            nanny.close_gracefully()  # it does not start its worker again
            os.kill(nanny.pid, signal.SIGKILL)
            with pytest.raises(ClusterError, match="the dask cluster was lost .*; what is stored stays: run again"):
                run.result(60)
