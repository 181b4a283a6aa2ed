"""The whole job as a user runs it: sample, mirrors, buckets, clusters."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import google_crc32c
import pytest
from distributed import Client

from sources import sample
from support.archives import some_members, tar_of
from support.fake_gcs import GcsFront
from support.miniature import expected_objects, sums
from support.program import ROOT, Cli, dataset_files, start, wait_for
from support.source_server import Plan, SourceServer


def test_the_sample_into_a_directory(cli: Cli, tmp_path: Path) -> None:
    done = cli("-a", "--sample", "--to", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = dataset_files(tmp_path / "out")
    breeds = {name: data for name, data in found.items() if not name.startswith("austin/")}
    assert breeds == expected_objects()
    photos = [name for name in found if name.startswith("austin/full_quality/")]
    labels = [name for name in found if name.startswith("austin/annotations/")]
    assert len(photos) == len(labels) == 58  # 60, less one that is gone and one that is a web page
    assert all(json.loads(found[name])["image_file"] == Path(name).stem + ".png" for name in labels)
    failures = (tmp_path / "out/_extraction/austin/failures.csv").read_text()
    assert failures.count(",gone,") == 1 and failures.count(",not an image,") == 1
    assert "expected an image, got a web page" in failures
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
        ["stanford", "complete"], ["tsinghua", "complete"], ["austin", "complete"],
    ]  # fmt: skip


def test_the_sample_into_a_bucket_by_environment_alone(cli: Cli, front: GcsFront) -> None:
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    environment = {"SPOTTED_TO": f"gs://{bucket}", "SPOTTED_SAMPLE": "1", "SPOTTED_VIA": "api", "SPOTTED_ALL": "true",
                   "SPOTTED_DATASET": "stanford,tsinghua-high", "STORAGE_EMULATOR_HOST": front.url}  # fmt: skip
    done = cli(**environment)
    assert done.returncode == 0, done.stderr
    objects = front.objects(bucket)
    for name, data in expected_objects().items():
        assert objects[name] == (len(data), google_crc32c.value(data))
    assert "tsinghua/high-resolution/220-n000032-Fila Braziliero/n101.jpg" in objects
    assert "tsinghua/low-resolution/220-n000032-Fila Braziliero/" in objects
    twice = {name for name, puts in front.puts.items() if puts > 1}
    assert {name for name in twice if not name.endswith(("/lock", "/journal/begun.json"))} <= {"_extraction/"}
    front.reset()
    again = cli("-a", **environment)
    assert again.returncode == 0 and again.stderr.count("already complete") == 3  # -a wins over SPOTTED_DATASET
    assert set(front.counts) <= {"xml.get", "json.list", "json.bucket.get"}


@pytest.mark.parametrize("how", [("--workers", "2"), ("--scheduler",)])
def test_more_processes_and_a_cluster(cli: Cli, tmp_path: Path, mirror: SourceServer, how: tuple[str, ...]) -> None:
    members = some_members(2000, 20_000)
    mirror.files["/images.tar"] = tar_of([(f"Images/{name}", data) for name, data in members])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
            "--no-dashboard", "--scheduler-file", str(tmp_path / "scheduler.json")]  # fmt: skip
    processes = []
    try:
        if how == ("--scheduler",):
            processes.append(subprocess.Popen(dask, stderr=subprocess.DEVNULL))
            wait_for(tmp_path / "scheduler.json")
            address = json.loads((tmp_path / "scheduler.json").read_text())["address"]
            worker = [
                sys.executable,
                "-m",
                "distributed.cli.dask_worker",
                address,
                "--nworkers",
                "2",
                "--nthreads",
                "4",
                "--no-dashboard",
            ]
            processes.append(subprocess.Popen(worker, cwd=ROOT, stderr=subprocess.DEVNULL))
            how = ("--scheduler", address)
            with Client(address) as client:
                client.wait_for_workers(2, timeout=60)
        done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out", *how)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(20)
    assert done.returncode == 0, done.stderr
    assert "images.tar: sha256 matches" in done.stderr and "again to compare its sha256" in done.stderr
    found = dataset_files(tmp_path / "out")
    assert {name: data for name, data in found.items() if name.startswith("stanford/Images")} == {
        f"stanford/Images/{name}": data for name, data in members
    }


def test_a_server_without_ranges_is_spooled_and_says_so(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    for path in list(mirror.files):
        mirror.plan(path, Plan(ranges=False))
    done = cli("-b", "--mirror", mirror.url, "--to", tmp_path / "out", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (
        "low-resolution.zip: the server does not support range requests; downloading it into a temporary file"
        in done.stderr
    )
    assert dataset_files(tmp_path / "out") == expected_objects()
    assert not list(tmp_path.glob("spotted-spool-*"))


def test_a_directory_as_mirror(cli: Cli, tmp_path: Path) -> None:
    for name, data in sample.sources().items():
        (tmp_path / "mirror" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mirror" / name).write_bytes(data)
    done = cli("-a", "--mirror", tmp_path / "mirror", "--to", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert len(dataset_files(tmp_path / "out")) == len(expected_objects()) + 116


def test_nothing_is_written_to_local_disk(tmp_path: Path, slow_mirror: SourceServer, front: GcsFront) -> None:
    slow_mirror.plan("/images.tar", Plan())
    environment = {"STORAGE_EMULATOR_HOST": front.url, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(tmp_path)}
    process = start(tmp_path, slow_mirror, f"gs://test-{uuid.uuid4().hex[:12]}", environment)
    written = spooled = 0
    while process.poll() is None:
        with contextlib.suppress(OSError):  # it has just ended, or a folder of dask's has
            written = int(re.findall(r"^write_bytes: (\d+)", Path(f"/proc/{process.pid}/io").read_text(), re.M)[0])
            spooled += sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        time.sleep(0.05)
    process.communicate()
    assert process.returncode == 0 and spooled == 0
    assert written < 100_000  # directories that dask makes; the archive has 40 MB


def test_photos_that_no_journal_proves_are_fetched_again(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    out = tmp_path / "out"
    assert cli("-i", "--mirror", mirror.url, "--to", out).returncode == 0
    shutil.rmtree(out / "_extraction")
    (out / "austin/full_quality/1003_2.png").unlink()
    (out / "austin/annotations/1004_1.json").unlink()
    mirror.requests.clear()
    assert cli("-i", "--mirror", mirror.url, "--to", out).returncode == 0
    fetched = sorted({request.path.rpartition("/")[2] for request in mirror.requests if request.path.endswith(".png")})
    assert len(fetched) == 60  # the two that are gone among them
    assert len(dataset_files(out)) == 116


def test_photos_that_are_none_are_listed_and_reported_by_their_bytes(
    cli: Cli, tmp_path: Path, mirror: SourceServer
) -> None:
    empty, page, text = (f"/sites/default/files/animal_pics/464/2018/01/01/00/0_{number}.png" for number in range(3))
    for path in [path for path in mirror.files if path.startswith("/sites/") and mirror.files[path] == sample.HTML]:
        mirror.files[path] = sample.picture(1)
    mirror.files |= {empty: b"", page: b"\n<html>", text: b"Access denied"}
    done = cli("-i", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 3  # 4 of 60 are more than 5 %
    failures = (tmp_path / "out/_extraction/austin/failures.csv").read_text()
    assert [line.split(",")[0][-10:] for line in failures.splitlines()[1:]] == [
        "1000_1.png",
        "1000_2.png",
        "1000_3.png",
        "1001_3.png",
    ]
    assert [line.split(": ")[-1].strip('"') for line in failures.splitlines() if ",not an image," in line] == [
        "expected an image, got an empty body", "expected an image, got a web page", "expected an image, got text",
    ]  # fmt: skip
    assert not (tmp_path / "out/austin/annotations/1000_1.json").exists()


def test_verify(cli: Cli, tmp_path: Path) -> None:
    assert cli("-d", "stanford", "--verify", "--to", tmp_path / "out").returncode == 3
    assert cli("-d", "stanford", "--sample", "--to", tmp_path / "out").returncode == 0
    assert cli("-d", "stanford", "--verify", "--to", tmp_path / "out").returncode == 0
    (tmp_path / "out/stanford/lists/file_list.mat").unlink()
    done = cli("-d", "stanford", "--verify", "--to", tmp_path / "out")
    assert done.returncode == 3 and "missing stanford/lists/file_list.mat" in done.stderr
