"""--repair tells archives of one address apart, and with --deep corrects what was read wrong at first."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest

from commands.repair import repair
from commands.verify import verify, verify_deep
from datasets import Archive, Dataset
from pipeline.differences import DIFFERENT
from pipeline.options import RunOptions
from support.archives import some_members, tar_of, zip_of
from support.bench import Bench
from support.fake_gcs_requests import flipped
from support.fault_harness import Site
from support.source_server import Plan

MEMBERS = some_members(60, 20_000)
VICTIM, DATA = MEMBERS[30]
DEEP = RunOptions(deep=True)


def with_repair(bench: Bench, dataset: Dataset, order: RunOptions) -> int:
    return repair(dataset, bench.job(order)).status


def deep(bench: Bench, dataset: Dataset) -> list[tuple[str, str]]:
    result = verify_deep(dataset, bench.job(DEEP))
    return [(row.path, row.outcome) for row in result.missing]


def test_what_was_read_wrong_is_corrected(any_bench: Bench) -> None:
    bench, data = any_bench, tar_of(MEMBERS)
    dataset = bench.dataset(a_tar=data)
    bench.server.files["/a.tar"] = flipped(data, data.index(DATA) + 999)
    assert bench.extract(dataset).state == "complete"
    bench.server.files["/a.tar"] = data
    assert deep(bench, dataset) == [(f"mini/{VICTIM}", DIFFERENT)]
    assert with_repair(bench, dataset, DEEP) == 0
    assert bench.objects() == dict(MEMBERS) and deep(bench, dataset) == []
    assert verify(dataset, bench.bucket).status == 0
    assert bench.extract(dataset).state == "complete"


def test_a_single_reading_corrects_nothing(any_bench: Bench) -> None:
    """The reading that finds it may be the wrong one itself: the next has to agree."""
    bench, data = any_bench, tar_of(MEMBERS)
    dataset = bench.dataset(a_tar=data)
    assert bench.extract(dataset).state == "complete"
    bench.server.plan("/a.tar", Plan(), times=1)
    bench.server.plan("/a.tar", Plan(), times=1)
    bench.server.plan("/a.tar", Plan(body=flipped(data, data.index(DATA) + 999)), times=1)
    assert with_repair(bench, dataset, DEEP) == 3
    assert bench.objects() == dict(MEMBERS) and deep(bench, dataset) == []


def test_another_version_of_a_source_corrects_nothing(bench: Bench) -> None:
    data = tar_of(MEMBERS)
    dataset = bench.dataset(a_tar=data)
    assert bench.extract(dataset).state == "complete"
    bench.server.plan("/a.tar", Plan(body=flipped(data, data.index(DATA) + 999), etag='"2"'))
    assert with_repair(bench, dataset, DEEP) == 3
    assert bench.objects() == dict(MEMBERS)


@pytest.mark.parametrize("place", ["api", "folder"])
def test_the_command_corrects_a_photo_and_says_how(place: str) -> None:
    with Site(place, ("-d", "austin")) as site:
        path = next(path for path in site.source.files if path.endswith("_1.png"))
        right = site.source.files[path]
        site.source.plan(path, Plan(body=flipped(right, 90)))
        assert site.run().status == 0
        site.source.heal()
        found = site.run("--verify", "--deep")
        assert found.status == 3 and "next:  --repair --deep stores again" in found.said
        done = site.run("--repair", "--deep")
        assert done.status == 0 and "1 objects were read wrong" in done.said, done.said
        assert list(site.wrong()) == [] and site.run("--verify", "--deep").status == 0


@pytest.mark.parametrize("pack", [tar_of, zip_of, lambda members: gzip.compress(tar_of(members), 1)])
@pytest.mark.parametrize("size", [9 << 20, 5])
def test_archives_whose_addresses_differ_in_the_query_alone(
    bench: Bench, pack: Callable[[object], bytes], size: int
) -> None:
    """Both have a member at the same place, and of the same length."""
    members = [[(f"{name}/x.bin", name.encode() * size), (f"{name}/y.jpg", name.encode())] for name in "ab"]
    archives = []
    for number, each in enumerate(members):
        bench.server.files[f"/f/get?id={number}"] = pack(each)
        archives.append(Archive((f"{bench.server.url}/f/get?id={number}",), "mini/", f"{number}.bin", None, ""))
    dataset = Dataset("mini", "a miniature", "mini/", archives=tuple(archives))
    assert bench.extract(dataset).state == "complete"
    expected = bench.objects()
    assert expected == dict([*members[0], *members[1]])
    bench.bucket.delete([f"mini/{name}" for name in expected])
    assert with_repair(bench, dataset, RunOptions()) == 0
    assert bench.objects() == expected
