"""The image as users run it, on a real Docker engine, with the real GCSFuse, against the emulator."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import socket
import subprocess
import tarfile
import time
from pathlib import Path
from urllib.parse import quote

import google_crc32c
import pytest
import requests

import inputs
from support.containers import (
    DOCKER,
    FUSE,
    IMAGE,
    METADATA_PREFIX,
    Done,
    container,
    docker,
    ended,
    members,
    options,
    wait_until,
)
from support.fake_gcs import GcsFront
from support.program import ROOT

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("image")]
WORKFLOW = ("cli.py", "--all", "--breed", "--individual")  # what the workflow container passes
BLOCK = 1 << 20  # bytes that GCSFuse sends in one request, by mount.FLAGS


def contents(front: GcsFront, bucket: str) -> dict[str, str]:
    """The SHA-256 of what was extracted, read back byte for byte."""
    place = f"{front.url}/storage/v1/b/{bucket}/o"
    return {
        name: hashlib.sha256(requests.get(f"{place}/{quote(name, safe='')}?alt=media", timeout=60).content).hexdigest()
        for name in members(front, bucket)
    }


@pytest.fixture(scope="module")
def expected(session_front: GcsFront) -> dict[str, tuple[int, int]]:
    """What the sample makes, stored through the API."""
    session_front.reset()
    done = docker("run", "--rm", *options(session_front, "test-expected", SPOTTED_VIA="api"), IMAGE, *WORKFLOW)
    assert done.returncode == 0, done.stderr
    return members(session_front, "test-expected")


def test_the_workflows_arguments_through_the_mount_store_what_the_api_stores(
    front: GcsFront, bucket: str, expected: dict[str, tuple[int, int]]
) -> None:
    done = docker("run", "--rm", *FUSE, *options(front, bucket, SPOTTED_VIA="mount"), IMAGE, *WORKFLOW)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("complete") == 3
    assert f"gs://{bucket}: writing through the mount at /gcs/{bucket}" in done.stderr
    assert members(front, bucket) == expected
    assert contents(front, bucket) == contents(front, "test-expected")


@pytest.fixture(scope="module")
def stanford(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 % of Stanford's archives, as the benchmarks make them: 2,061 files, 40 MB."""
    root = tmp_path_factory.mktemp("mirror")
    return root / inputs.build(root, 0.05).folder


def files(mirror: Path) -> dict[str, int]:
    """What the archives of a mirror become: each object's name and size, placeholders of folders included."""
    found = dict[str, int]()
    for archive, prefix in (("images", "stanford/"), ("annotation", "stanford/"), ("lists", "stanford/lists/")):
        with tarfile.open(mirror / f"{archive}.tar") as tar:
            found |= {prefix + info.name: info.size for info in tar if info.isfile()}
    folders = {"/".join([*name.split("/")[:depth], ""]) for name in found for depth in range(1, name.count("/") + 1)}
    return found | dict.fromkeys(folders, 0)


def from_mirror(front: GcsFront, bucket: str, mirror: Path) -> list[str]:
    environment = options(front, bucket, SPOTTED_VIA="mount", SPOTTED_MIRROR="/mirror", SPOTTED_DATASET="stanford")
    environment[environment.index("SPOTTED_SAMPLE=1")] = "SPOTTED_SAMPLE=0"
    return [*FUSE, "--volume", f"{mirror}:/mirror:ro", *environment]


def test_a_file_on_the_mount_costs_one_insert_two_look_ups_and_no_patch(
    front: GcsFront, bucket: str, stanford: Path
) -> None:
    run = ["run", "--rm", *from_mirror(front, bucket, stanford), IMAGE, "cli.py"]
    planned = json.loads(docker(*run, "--plan", "--log-format", "json").stdout.splitlines()[-1])
    front.reset()
    done = docker(*run)
    assert (done.returncode, done.stdout.count("complete")) == (0, 1), done.stderr
    stored = {name: size for name, (size, _) in members(front, bucket).items()}
    expected = files(stanford)
    assert stored == expected
    assert not [name for name, times in front.puts.items() if times > 1 and not name.startswith(METADATA_PREFIX)]
    leases = front.puts["_extraction/stanford/lock"]
    # The probe, and the placeholders of _extraction/ and its folder; the journal comes by the XML API.
    assert front.counts["json.upload"] - leases == len(expected) + 3
    assert front.counts["json.get"] <= len(expected) + 20
    assert front.counts["json.list"] <= len(expected) + 20
    assert front.counts["other"] == 0  # where the front counts a PATCH of an object
    assert front.counts["json.resumable"] == 0
    parts = sum(bool(re.search(r"/journal/.*\.\d{15}\.json$", name)) for name in front.puts)
    class_a = front.counts["json.upload"] + front.counts["xml.put"] + front.counts["json.list"] - parts
    assert class_a == pytest.approx(planned["mount"]["class_a"], rel=0.02)  # neither folders nor parts are planned
    assert parts < 0.1 * len(expected)


def test_large_members_go_through_the_mount_whole_each_as_one_insert(
    front: GcsFront, bucket: str, tmp_path: Path
) -> None:
    """GCSFuse sends a file below its write block immediately, any other block by block as it is written."""
    data, small, large = random.Random(1).randbytes(9 << 20), BLOCK - 1, (BLOCK, BLOCK + 1, 9 << 20)
    photos = {f"Images/n1-breed/{size}.jpg": data[:size] for size in (small, *large)}
    mirror = tmp_path / "mirror"  # other users may read it, tmp_path they may not
    mirror.mkdir()
    for archive, files_in_it in (("images", photos.items()), ("annotation", ()), ("lists", ())):
        inputs.write_tar(mirror / f"{archive}.tar", files_in_it)
    inputs.write_sums(mirror)
    expected = {f"stanford/{name}": (len(photo), google_crc32c.value(photo)) for name, photo in photos.items()}
    for times, force in ((1, ()), (2, ("--force",))):
        done = docker("run", "--rm", *from_mirror(front, bucket, mirror), IMAGE, "cli.py", *force)
        assert done.returncode == 0, done.stderr
        assert {name: what for name, what in members(front, bucket).items() if not name.endswith("/")} == expected
        assert {name: front.puts[name] for name in expected} == dict.fromkeys(expected, times)
        assert front.counts["json.resumable"] == times * len(large)
        assert (front.counts["json.cancel"], front.counts["other"]) == (0, 0)
        for name, what in expected.items():  # read for the card, and what was streamed for the table; not by GCSFuse
            assert front.gets[name] == times * (1 + (what[0] > 8 << 20))


def test_shards_through_the_mount_are_those_of_the_api(front: GcsFront, bucket: str) -> None:
    def shards(via: str, where: str) -> dict[str, tuple[int, int]]:
        for arguments in ([], ["--shards", "webdataset"]):
            run = options(front, where, SPOTTED_VIA=via, SPOTTED_DATASET="stanford")
            done = docker("run", "--rm", *FUSE, *run, IMAGE, "cli.py", *arguments)
            assert done.returncode == 0, done.stderr
        return {name: what for name, what in members(front, where).items() if name.startswith("shards/")}

    wanted = shards("api", f"{bucket}-api")
    assert len(wanted) == 5 and shards("mount", bucket) == wanted
    place = f"{front.url}/upload/storage/v1/b/{bucket}/o?uploadType=media&name=shards/stanford/test-000000.tar"
    assert requests.post(place, b"a part, as a run that is killed leaves it", timeout=60).ok
    assert shards("mount", bucket) == wanted


def test_a_bit_flipped_on_the_way_through_the_mount_is_found_and_the_next_run_stores_the_object(
    front: GcsFront, bucket: str, expected: dict[str, tuple[int, int]]
) -> None:
    victim = max((size, name) for name, (size, _) in expected.items())[1]
    front.corrupt("json.upload", name=victim)
    done = docker("run", "--rm", *FUSE, *options(front, bucket, SPOTTED_VIA="mount"), IMAGE, "-a")
    assert (done.returncode, f"missing {victim}: " in done.stderr) == (3, True), done.stderr
    done = docker("run", "--rm", *FUSE, *options(front, bucket, SPOTTED_VIA="mount"), IMAGE, "-a")
    assert done.returncode == 0, done.stderr
    assert members(front, bucket) == expected


def test_the_ways_of_calling_it(front: GcsFront, bucket: str) -> None:
    whole = ["cli.py -d stanford"]  # one argument, as some workflow engines pass it
    for arguments in (["-d", "stanford"], ["cli.py", *whole[0].split()[1:]], ["python", *whole[0].split()], whole):
        done = docker("run", "--rm", *options(front, bucket, SPOTTED_VIA="api"), IMAGE, *arguments)
        assert (done.returncode, "complete" in done.stdout) == (0, True), done.stderr
    shell = docker("run", "--rm", IMAGE, "bash", "-c", "id -un && python cli.py --version && gcsfuse --version")
    assert shell.stdout.splitlines()[:2] == ["spotted", "spotted-data-extraction 1.0.0"]
    assert docker("run", "--rm", IMAGE, "sh", "-c", "exit 7").returncode == 7
    assert docker("run", "--rm", IMAGE, "dask", "--version").stdout.startswith("dask")
    helm = docker("run", "--rm", IMAGE, "dask-scheduler", "--version")  # as dask's chart calls it
    assert helm.stdout.startswith("dask")
    assert "usage: cli.py" in docker("run", "--rm", IMAGE).stdout


def test_docker_stop_ends_it_in_time_and_the_next_run_goes_on(front: GcsFront, bucket: str, stanford: Path) -> None:
    front.delay = 0.05  # what a request takes, and with all writers at work
    with container(*from_mirror(front, bucket, stanford), IMAGE, "cli.py") as name:
        wait_until(lambda: sum(front.puts.values()) > 300)
        begin = time.monotonic()
        docker("stop", "--time", "20", name)
        seconds = time.monotonic() - begin
        status, said = ended(name)
    assert (status, seconds < 10) == (143, True), said
    before = members(front, bucket)
    expected = files(stanford)
    assert len(before) < len(expected)
    assert {name for name, (size, _) in before.items() if size != expected[name]} == set()  # flushed: no half objects
    front.delay = 0
    done = docker("run", "--rm", *from_mirror(front, bucket, stanford), IMAGE, "cli.py")
    assert done.returncode == 0, done.stderr
    assert {name: size for name, (size, _) in members(front, bucket).items()} == expected


def test_a_killed_run_leaves_nothing_that_the_next_takes_for_whole(
    front: GcsFront, bucket: str, expected: dict[str, tuple[int, int]]
) -> None:
    front.delay = 0.2
    with container(*FUSE, *options(front, bucket, SPOTTED_VIA="mount"), IMAGE, "-a") as name:
        wait_until(lambda: sum(front.puts.values()) > 10)
        docker("kill", name)
    front.delay = 0
    done = docker("run", "--rm", *FUSE, *options(front, bucket, SPOTTED_VIA="mount"), IMAGE, "-a")
    assert done.returncode == 0, done.stderr
    assert members(front, bucket) == expected


@pytest.mark.parametrize(
    ("grants", "line"),
    [
        (FUSE, "writing through the mount at /gcs/{bucket}"),
        ((), "writing through the API, faster than a mount (gs://{bucket} cannot be mounted: there is no"),
        (FUSE[2:4], "writing through the API, faster than a mount (gs://{bucket} cannot be mounted: mounting is not"),
    ],
    ids=["all rights", "no device", "the device alone"],
)
def test_which_way_a_bucket_is_written_and_why_is_one_line(
    front: GcsFront, bucket: str, grants: tuple[str, ...], line: str
) -> None:
    done = docker("run", "--rm", *grants, *options(front, bucket), IMAGE, "-d", "stanford")
    assert done.returncode == 0, done.stderr
    (said,) = [each for each in done.stderr.splitlines() if "writing through" in each]
    assert f"gs://{bucket}: {line.format(bucket=bucket)}" in said
    assert len(members(front, bucket)) > 30


def test_a_mount_that_is_there_already_is_used_and_left_as_it_is(front: GcsFront, bucket: str) -> None:
    """As Vertex AI has it."""
    front.create_bucket(bucket)
    at = f"/gcs/{bucket}"
    mount = f"gcsfuse --implicit-dirs --anonymous-access --custom-endpoint {front.url}/storage/v1/ {bucket} {at}"
    script = f"mkdir {at} && {mount} >/dev/null && python cli.py -d stanford && mountpoint {at} && ls {at}/stanford"
    done = docker("run", "--rm", *FUSE, *options(front, bucket), IMAGE, "bash", "-c", script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"writing through the mount at {at}" in done.stderr
    assert done.stdout.endswith(f"{at} is a mountpoint\nAnnotation\nImages\nlists\n")


@pytest.mark.parametrize("grants", [(), FUSE[:4], FUSE], ids=["nothing", "no AppArmor", "refused by the bucket"])
def test_a_mount_that_fails_is_an_error_and_nothing_lands_on_the_containers_disk(
    front: GcsFront, bucket: str, grants: tuple[str, ...]
) -> None:
    front.deny("json.upload")  # nothing can be written through the mount, if it comes to one
    with container(*grants, *options(front, bucket, SPOTTED_VIA="mount"), IMAGE, "-a") as name:
        status, said = ended(name)
        written = [line[2:] for line in docker("diff", name).stdout.splitlines()]
    assert status == 1, said
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1
    assert [path for path in written if path.startswith("/gcs/") and path != f"/gcs/{bucket}"] == []
    assert not members(front, bucket)


def test_a_mount_that_dies_is_an_error_and_nothing_lands_on_the_containers_disk(front: GcsFront, bucket: str) -> None:
    front.delay = 0.2
    with container(*FUSE, *options(front, bucket, SPOTTED_VIA="mount"), IMAGE, "-a") as name:
        wait_until(lambda: sum(front.puts.values()) > 10)
        kill = "for p in /proc/[0-9]*; do grep -q ^gcsfuse $p/comm && kill -9 ${p#/proc/}; done; umount -l /gcs/*"
        docker("exec", "--user", "0", name, "sh", "-c", kill)
        front.delay = 0
        status, said = ended(name)
        written = [line[2:] for line in docker("diff", name).stdout.splitlines()]
    assert status == 1, said
    assert "error: " in said
    assert [path for path in written if path.startswith("/gcs/") and path != f"/gcs/{bucket}"] == []


def test_three_workers_in_containers_one_of_them_killed(
    front: GcsFront, bucket: str, expected: dict[str, tuple[int, int]]
) -> None:
    """Started as compose.yaml, dask's Helm chart and dask-cloudprovider start them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    port = address.rpartition(":")[2]
    scheduler = ["dask", "scheduler", "--host", "127.0.0.1", "--port", port, "--dashboard-address", "127.0.0.1:0"]
    worker = ["dask", "worker", address, "--nthreads", "4", "--dashboard-address", "127.0.0.1:0"]
    charts = ["dask-worker", f"127.0.0.1:{port}", "--nthreads", "4", "--memory-limit", "3G", "--no-dashboard"]
    nanny = {"cls": "dask.distributed.Nanny", "opts": {"nthreads": 4, "memory_limit": "2GB", "name": "third"}}
    providers = ["env", "A=b", "python", "-m", "distributed.cli.dask_spec", address, "--spec", json.dumps(nanny)]
    with (
        container("--network", "host", IMAGE, *scheduler),
        container(*options(front, bucket), IMAGE, *worker) as first,
        container(*options(front, bucket), IMAGE, *charts) as second,
        container(*options(front, bucket), IMAGE, *providers) as third,
    ):
        for name in (first, second, third):
            wait_until(lambda name=name: "Registered to" in docker("logs", name).stderr)  # type: ignore[misc]
        front.delay = 0.2
        with container(*options(front, bucket, SPOTTED_SCHEDULER=address), IMAGE, "-a") as run:
            wait_until(lambda: sum(front.puts.values()) > 3)
            docker("kill", first)
            front.delay = 0
            status, said = ended(run)
    assert status == 0, said
    assert "through the API, faster than a mount (the workers of the cluster have no mount)" in said
    assert members(front, bucket) == expected


HOST_NETWORK = """
x-here: &here {network_mode: host, extra_hosts: ["scheduler:127.0.0.1"]}
services:
  scheduler: *here
  worker: {<<: *here, environment: {STORAGE_EMULATOR_HOST: "${FRONT}"}}
  extract: {<<: *here, environment: {STORAGE_EMULATOR_HOST: "${FRONT}", SPOTTED_SAMPLE: "1"}}
"""


def test_compose_makes_a_cluster(
    front: GcsFront, bucket: str, expected: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    (override := tmp_path / "host-network.yaml").write_text(HOST_NETWORK)  # the engine of the tests has no bridge
    place = ("--file", str(ROOT / "compose.yaml"), "--file", str(override))
    compose = [DOCKER, "compose", "--project-name", bucket, *place]
    environment = {**os.environ, "IMAGE": IMAGE, "FRONT": front.url, "SPOTTED_TO": f"gs://{bucket}"}

    def run(*arguments: str) -> Done:
        given = [*compose, *arguments]
        return subprocess.run(given, env=environment, capture_output=True, text=True, timeout=300, check=False)

    try:
        up = run("up", "--detach", "--no-build", "--scale", "worker=3", "scheduler", "worker")
        assert up.returncode == 0, up.stderr
        done = run("run", "--rm", "--no-TTY", "extract", "--all")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("complete") == 3
    finally:
        run("down", "--timeout", "5")
    assert members(front, bucket) == expected


COMPILE = """
import json, sys, tempfile
import yaml
from kfp import compiler, components, dsl

extract = components.load_component_from_file(sys.argv[1])

@dsl.pipeline(name="dogs")
def pipeline():
    extract(**json.loads(sys.argv[2]))

with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
    compiler.Compiler().compile(pipeline, file.name)
    compiled = next(yaml.safe_load_all(open(file.name)))
(executor,) = compiled["deploymentSpec"]["executors"].values()
(task,) = compiled["root"]["dag"]["tasks"].values()
values = {name: given["runtimeValue"]["constant"] for name, given in task["inputs"]["parameters"].items()}
print(json.dumps([executor["container"], values]))
"""


def test_the_step_of_a_compiled_pipeline(
    front: GcsFront, bucket: str, expected: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    component = ROOT / "component.yaml"
    inputs = {"datasets": "stanford,tsinghua", "destination": f"gs://{bucket}", "via": "mount", "project": "mine"}
    compiled = subprocess.run(
        [os.environ.get("KFP_PYTHON", "python3"), "-W", "ignore", "-c", COMPILE, str(component), json.dumps(inputs)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stderr
    step, values = json.loads(compiled.stdout.splitlines()[-1])
    assert values == inputs
    artifacts = {
        name: {"artifacts": [{"name": f"projects/1/{name}", "uri": f"gs://my-pipelines/{name}", "metadata": {}}]}
        for name in ("extracted", "metrics")
    }
    given = json.dumps({"inputs": {}, "outputs": {"artifacts": artifacts, "outputFile": "/outputs/step/output.json"}})
    first, *rest = (_filled(part, values, given) for part in [*step["command"], *step["args"]])
    environment = [
        "--volume", f"{tmp_path}:/outputs", "--network", "host", "-e", f"STORAGE_EMULATOR_HOST={front.url}",
        "-e", "SPOTTED_SAMPLE=1",
    ]  # fmt: skip
    done = docker("run", "--rm", *FUSE, *environment, "--entrypoint", first, IMAGE, *rest)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == ["complete", "complete"]
    assert front.projects == ["mine"]
    assert members(front, bucket) == {key: value for key, value in expected.items() if not key.startswith("austin/")}

    written = json.loads((tmp_path / "step/output.json").read_text())["artifacts"]
    (extracted,), (metrics,) = (written[name]["artifacts"] for name in ("extracted", "metrics"))
    assert (extracted["name"], extracted["uri"]) == ("projects/1/extracted", f"gs://{bucket}")
    assert extracted["metadata"] == {"stanford": "complete", "tsinghua": "complete"}
    assert metrics["uri"] == "gs://my-pipelines/metrics"
    assert (metrics["metadata"]["objects"], metrics["metadata"]["missing"]) == (53, 0)
    assert step["image"].startswith("docker.io/")


def _filled(part: str, values: dict[str, str], given: str) -> str:
    if part == "{{$}}":
        return given
    return re.sub(r"\{\{\$\.inputs\.parameters\['(\w+)'\]\}\}", lambda match: values[match[1]], part)
