"""--verify, --deep and --repair: what is missing, different or extra is named, and just that is put right."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from commands.repair import repair
from commands.verify import verify, verify_deep
from datasets import Dataset
from errors import ExtractionError
from pipeline.differences import DIFFERENT, MISSING, UNREAD
from pipeline.existing import EXTRA
from pipeline.options import RunOptions
from support.archives import some_members, tar_of, zip_of
from support.bench import Bench
from support.fake_gcs import GcsFront
from support.program import Cli
from support.source_server import SourceServer

MEMBERS = some_members(300, 90_000)  # three spans


def findings(bench: Bench, dataset: Dataset) -> dict[str, str]:
    """What the listing alone shows, by name."""
    result = verify(dataset, bench.bucket)
    assert result.status == (3 if result.missing or result.extra else 0)
    return {row.path: row.outcome for row in (*result.missing, *result.extra)}


def damage(bench: Bench) -> dict[str, str]:
    """One object gone, two that are others, one that is unknown, one folder without its placeholder."""
    bench.bucket.delete(["mini/f3/3.jpg"])
    bench.bucket.put("mini/f4/4.jpg", b"half")
    bench.bucket.put("mini/f6/293.jpg", bytes(len(dict(MEMBERS)["f6/293.jpg"]) + 1))
    bench.bucket.put("mini/f5/notes.txt", b"mine")
    return {"mini/f3/3.jpg": MISSING, "mini/f4/4.jpg": DIFFERENT, "mini/f6/293.jpg": DIFFERENT,
            "mini/f5/notes.txt": EXTRA}  # fmt: skip


@pytest.mark.parametrize("place", ["bench", "api_bench"])
@pytest.mark.parametrize("pack", [tar_of, zip_of, lambda members: gzip.compress(tar_of(members), 1)])
def test_what_is_wrong_is_named_and_just_that_put_right(
    place: str, pack: Callable[[object], bytes], request: pytest.FixtureRequest, front: GcsFront
) -> None:
    bench: Bench = request.getfixturevalue(place)
    dataset = bench.dataset(a=pack(MEMBERS))
    bench.extract(dataset)
    assert findings(bench, dataset) == {}
    wrong = damage(bench)
    assert findings(bench, dataset) == wrong
    front.puts.clear()
    bench.server.requests.clear()
    result = repair(dataset, bench.job())
    assert [row.path for row in result.extra] == ["mini/f5/notes.txt"] and not result.missing and result.status == 3
    assert bench.objects() == {**dict(MEMBERS), "f5/notes.txt": b"mine"}
    assert set(front.puts) <= wrong.keys() - {"mini/f5/notes.txt"}
    bench.bucket.delete(["mini/f5/notes.txt"])
    assert findings(bench, dataset) == {}
    assert bench.bucket.get("_extraction/mini/manifest.csv") and not list(
        bench.bucket.list("_extraction/mini/journal/")
    )


def test_a_repair_reads_only_what_holds_the_member(bench: Bench) -> None:
    members = some_members(900, 40_000)
    data = tar_of(members)
    bench.extract(bench.dataset(a_tar=data))
    bench.bucket.delete(["mini/f3/500.jpg"])
    bench.server.requests.clear()
    repair(bench.dataset(a_tar=data), bench.job())
    ranges = [request.range.removeprefix("bytes=").split("-") for request in bench.server.requests if request.range]
    assert sum(int(stop) - int(start) + 1 for start, stop in ranges) < 50_000
    assert bench.objects() == dict(members)


def test_members_of_a_tar_in_a_tar_and_twice_of_one_name_are_repaired_as_they_were(bench: Bench) -> None:
    filler = some_members(700, 60_000)
    inner = tar_of([*filler[:350], ("outer/a.jpg", b"old"), *filler[350:]])
    long = "d/" + "x" * 180 + ".jpg"  # GNU writes a header of its own for so long a name
    members = [("outer/a.jpg", b"before"), ("outer/a.jpg", b"new"), ("inner.tar", inner), (long, b"2"), ("b.jpg", b"3")]
    dataset = bench.dataset(a_tar=tar_of(members))
    bench.extract(dataset)
    bench.bucket.delete([f"mini/{name}" for name, _ in members])
    repair(dataset, bench.job())
    assert bench.objects() == dict(members)


def test_a_lost_placeholder_is_missing_and_made_again(api_bench: Bench) -> None:
    dataset = api_bench.dataset(a_tar=tar_of([("x/y/z.jpg", b"1")]))
    api_bench.extract(dataset)
    api_bench.bucket.delete(["mini/x/"])
    assert findings(api_bench, dataset) == {"mini/x/": MISSING}
    api_bench.server.requests.clear()
    assert repair(dataset, api_bench.job()).status == 0
    assert api_bench.server.requests == []


def test_a_source_with_other_bytes_by_now_is_not_stored(bench: Bench) -> None:
    members = some_members(30, 1000)
    dataset = bench.dataset(a_tar=tar_of(members))
    bench.extract(dataset)
    bench.bucket.delete(["mini/f3/3.jpg"])
    changed = [(name, bytes(len(data)) if name == "f3/3.jpg" else data) for name, data in members]
    bench.server.files["/a.tar"] = tar_of(changed)
    result = repair(dataset, bench.job())
    assert [(row.path, row.outcome) for row in result.missing] == [("mini/f3/3.jpg", MISSING)]
    assert "f3/3.jpg" not in bench.objects()


# ── deep ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("place", ["bench", "api_bench"])
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_deep_compares_the_sources_and_stores_nothing(
    place: str, pack: Callable[[object], bytes], request: pytest.FixtureRequest, front: GcsFront
) -> None:
    bench: Bench = request.getfixturevalue(place)
    dataset = bench.dataset(a=pack(MEMBERS))
    bench.extract(dataset)
    front.reset()
    before = {stored.name: stored for stored in bench.bucket.list("mini/")}
    deep = verify_deep(dataset, bench.job())
    assert (deep.status, deep.objects, deep.is_verification) == (0, 300, True)
    changed = [*MEMBERS[:299], ("new.jpg", b"1")]
    changed[5] = (changed[5][0], bytes(len(changed[5][1])))
    bench.server.files["/a"] = pack(changed)
    deep = verify_deep(dataset, bench.job())
    assert deep.status == 3 and {row.path: (row.outcome, row.reason[:10]) for row in deep.missing} == {
        f"mini/{MEMBERS[5][0]}": (DIFFERENT, f"expected {len(MEMBERS[5][1]):,}"[:10]),
        f"mini/{MEMBERS[299][0]}": (UNREAD, "the source"),
        "mini/new.jpg": (MISSING, "the source"),
    }
    assert not front.puts and before == {stored.name: stored for stored in bench.bucket.list("mini/")}


def test_deep_finds_another_sha256_where_no_member_differs(bench: Bench) -> None:
    data = bytearray(tar_of(MEMBERS))
    dataset = bench.dataset(a_tar=bytes(data), pin=True)
    bench.extract(dataset)
    data[-1] = 1  # behind the end-of-archive block
    bench.server.files["/a.tar"] = bytes(data)
    deep = verify_deep(dataset, bench.job())
    assert [(row.path, row.outcome) for row in deep.missing] == [("a.tar", DIFFERENT)]


def test_in_a_directory_other_bytes_of_the_same_size_are_seen_where_the_file_was_changed(bench: Bench) -> None:
    dataset = bench.dataset(a_tar=tar_of(MEMBERS))
    bench.extract(dataset)
    bench.bucket.put("mini/f3/3.jpg", bytes(len(dict(MEMBERS)["f3/3.jpg"])))
    assert findings(bench, dataset) == {"mini/f3/3.jpg": DIFFERENT}
    deep = verify_deep(dataset, bench.job())
    assert [(row.path, row.outcome) for row in deep.missing] == [("mini/f3/3.jpg", DIFFERENT)]
    options = RunOptions(deep=True)
    assert repair(dataset, bench.job(options)).status == 0
    assert bench.objects() == dict(MEMBERS)


@pytest.mark.parametrize("work", [verify_deep, repair])
def test_the_sample_is_not_compared_with_the_real_sources(bench: Bench, work: Callable[..., object]) -> None:
    dataset = bench.dataset(a_tar=tar_of(MEMBERS[:9]))
    bench.extract(dataset, RunOptions(sample=True))
    with pytest.raises(ExtractionError, match="holds the sample of it"):
        work(dataset, bench.job())


# ── the command ──────────────────────────────────────────────────────────────────────────────────


def test_the_command_names_every_finding_and_repairs(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("-a", "--sample", "--to", out).returncode == 0
    photos = sorted((out / "austin/full_quality").iterdir())
    for photo in photos[:7]:
        photo.unlink()
    (out / "austin/annotations" / f"{photos[9].stem}.json").write_bytes(b"{}")
    (out / "tsinghua/notes.txt").write_bytes(b"mine")
    done = cli("-a", "--verify", "--to", out)
    assert done.returncode == 3
    assert sorted(re.findall(r"^austin: (\w+) austin", done.stderr, re.M)) == ["different"] + ["missing"] * 7
    assert "tsinghua: extra tsinghua/notes.txt: none of the dataset" in done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()[1:]] == ["complete", "complete", "incomplete"]
    (out / "tsinghua/notes.txt").unlink()
    done = cli("-a", "--repair", "--sample", "--to", out, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    done = cli("-a", "--verify", "--deep", "--sample", "--to", out, "--log-format", "json")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == ["complete"] * 3
    assert "lists.tar: sha256 matches" in done.stderr


def test_findings_as_json_are_fields(cli: Cli, tmp_path: Path) -> None:
    assert cli("-d", "stanford", "--sample", "--to", tmp_path).returncode == 0
    (tmp_path / "stanford/lists/file_list.mat").write_bytes(b"")
    (tmp_path / "stanford/x").write_bytes(b"")
    done = cli("-d", "stanford", "--verify", "--to", tmp_path, "--log-format", "json")
    logged = [json.loads(line) for line in done.stderr.splitlines()]
    found = {(line["finding"], line["path"]) for line in logged if "finding" in line}
    assert found == {("different", "stanford/lists/file_list.mat"), ("extra", "stanford/x")}
    (summary,) = map(json.loads, done.stdout.splitlines())
    assert (summary["missing"], summary["extra"], done.returncode) == (1, 1, 3)


def test_two_datasets_in_one_folder_are_no_extras_to_each_other(cli: Cli, tmp_path: Path) -> None:
    assert cli("-d", "tsinghua", "-d", "tsinghua-high", "--sample", "--to", tmp_path).returncode == 0
    assert cli("-d", "tsinghua", "-d", "tsinghua-high", "--verify", "--to", tmp_path).returncode == 0


@pytest.mark.parametrize("how", [["--verify"], ["--verify", "--deep", "--sample"], ["--repair", "--sample"]])
def test_what_is_not_complete_cannot_be_verified(cli: Cli, tmp_path: Path, how: list[str]) -> None:
    done = cli("-d", "stanford", *how, "--to", tmp_path)
    assert done.returncode == 3 and "so it is not complete: extract it first" in done.stderr
    assert "stanford  incomplete" in done.stdout and not (tmp_path / "stanford").exists()


def test_deep_of_a_source_that_fails_is_an_error_not_a_verdict(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    assert cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path).returncode == 0
    del mirror.files["/images.tar"]
    done = cli("-d", "stanford", "--verify", "--deep", "--mirror", mirror.url, "--to", tmp_path)
    assert done.returncode == 1 and "images.tar: status 404" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--deep"], "--deep needs --verify or --repair"),
        (["--verify", "--remove-extra"], "--remove-extra needs --repair"),
        (["--verify", "--repair"], "--verify and --repair cannot be combined"),
        (["--repair", "--force"], "--repair and --force cannot be combined"),
        (["--verify", "--force"], "--verify and --force cannot be combined"),
    ],
)
def test_options_that_make_no_sense_together(cli: Cli, tmp_path: Path, options: list[str], message: str) -> None:
    done = cli("-a", "--sample", "--to", tmp_path, *options)
    assert done.returncode == 2 and f"error: {message}" in done.stderr
