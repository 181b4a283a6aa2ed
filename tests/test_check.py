"""--check: one line for each thing that a run needs, true to the real bucket, source server and cluster."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from commands.check import examine
from commands.check_environment import Finding, _is_in, differing, packages_finding, versions, vm_region
from datasets import DATASETS
from pipeline.options import RunOptions
from sources import sample
from storage.credentials import account
from storage.gcsfuse import fuse_works
from support.fake_gcs import GcsFront
from support.program import ROOT, Cli, message, wait_for
from support.source_server import Plan, SourceServer


def findings(to: str, *datasets: str, via: str = "api", mirror: str = "", scheduler: str = "") -> dict[str, Finding]:
    """The last finding of each kind."""
    case = RunOptions(tuple(DATASETS[name] for name in datasets), to=to, via=via, mirror=mirror, scheduler=scheduler)
    return {finding.what: finding for finding in examine(case)}


@pytest.fixture
def bucket(front: GcsFront, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    name = f"test-{uuid.uuid4().hex[:12]}"
    front.create_bucket(name)
    return f"gs://{name}"


def test_all_is_well(cli: Cli, front: GcsFront, bucket: str) -> None:
    done = cli("--check", "-a", "--sample", "--to", bucket, STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines) and done.stderr == ""
    kinds = [line.split()[1] for line in lines]
    assert kinds == [
        "python",
        "packages",
        "credentials",
        "bucket",
        "rights",
        *["stanford"] * 3,
        *["tsinghua"] * 3,
        *["austin"] * 3,
    ]
    assert front.objects(bucket.removeprefix("gs://")) == {}
    assert (front.counts["xml.put"], front.counts["xml.delete"]) == (1, 1)


def test_what_is_wrong_is_said_with_what_to_do_and_status_1(cli: Cli, front: GcsFront, mirror: SourceServer) -> None:
    mirror.files["/low-resolution.zip"] = sample.HTML
    to = f"gs://test-{uuid.uuid4().hex[:12]}"
    done = cli("--check", "-d", "tsinghua", "--mirror", mirror.url, "--to", to, "--log-format", "json",
               STORAGE_EMULATOR_HOST=front.url)  # fmt: skip
    assert done.returncode == 1
    found = {(line["check"], line["ok"]): line["message"] for line in map(json.loads, done.stdout.splitlines())}
    assert "a run creates it in us-central1" in found["bucket", True]
    assert "gcloud storage buckets create" in found["bucket", True]
    assert "expected a file, got an HTML page" in found["tsinghua", False]
    assert found["tsinghua", True].endswith(" kB, range requests work")
    assert front.created == []


def test_a_bucket_that_a_run_would_create_is_no_failure(cli: Cli, front: GcsFront, mirror: SourceServer) -> None:
    to = f"gs://test-{uuid.uuid4().hex[:12]}"
    done = cli("--check", "-a", "--mirror", mirror.url, "--to", to, STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{to}: does not exist; a run creates it" in done.stdout
    assert front.created == []


@pytest.mark.parametrize(
    ("denied", "reason"),
    [
        ("xml.put", "cannot write"),
        ("xml.get", "cannot be read"),
        ("json.list", "cannot be listed"),
        ("xml.delete", "cannot be deleted"),
    ],
)
def test_denied_rights(front: GcsFront, bucket: str, denied: str, reason: str) -> None:
    front.deny(denied)
    rights = findings(bucket)["rights"]
    assert not rights.is_well and reason in rights.says
    assert "roles/storage.objectAdmin" in rights.says and "add-iam-policy-binding" in rights.says


def test_an_account_that_may_not_ask_for_the_bucket_may_use_it(front: GcsFront, bucket: str) -> None:
    front.deny("json.bucket.get")
    assert "exists, in us-central1" in findings(bucket)["bucket"].says  # the storage layout says it
    front.deny("json.bucket.layout")
    found = findings(bucket)
    assert found["bucket"].is_well and "in a region that this account may not see" in found["bucket"].says
    assert found["rights"].is_well
    front.deny("json.list")
    assert "may not list its objects" in findings(bucket)["bucket"].says


@pytest.mark.parametrize(("zone", "is_well"), [("us-central1-a", True), ("europe-west4-b", False)])
def test_the_machine_and_the_bucket_should_be_in_one_region(
    front: GcsFront, bucket: str, mirror: SourceServer, monkeypatch: pytest.MonkeyPatch, zone: str, is_well: bool
) -> None:
    mirror.files["/computeMetadata/v1/instance/zone"] = f"projects/1234/zones/{zone}".encode()
    monkeypatch.setenv("GCE_METADATA_HOST", mirror.url.removeprefix("http://"))
    assert vm_region() == zone[:-2]
    found = findings(bucket)["bucket"]
    assert found.is_well == is_well, found
    assert ("as this machine" if is_well else "this machine is in europe-west4") in found.says
    assert mirror.requests[0].headers["Metadata-Flavor"] == "Google"


def test_multi_regions_have_their_regions() -> None:
    pairs = ("us-central1", "us"), ("europe-west4", "eu"), ("us-east1", "nam4"), ("us-east1", "us-east1")
    assert all(_is_in(*pair) for pair in pairs)
    assert not any(_is_in(*pair) for pair in (("us-central1", "eu"), ("us-east1", "us-east4"), ("europe-west1", "us")))


def test_the_account_is_reported_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key.json"
    user = {"type": "authorized_user", "client_id": "id", "client_secret": "s3cret", "refresh_token": "t0ken"}
    key.write_text(json.dumps(user | {"account": "ann@example.com"}))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    assert account() == f"ann@example.com, from {key}"


def test_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:9")
    found = findings("gs://spot-raw-data")
    assert not found["credentials"].is_well and "gcloud auth application-default login" in found["credentials"].says
    assert "bucket" not in found


def test_a_mount_that_does_not_work(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert findings(bucket, via="auto")["mount"] == Finding(
        "mount", True, "no mount here (gcsfuse is not installed): a run writes through the API instead, which is faster"
    )
    assert findings(bucket, via="mount")["mount"] == Finding(
        "mount", False, "gcsfuse is not installed; or use --via api, which needs no mount"
    )


def test_gcsfuse_shows_its_version(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gcsfuse"
    program.write_text("#!/bin/sh\necho 'gcsfuse version 3.13.0 (Go version go1.27)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    works, why = fuse_works()
    found = findings(bucket, via="mount")["mount"]
    assert found == Finding(
        "mount",
        works,
        "FUSE works; gcsfuse version 3.13.0" if works else f"{why}; or use --via api, which needs no mount",
    )


def test_directories(tmp_path: Path) -> None:
    found = findings(str(tmp_path / "not" / "there"), "stanford", mirror="http://127.0.0.1:9")
    assert found["directory"].is_well and not (tmp_path / "not").exists()
    assert not findings("/proc/spotted")["directory"].is_well  # where root, too, may not write
    (tmp_path / "file").touch()
    assert (
        "expected a directory that this user may write to" in findings(str(tmp_path / "file" / "x"))["directory"].says
    )


def test_the_sources_are_held_to_what_is_published(tmp_path: Path, mirror: SourceServer) -> None:
    del mirror.files["/SHA256SUMS"]
    case = RunOptions((DATASETS["stanford"], DATASETS["austin"]), to=str(tmp_path), via="api", mirror=mirror.url)
    mirror.plan("/lists.tar", Plan(status=404))
    for path in [path for path in mirror.files if path.startswith("/sites/")]:
        del mirror.files[path]
    found = [(finding.is_well, finding.says) for finding in examine(case)][3:]
    assert [is_well for is_well, _ in found] == [False, False, False, True, True, False]
    assert "images.tar: expected 793,579,520 bytes, got 30,720: not the published file" in found[0][1]
    assert re.search(r"lists.tar: status 404.*; is --mirror right\?$", found[2][1])
    assert "none of the 5 photos tried is there" in found[5][1]


def test_no_password_is_shown(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    secret = mirror.url.replace("://", "://ann:s3cret@")
    done = cli("--check", "-d", "stanford", "--mirror", secret, "--to", tmp_path / "out")
    assert done.returncode == 0 and "/images.tar" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


def test_a_source_without_ranges_is_reported(tmp_path: Path, mirror: SourceServer) -> None:
    mirror.plan("/low-annotations.zip", Plan(ranges=False))
    found = findings(str(tmp_path), "tsinghua", mirror=mirror.url)["tsinghua"]
    assert found.is_well and found.says.endswith(
        " kB, no range requests: a run downloads it into a temporary file first"
    )


@contextmanager
def dask(what: str, *arguments: str, folder: Path) -> Iterator[None]:
    """A scheduler or a worker that runs in a folder."""
    command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *arguments]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait(20)


def test_a_patch_version_is_no_failure() -> None:
    mine = versions()
    major, minor = mine["python"].split(".")[:2]
    patched = {"python": f"{major}.{minor}.99", "obstore": f"{mine['obstore']}.post1"}
    assert differing(mine | patched, mine, "here") == ""
    for name, other in (("python", f"{major}.{int(minor) + 1}.0"), ("dask", "2020.1.0"), ("tool", "0" * 12)):
        assert differing(mine | {name: other}, mine, "here") == f"{name} {other} (here {mine[name]})"
    for version, is_well in ((f"{mine['tqdm']}.1", True), ("1.0.0", False)):
        assert packages_finding(mine | {"tqdm": version}).is_well == is_well


def test_a_cluster(cli: Cli, tmp_path: Path) -> None:
    def said(folder: Path | None = None) -> str:
        if folder is None:
            return findings(str(tmp_path), scheduler=address)["cluster"].says
        with dask("worker", address, "--nthreads", "3", "--no-nanny", folder=folder):
            deadline = time.monotonic() + 60
            while "no workers" in (found := said()) and time.monotonic() < deadline:
                time.sleep(0.1)
            return found

    file, other = tmp_path / "scheduler.json", tmp_path / "other"
    shutil.copytree(
        ROOT,
        other,
        ignore=lambda _, names: [
            name for name in names if name.startswith((".", "tests", "sample-out")) and name != "."
        ],
    )
    (other / "pipeline/worker.py").write_text((ROOT / "pipeline/worker.py").read_text() + "# changed\n")
    with dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file), folder=tmp_path):
        wait_for(file)
        address = json.loads(file.read_text())["address"]
        assert f"{address}: the scheduler has no workers" in said()
        assert "the worker cannot run this program's code" in said(tmp_path)
        with dask("worker", address, "--no-nanny", folder=tmp_path):
            done = cli("-d", "stanford", "--sample", "--to", tmp_path / "out", "--scheduler", address)
            assert done.returncode == 1 and "the worker cannot run this program's code (" in message(done)
        assert re.search(r"the worker has tool \w+ \(here \w+\): start it from the same image", said(other))
        assert said(ROOT) == f"{address}: 1 workers with 3 threads, all with the versions used here"
    assert "no dask scheduler answers there" in findings(str(tmp_path), scheduler="tcp://127.0.0.1:9")["cluster"].says
