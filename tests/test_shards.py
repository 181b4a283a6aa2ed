"""Shards: every image and its line once, in tar files that are always the same; a run that is killed goes on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

import commands.shards
from commands.shards import make_shards
from datasets import Dataset, Layout
from errors import DamagedError
from manifest.seal import unseal
from pipeline.results import Result
from pipeline.shards import SHARD_BYTES, Sample, Shard, shards
from sources import sample
from storage.bucket import decode_crc32c, encode_crc32c
from support.archives import tar_of
from support.bench import Bench
from support.fake_gcs import GcsFront
from support.program import ROOT, Cli, clean_environment, files_under, message

NAMES = ("stanford", "tsinghua", "austin", "oxford")
# The program with shards of 4 KB: 36 of Austin.
SMALL = "import sys, commands.shards as shards; shards.SHARD_BYTES = 4096; import cli; sys.exit(cli.main())"
# The same; it ends as the tenth shard begins.
KILLED = """
import itertools, os, pipeline.shards as made
begun, images = itertools.count(1), made._Content._images
made._Content._images = lambda self: os.kill(os.getpid(), 9) if next(begun) == 10 else images(self)
"""
READING_PYTHON = os.environ.get("READING_PYTHON", str(ROOT / ".cache/reading/bin/python"))
AUSTIN = ("-d", "austin", "--shards", "webdataset", "--to")


def small(home: Path, *arguments: str | Path, before: str = "", **environment: str) -> tuple[int, str]:
    """The exit status, and what it says."""
    done = subprocess.run(
        [sys.executable, "-c", before + SMALL, *map(str, arguments)], check=False, timeout=120, capture_output=True,
        env=clean_environment(home, environment | {"PYTHONPATH": str(ROOT)}),
    )  # fmt: skip
    return done.returncode, done.stderr.decode()


def in_bucket(front: GcsFront, bucket: str) -> dict[str, bytes]:
    """The shards' folder of a bucket, without placeholders."""
    names = [name for name in front.objects(bucket) if name.startswith("shards/") and not name.endswith("/")]
    return {name: front.read(bucket, name) or b"" for name in names}


def in_folder(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_under(root).items() if name.startswith("shards/")}


def read(data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        return [(info, file.read()) for info in archive if (file := archive.extractfile(info))]


# ── what is in them ──────────────────────────────────────────────────────────────────────────────


def test_every_image_and_its_line_once_and_equal(cli: Cli, tmp_path: Path) -> None:
    options = [word for name in NAMES for word in ("-d", name)]
    assert cli(*options, "--sample", "--to", tmp_path).returncode == 0
    done = cli(*options, "--shards", "webdataset", "--to", tmp_path)
    assert done.returncode == 0 and done.stdout.count(" complete ") == len(NAMES), done.stderr
    for name in NAMES:
        lines = (tmp_path / f"_extraction/{name}/metadata.jsonl").read_bytes().splitlines()
        index, found = unseal((tmp_path / f"shards/{name}/index.json").read_bytes()), Counter[int]()
        for each in index["shards"]:
            data = (tmp_path / f"shards/{name}/{each['name']}").read_bytes()
            assert (each["bytes"], decode_crc32c(each["crc32c"])) == (len(data), google_crc32c.value(data))
            members = read(data)
            assert len(members) == 2 * each["samples"]
            for (info, image), (beside, line) in zip(members[::2], members[1::2], strict=True):
                number, fields = int(info.name.partition(".")[0]), json.loads(line)
                assert beside.name == f"{number:08d}.json" and line == lines[number]
                assert image == (tmp_path / fields["path"]).read_bytes()
                assert each["split"] == (fields["split"] or "unlisted") and each["name"].startswith(each["split"])
                found[number] += 1
        assert found == Counter(range(len(lines))) and index["samples"] == len(lines)
        assert index["bytes"] == sum(path.stat().st_size for path in (tmp_path / f"shards/{name}").glob("*.tar"))


def line(path: str, data: bytes, form: str | None = "jpeg", split: str | None = "train") -> bytes:
    crc32c = encode_crc32c(google_crc32c.value(data))
    return json.dumps({"path": path, "split": split, "format": form, "size": len(data), "crc32c": crc32c}).encode()


def content(shard: Shard, images: dict[str, bytes]) -> bytes:
    """A shard by tarfile alone."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for each in shard.samples:
            end = {"jpeg": "jpg", None: "bin"}.get(each.form, each.form)
            for ending, data in ((end, images[each.path]), ("json", each.line)):
                info = tarfile.TarInfo(f"{each.number:08d}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return file.getvalue() + bytes(2 * tarfile.BLOCKSIZE)  # tarfile would fill a whole record


@given(st.lists(st.tuples(st.binary(max_size=1500), st.sampled_from(["jpeg", "png", "webp", None])), min_size=1),
       st.integers(1, 9000))  # fmt: skip
def test_size_and_checksum_are_known_before_an_image_is_read(found: list[tuple[bytes, str | None]], size: int) -> None:
    images = {f"a/{number}": data for number, (data, _) in enumerate(found)}
    lines = [line(f"a/{number}", data, form) for number, (data, form) in enumerate(found)]
    made = shards(lines, size)
    assert sorted(each.number for shard in made for each in shard.samples) == list(range(len(found)))
    for number, shard in enumerate(made):
        data = content(shard, images)
        assert (shard.name, shard.size, shard.crc32c) == (
            f"train-{number:06d}.tar",
            len(data),
            google_crc32c.value(data),
        )


def test_each_shard_has_a_share_of_each_label_and_is_about_as_large() -> None:
    lines = [line(f"{label}/{number}.jpg", bytes(900)) for label in range(10) for number in range(200)]
    made = shards(lines, 400_000)
    assert {len(shard.samples) for shard in made} == {153, 154} and len(made) == 13
    for shard in made:
        labels = Counter(each.path.partition("/")[0] for each in shard.samples)
        assert len(labels) == 10 and min(labels.values()) > 4
    assert len(shards(lines, SHARD_BYTES)) == 1 and shards([], SHARD_BYTES) == []


def test_an_ending_is_that_of_the_bytes() -> None:
    made = [Sample.of(number, line(f"{number}.jpg", b"x", form)) for number, form in enumerate(("jpeg", "png", None))]
    assert [each.before[:12] for each in made] == [b"00000000.jpg", b"00000001.png", b"00000002.bin"]


# ── the same however they are made ───────────────────────────────────────────────────────────────


def test_the_same_in_a_folder_in_a_bucket_and_with_workers(
    cli: Cli, tmp_path: Path, front: GcsFront, bucket: str
) -> None:
    cloud = {"STORAGE_EMULATOR_HOST": front.url}
    assert cli("-d", "austin", "--sample", "--to", tmp_path / "a").returncode == 0
    assert cli("-d", "austin", "--sample", "--to", f"gs://{bucket}", **cloud).returncode == 0
    for arguments in ((tmp_path / "a",), (f"gs://{bucket}", "--workers", "2")):
        status, said = small(tmp_path, *AUSTIN, *arguments, **cloud)
        assert status == 0, said
    made = in_folder(tmp_path / "a")
    assert made == in_bucket(front, bucket) and len(made) == 37
    assert {"shards/", "shards/austin/"} <= front.objects(bucket).keys()  # for mounts without implicit dirs
    for number in range(0, 36, 9):  # are made again, equal
        (tmp_path / f"a/shards/austin/train-{number:06d}.tar").unlink(missing_ok=True)
    (tmp_path / "a/shards/austin/index.json").unlink()
    assert small(tmp_path, *AUSTIN, tmp_path / "a")[0] == 0
    assert in_folder(tmp_path / "a") == made


@pytest.mark.parametrize("place", ["api", "folder"])
def test_a_killed_run_goes_on(place: str, cli: Cli, tmp_path: Path, front: GcsFront, bucket: str) -> None:
    """It is killed as the tenth shard begins, of five in parallel: those that are there are not made again."""
    cloud, root = {"STORAGE_EMULATOR_HOST": front.url}, tmp_path / "out"
    to = f"gs://{bucket}" if place == "api" else str(root)

    def stored() -> dict[str, bytes]:
        return in_bucket(front, bucket) if place == "api" else in_folder(root)

    assert cli("-d", "austin", "--sample", "--to", to, **cloud).returncode == 0
    assert small(tmp_path, *AUSTIN, to, "--connections", "1", before=KILLED, **cloud)[0] == -signal.SIGKILL
    before = {name: data for name, data in stored().items() if name.endswith(".tar")}
    assert 4 <= len(before) < 10 and "shards/austin/index.json" not in stored()
    moments = {name: (root / name).stat().st_mtime_ns for name in before if place == "folder"}
    front.reset()
    status, said = small(tmp_path, *AUSTIN, to, **cloud)
    assert status == 0, said
    assert before.items() <= stored().items() and len(stored()) == 37
    assert {name: (root / name).stat().st_mtime_ns for name in moments} == moments
    assert place == "folder" or front.counts["json.resumable"] == 36 - len(before)
    assert "already complete: 36 objects" in small(tmp_path, *AUSTIN, to, **cloud)[1]


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def mini(any_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A complete dataset of 12 images, with shards of 3 KB."""
    monkeypatch.setattr(commands.shards, "SHARD_BYTES", 3000)
    members = [(f"images/n1-a/{number}.jpg", sample.picture(number)) for number in range(12)]
    made = replace(any_bench.dataset(a_tar=tar_of(members)), layout=Layout("mini/images/", "mini/boxes/{stem}.xml"))
    assert any_bench.extract(made).state == "complete"
    return made


def made(bench: Bench, dataset: Dataset) -> Result:
    return make_shards(dataset, bench.job())


def test_what_is_not_right_is_made_again_and_what_is_left_of_an_older_version_goes(
    any_bench: Bench, mini: Dataset
) -> None:
    assert (made(any_bench, mini).state, any_bench.events[-1].objects_total) == ("complete", 10)
    first = {name.name: any_bench.bucket.get(name.name) for name in any_bench.bucket.list("shards/mini/")}
    any_bench.bucket.put("shards/mini/unlisted-000001.tar", b"damaged")
    any_bench.bucket.put("shards/mini/unlisted-000077.tar", b"of an older version")
    any_bench.bucket.put("shards/mini/notes.txt", b"a user's own")
    assert made(any_bench, mini).fetched == len(first["shards/mini/unlisted-000001.tar"] or b"")
    now = {name.name: any_bench.bucket.get(name.name) for name in any_bench.bucket.list("shards/mini/")}
    assert now == first | {"shards/mini/notes.txt": b"a user's own"}
    assert made(any_bench, mini).was_complete


def test_an_image_that_is_not_what_the_table_has_makes_no_shard(any_bench: Bench, mini: Dataset) -> None:
    for data in (sample.picture(8), None):
        any_bench.bucket.delete(["mini/images/n1-a/7.jpg"])
        if data:
            any_bench.bucket.put("mini/images/n1-a/7.jpg", data)
        with pytest.raises(
            DamagedError, match=r"mini/images/n1-a/7\.jpg: missing, or not the image that the table has"
        ):
            made(any_bench, mini)
        assert any_bench.bucket.get("shards/mini/index.json") is None


def test_an_upload_that_is_lost_begins_again(
    api_bench: Bench, front: GcsFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [(f"images/n1-a/{number}.jpg", sample.picture(number)) for number in range(12)]
    dataset = replace(api_bench.dataset(a_tar=tar_of(members)), layout=Layout("mini/images/", "mini/boxes/{stem}.xml"))
    api_bench.extract(dataset)
    front.fail("json.chunk", 410)
    assert made(api_bench, dataset).state == "complete" and front.counts["json.resumable"] == 2


def test_what_cannot_be_made_is_one_line(cli: Cli, tmp_path: Path) -> None:
    done = cli(*AUSTIN, tmp_path)
    assert done.returncode == 1 and "no manifest of this dataset, so it is not complete: extract" in message(done)
    assert cli("-d", "austin", "--sample", "--to", tmp_path).returncode == 0
    (tmp_path / "_extraction/austin/metadata.jsonl").write_bytes(b"{}\n")
    assert "metadata.jsonl: missing or changed; --repair makes it again" in message(cli(*AUSTIN, tmp_path))
    assert in_folder(tmp_path) == {}
    done = cli("-d", "austin", "--shards", "zip", "--to", tmp_path)
    assert done.returncode == 2 and "invalid choice: 'zip'" in done.stderr


@pytest.mark.reading
def test_webdataset_reads_them(cli: Cli, tmp_path: Path) -> None:
    assert cli("-d", "stanford", "--sample", "--to", tmp_path).returncode == 0
    assert cli("-d", "stanford", "--shards", "webdataset", "--to", tmp_path).returncode == 0
    code = (
        "import hashlib, json, sys, webdataset\n"
        "for image, about in webdataset.WebDataset(sys.argv[1], shardshuffle=False).to_tuple('jpg', 'json'):\n"
        "    print(hashlib.sha256(image).hexdigest(), json.loads(about)['path'])"
    )
    done = subprocess.run([READING_PYTHON, "-I", "-c", code, tmp_path / "shards/stanford/test-000000.tar"], text=True,
                          capture_output=True, check=True)  # fmt: skip
    found = [each.split(" ") for each in done.stdout.splitlines()]
    assert len(found) == 6
    assert all(hashlib.sha256((tmp_path / path).read_bytes()).hexdigest() == sum_ for sum_, path in found)
