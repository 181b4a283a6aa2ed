"""The program as a user meets it: options, environment, messages, exit statuses, interruptions, clusters."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from datetime import datetime
from pathlib import Path

import google_crc32c
import pytest
from conftest import ROOT, Cli, clean_environment, command
from distributed import Client
from gcs_front import GcsFront
from source_server import Plan, SourceServer
from test_extraction import some_members, tar_of

from cli import parse
from sources import sample
from storage.names import PARTIAL_PREFIX

DATA = {path: data for path, data in sample.sources().items() if not path.startswith("sites/")}


def expected_objects() -> dict[str, bytes]:
    """What a complete extraction of the miniature holds, taken apart with the standard library alone."""
    import io
    import tarfile
    import zipfile

    found: dict[str, bytes] = {}
    for name, prefix in (
        ("images.tar", "stanford/"),
        ("annotation.tar", "stanford/"),
        ("lists.tar", "stanford/lists/"),
    ):
        with tarfile.open(fileobj=io.BytesIO(DATA[name])) as archive:
            found |= {prefix + each.name: file.read() for each in archive if (file := archive.extractfile(each))}
    for name in ("low-resolution.zip", "low-annotations.zip"):
        with zipfile.ZipFile(io.BytesIO(DATA[name])) as archive_:
            found |= {f"tsinghua/{each}": archive_.read(each) for each in archive_.namelist() if not each.endswith("/")}
    return found


def files_under(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def dataset_files(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_under(root).items() if not name.startswith("_extraction/")}


def message(done: subprocess.CompletedProcess[str]) -> str:
    """The one error line; there must be no other, and no traceback."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


# ── the whole job ────────────────────────────────────────────────────────────────────────────────


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
    assert {name: puts for name, puts in front.puts.items() if puts > 1} == {}
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


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def sums(mirror: SourceServer) -> bytes:
    names = [name for name in list(mirror.files) if name.endswith((".tar", ".zip"))]
    return "".join(f"{hashlib.sha256(mirror.files[name]).hexdigest()}  {name[1:]}\n" for name in names).encode()


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


def test_photos_go_on_photo_by_photo(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    out = tmp_path / "out"
    assert cli("-i", "--mirror", mirror.url, "--to", out).returncode == 0
    shutil.rmtree(out / "_extraction")  # as if it had been killed before the batch was done
    (out / "austin/full_quality/1003_2.png").unlink()
    (out / "austin/annotations/1004_1.json").unlink()
    mirror.requests.clear()
    assert cli("-i", "--mirror", mirror.url, "--to", out).returncode == 0
    fetched = sorted({request.path.rpartition("/")[2] for request in mirror.requests if request.path.endswith(".png")})
    assert fetched == ["1_2.png", "3_1.png", "4_0.png", "4_3.png"]  # two that lacked something, two that are gone
    assert len(dataset_files(out)) == 116


def test_photos_that_are_none_are_listed_and_told_by_their_bytes(
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


# ── interruptions ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def slow_mirror(mirror: SourceServer) -> SourceServer:
    """A mirror whose images.tar is 40 MB, and comes slowly enough to be interrupted."""
    mirror.files["/images.tar"] = tar_of([(f"Images/{name}", data) for name, data in some_members(2500, 20_000)])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    mirror.plan("/images.tar", Plan(drip=0.002))
    return mirror


def start(
    tmp_path: Path, mirror: SourceServer, to: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    arguments = command("-d", "stanford", "--mirror", mirror.url, "--to", to)
    return subprocess.Popen(
        arguments, env=clean_environment(tmp_path, environment or {}), stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("moment", [0.15, 0.4, 0.8])
def test_kill_9_and_the_same_command_again(
    cli: Cli, tmp_path: Path, slow_mirror: SourceServer, front: GcsFront, moment: float
) -> None:
    to, environment = f"gs://test-{uuid.uuid4().hex[:12]}", {"STORAGE_EMULATOR_HOST": front.url}
    process = start(tmp_path, slow_mirror, to, environment)
    while front.counts["xml.put"] < 2500 * moment:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    slow_mirror.plan("/images.tar", Plan())
    before = dict(front.puts)
    done = cli("-d", "stanford", "--mirror", slow_mirror.url, "--to", to, **environment)
    assert done.returncode == 0, done.stderr
    members = {f"stanford/Images/{name}": data for name, data in some_members(2500, 20_000)}
    objects = front.objects(to.removeprefix("gs://"))
    assert {name: objects[name] for name in members} == {
        n: (len(d), google_crc32c.value(d)) for n, d in members.items()
    }
    assert before, "it was killed before it stored anything"
    if moment > 0.5:  # by then, pieces of the archive are done, and read again only to be compared
        assert "again to compare its sha256" in done.stderr and "images.tar: sha256 matches" in done.stderr
    twice = [name for name in members if front.puts[name] > 1]
    assert len(twice) < 0.1 * len(members)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_within_two_seconds_and_the_next_run_goes_on(
    cli: Cli, tmp_path: Path, slow_mirror: SourceServer, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    process = start(tmp_path, slow_mirror, str(out))
    while not list(out.glob("stanford/Images/*/*")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.Random(number).random())
    process.send_signal(number)
    begin = time.monotonic()
    time.sleep(0.2)
    process.send_signal(number)  # who is in a hurry presses Ctrl-C twice
    _, stderr = process.communicate(timeout=10)
    assert time.monotonic() - begin < 2
    assert process.returncode == 128 + number and "Traceback" not in stderr, stderr
    assert stderr.splitlines()[-1] == "interrupted; what is stored is kept: run the same command again to continue"
    slow_mirror.plan("/images.tar", Plan())
    done = cli("-d", "stanford", "--mirror", slow_mirror.url, "--to", out)
    assert done.returncode == 0, done.stderr
    found = {name: data for name, data in dataset_files(out).items() if name.startswith("stanford/Images")}
    assert found == {f"stanford/Images/{name}": data for name, data in some_members(2500, 20_000)}


SWALLOWED = """
import gc, signal, sys, cli
def interrupt(phase, info):
    if "pipeline.worker" in sys.modules:
        gc.callbacks.remove(interrupt)
        signal.raise_signal(signal.SIGINT)
gc.callbacks.append(interrupt)
sys.exit(cli.main(sys.argv[1:]))
"""


def test_an_interrupt_that_python_swallows_ends_it_all_the_same(tmp_path: Path, slow_mirror: SourceServer) -> None:
    arguments = [sys.executable, "-c", SWALLOWED, "-b", "--mirror", slow_mirror.url, "--to", str(tmp_path / "out")]
    environment = clean_environment(tmp_path, {})
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130 and "Traceback" not in done.stderr and "error" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("interrupted; ")


CLOSING = """
import os, signal, sys, time, cli
from distributed import utils
wait_for = utils.wait_for
def interrupt(awaitable, timeout):
    if awaitable.__qualname__ == "Client._close":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)  # in dask's own thread: the program's takes back meanwhile what has not begun
    return wait_for(awaitable, timeout)
utils.wait_for = interrupt
sys.exit(cli.main(sys.argv[1:]))
"""


def test_an_interrupt_while_dask_is_closed_is_one_line_too(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", CLOSING, "-d", "stanford", "--sample", "--to", str(tmp_path / "out")]
    environment = clean_environment(tmp_path, {})
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130 and "complete: " in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("interrupted; "), done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_is_json_where_the_log_is(
    tmp_path: Path, slow_mirror: SourceServer, number: signal.Signals, status: int
) -> None:
    arguments = command("-d", "stanford", "--mirror", slow_mirror.url, "--to", tmp_path / "out", "--log-format", "json")
    process = subprocess.Popen(arguments, env=clean_environment(tmp_path, {}), stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").glob("stanford/Images/*/*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    *_, last = map(json.loads, process.communicate(timeout=10)[1].splitlines())
    assert (process.returncode, last["severity"]) == (status, "WARNING")
    assert last["message"].startswith("interrupted; what is stored is kept")


def test_what_ends_a_run_is_json_where_the_log_is(cli: Cli) -> None:
    done = cli("-d", "stanford", "--sample", "--to", "/proc/spotted", "--log-format", "json", "-v")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    errors = [line["message"] for line in lines if line["severity"] == "ERROR"]
    assert done.returncode == 1
    assert errors[0].startswith("error: /proc/spotted") and errors[1].startswith("Traceback "), errors
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    assert all(line["time"].endswith("+00:00") and re.search(r"\.\d{3}\+", line["time"]) for line in lines)
    assert times == sorted(times) and abs(times[-1].timestamp() - time.time()) < 60


def test_an_interrupt_does_not_wait_for_a_source_that_is_silent(tmp_path: Path, slow_mirror: SourceServer) -> None:
    slow_mirror.plan("/images.tar", Plan(), times=2)  # the probe, and the look at what it is
    slow_mirror.plan("/images.tar", Plan(stall=20))
    process = start(tmp_path, slow_mirror, str(tmp_path / "out"))
    while not (tmp_path / "out/stanford/lists").is_dir():
        assert process.poll() is None
        time.sleep(0.01)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert time.monotonic() - begin < 2 and process.returncode == 130


# ── bad input ────────────────────────────────────────────────────────────────────────────────────


def test_nothing_asked_for_is_wrong_use_with_the_help(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 2 and "usage: cli.py" in done.stderr
    assert "expected at least one of -a, -b, -i, -d NAME" in message(done)


def test_the_sample_alone_is_all_of_it() -> None:
    assert [it.name for it in parse(["--sample"], {}).datasets] == ["stanford", "tsinghua", "austin"]
    assert [it.name for it in parse(["--sample", "-i"], {}).datasets] == ["austin"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-d", "poodles"], "invalid choice: 'poodles'"),
        (["-a", "--connections", "0"], "expected a positive integer, got '0'"),
        (["-a", "--uploads", "many"], "expected a positive integer, got 'many'"),
        (["-a", "--sample", "--mirror", "http://x"], "--sample and --mirror cannot be combined"),
        (["-a", "--workers", "2", "--scheduler", "tcp://x"], "--workers and --scheduler cannot be combined"),
        (["-a", "--sample", "--to", "s3://bucket"], "expected gs://bucket or a directory, got 's3://bucket'"),
        (["-a", "--sample", "--to", "gs:/bucket"], "expected gs://bucket or a directory, got 'gs:/bucket'"),
        (["-a", "--sample", "--to", "gs://Not_A_Bucket!"], "gs://Not_A_Bucket!: not a bucket name"),
        (["-a", "--sample", "--to", "gs://bucket/prefix"], "gs://bucket/prefix: not a bucket name"),
    ],
)
def test_wrong_use(cli: Cli, arguments: list[str], expected: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert expected in done.stderr.splitlines()[-1]


def test_a_wrong_value_in_the_environment(cli: Cli) -> None:
    done = cli("-a", SPOTTED_SAMPLE="maybe")
    assert done.returncode == 2 and message(done) == "error: SPOTTED_SAMPLE: expected 1 or 0, got 'maybe'"


def test_no_credentials_is_one_line_and_who_is_silent_is_asked_twice_for_them(cli: Cli, mirror: SourceServer) -> None:
    mirror.plan("/", Plan(stall=60))
    here = mirror.url.removeprefix("http://")  # in place of the metadata server, which Google's own machines have
    begin = time.monotonic()
    done = cli("-a", "--sample", "--to", "gs://spot-raw-data", GCE_METADATA_IP=here, GCE_METADATA_HOST=here)
    assert time.monotonic() - begin < 30 and [request.path for request in mirror.requests] == ["/", "/"]
    assert done.returncode == 1
    assert "gcloud auth application-default login" in message(done)


def test_an_unreachable_source(cli: Cli, tmp_path: Path) -> None:
    done = cli("-d", "stanford", "--mirror", "http://127.0.0.1:9", "--to", tmp_path / "out")
    assert done.returncode == 1
    assert "Connection refused" in message(done) and "http://127.0.0.1:9/" in message(done)


def test_a_web_page_instead_of_an_archive(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/low-resolution.zip"] = sample.HTML
    done = cli("-b", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 1
    assert f"{mirror.url}/low-resolution.zip: expected a file, got an HTML page" in message(done)
    states = [line.split()[:2] for line in done.stdout.splitlines()[1:]]
    assert states == [["stanford", "complete"], ["tsinghua", "failed"]]


def test_the_published_pins_hold_for_a_mirror_without_its_own(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    del mirror.files["/SHA256SUMS"]
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 1
    assert "images.tar: expected 793,579,520 bytes, got " in message(done)


def test_a_checksum_that_differs(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/SHA256SUMS"] = re.sub(rb"^.{64}", b"0" * 64, mirror.files["/SHA256SUMS"])
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 1
    assert f"images.tar: expected sha256 {'0' * 64}, got " in message(done)


def test_a_truncated_archive(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/lists.tar"] = mirror.files["/lists.tar"][:1000]
    mirror.files["/SHA256SUMS"] = b""
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 1
    assert re.search(r"lists.tar: .*(cut off|end of the file)", message(done))


def test_hostile_members(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/lists.tar"] = tar_of([("../../evil", b"1"), ("/abs", b"2"), ("good.mat", b"3")])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "deep" / "out")
    assert done.returncode == 3
    assert "stanford: missing stanford/lists/../../evil: a name that leads out of its folder" in done.stderr
    assert "stanford: missing stanford/lists/abs: an absolute name" in done.stderr
    assert (tmp_path / "deep/out/stanford/lists/good.mat").read_bytes() == b"3"
    assert not [path for path in tmp_path.rglob("*") if path.name in ("evil", "abs")] and not Path("/abs").exists()


def test_a_destination_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    done = cli("-a", "--sample", "--to", "/proc/spotted")
    assert done.returncode == 1 and "/proc/spotted: expected a directory that can be written" in message(done)


def test_a_full_disk(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    full = tmp_path / "full"
    full.mkdir()
    mirror.files["/images.tar"] = tar_of([(f"Images/{name}", data) for name, data in some_members(300, 20_000)])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    inside = shlex.join(command("-d", "stanford", "--mirror", mirror.url, "--to", full))
    script = (
        f"mount -t tmpfs -o size=1m tmpfs {shlex.quote(str(full))} && {inside}; status=$?; ls -AR {full}; exit $status"
    )
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "No space left on device" in message(done)
    assert "stanford" in done.stdout and PARTIAL_PREFIX not in done.stdout


def test_too_many_photos_gone_is_incomplete(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    for path in [path for path in mirror.files if path.endswith("_0.png")]:
        del mirror.files[path]
    done = cli("-i", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[1].split()[:2] == ["austin", "incomplete"]
    assert not (tmp_path / "out/_extraction/austin/manifest.csv").exists()


def test_verify(cli: Cli, tmp_path: Path) -> None:
    assert cli("-d", "stanford", "--verify", "--to", tmp_path / "out").returncode == 3
    assert cli("-d", "stanford", "--sample", "--to", tmp_path / "out").returncode == 0
    assert cli("-d", "stanford", "--verify", "--to", tmp_path / "out").returncode == 0
    (tmp_path / "out/stanford/lists/file_list.mat").unlink()
    done = cli("-d", "stanford", "--verify", "--to", tmp_path / "out")
    assert done.returncode == 3 and "missing stanford/lists/file_list.mat" in done.stderr


# ── words ────────────────────────────────────────────────────────────────────────────────────────


def test_help_is_quick_and_loads_nothing_of_the_cloud() -> None:
    code = "import sys, cli\ntry: cli.main(['--help'])\nexcept SystemExit: print('modules:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = done.stdout.partition("modules:")[2].split()
    assert "cli" in modules and not {"dask", "distributed", "obstore", "requests", "tqdm"} & set(modules)
    assert not [module for module in modules if module.startswith("google")]


def test_logs_and_result_as_json(cli: Cli, tmp_path: Path) -> None:
    done = cli("-a", "--sample", "--to", tmp_path / "out", "--log-format", "json")
    assert done.returncode == 0
    logged = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"severity", "message", "time"} <= set(line) for line in logged)
    assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == ["complete"] * 3


def test_quiet_says_nothing_but_the_result(cli: Cli, tmp_path: Path) -> None:
    done = cli("-a", "--sample", "--to", tmp_path / "out", "--quiet")
    assert done.stderr == "" and len(done.stdout.splitlines()) == 4
