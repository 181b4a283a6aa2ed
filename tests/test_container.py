"""The image as users run it, on a real Docker engine, with the real GCSFuse, against the emulator."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import stat
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from gcs_front import GcsFront

pytestmark = pytest.mark.container

ROOT = Path(__file__).parent.parent
DOCKER = os.environ.get("DOCKER", "docker")
IMAGE = os.environ.get("CONTAINER_IMAGE", "spotted-data-extraction:test")
FUSE = ("--cap-add", "SYS_ADMIN", "--device", "/dev/fuse", "--security-opt", "apparmor=unconfined")
WORKFLOW = ("cli.py", "--all", "--breed", "--individual")  # what the workflow container passes
BOOKS = "_extraction/"
Done = subprocess.CompletedProcess[str]


def docker(*arguments: str, timeout: float = 300) -> Done:
    return subprocess.run([DOCKER, *arguments], capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    """In CI what is missing is a failure; on a laptop it is a reason to leave these tests out."""
    try:
        found = docker("image", "inspect", IMAGE)
        lack = found.stderr.strip() if found.returncode else ""
    except OSError as error:
        lack = str(error)
    if not Path("/dev/fuse").exists():
        lack = lack or "there is no /dev/fuse"
    if lack:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{lack} (made by: make test-image)")


@pytest.fixture
def bucket() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


def options(front: GcsFront, bucket: str, **more: str) -> list[str]:
    """docker run's options for a run on the sample that is told all by its environment."""
    told = {"STORAGE_EMULATOR_HOST": front.url, "SPOTTED_SAMPLE": "1", "SPOTTED_TO": f"gs://{bucket}", **more}
    return ["--network", "host", *(part for key, value in told.items() for part in ("--env", f"{key}={value}"))]


@contextmanager
def container(*arguments: str) -> Iterator[str]:
    """A container in the background, removed in the end; its name."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    started = docker("run", "--detach", "--name", name, *arguments)
    try:
        assert started.returncode == 0, started.stderr
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


def ended(name: str) -> tuple[int, str]:
    """Wait for a container; its exit status and all that it said."""
    status = int(docker("wait", name).stdout)
    logs = docker("logs", name)
    return status, logs.stdout + logs.stderr


def wait_until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def members(front: GcsFront, bucket: str) -> dict[str, tuple[int, int]]:
    """What was extracted, with size and checksum; the books tell of times, and differ."""
    return {name: what for name, what in front.objects(bucket).items() if not name.startswith(BOOKS)}


def contents(front: GcsFront, bucket: str) -> dict[str, str]:
    """The SHA-256 of what was extracted, read back byte for byte."""
    place = f"{front.url}/storage/v1/b/{bucket}/o"
    return {
        name: hashlib.sha256(requests.get(f"{place}/{quote(name, safe='')}?alt=media", timeout=60).content).hexdigest()
        for name in members(front, bucket)
    }


@pytest.fixture
def expected(front: GcsFront) -> dict[str, tuple[int, int]]:
    """What the sample makes, stored through the API."""
    done = docker("run", "--rm", *options(front, "test-expected", SPOTTED_VIA="api"), IMAGE, *WORKFLOW)
    assert done.returncode == 0, done.stderr
    front.reset()
    return members(front, "test-expected")


def test_the_workflows_arguments_through_the_mount_store_what_the_api_stores(
    front: GcsFront, bucket: str, expected: dict[str, tuple[int, int]]
) -> None:
    done = docker("run", "--rm", *FUSE, *options(front, bucket, SPOTTED_VIA="mount"), IMAGE, *WORKFLOW)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("complete") == 3
    assert f"gs://{bucket}: writing through the mount at /gcs/{bucket}" in done.stderr
    assert members(front, bucket) == expected
    assert contents(front, bucket) == contents(front, "test-expected")


def test_a_file_on_the_mount_costs_one_insert_and_no_patch(
    front: GcsFront, bucket: str, expected: dict[str, tuple[int, int]]
) -> None:
    planned = docker("run", "--rm", *options(front, bucket), IMAGE, "-a", "--plan", "--log-format", "json")
    front.reset()
    done = docker("run", "--rm", *FUSE, *options(front, bucket, SPOTTED_VIA="mount"), IMAGE, "-a")
    assert done.returncode == 0, done.stderr
    cost = json.loads(planned.stdout.splitlines()[-1])["mount"]
    called = front.counts["json.upload"] + front.counts["xml.put"] + front.counts["json.list"]
    assert called == pytest.approx(cost["class_a"], rel=0.15)  # of thousands of files within 1 %
    assert {name: times for name, times in front.puts.items() if times > 1 and not name.startswith(BOOKS)} == {}
    assert front.counts["other"] == 0  # where the front counts a PATCH of an object
    assert front.counts["json.resumable"] == 0
    assert front.counts["json.upload"] <= len(expected) + 10  # the probe
    assert front.counts["json.get"] + front.counts["json.list"] <= 2.2 * len(expected) + 30  # a look-up for each


def test_the_ways_of_calling_it(front: GcsFront, bucket: str) -> None:
    for arguments in (["-d", "stanford"], ["cli.py", "-d", "stanford"], ["python", "cli.py", "-d", "stanford"]):
        done = docker("run", "--rm", *options(front, bucket, SPOTTED_VIA="api"), IMAGE, *arguments)
        assert (done.returncode, "complete" in done.stdout) == (0, True), done.stderr
    shell = docker("run", "--rm", IMAGE, "bash", "-c", "id -un && python cli.py --version && gcsfuse --version")
    assert shell.stdout.splitlines()[:2] == ["spotted", "spotted-data-extraction 1.0.0"]
    assert docker("run", "--rm", IMAGE, "sh", "-c", "exit 7").returncode == 7
    assert docker("run", "--rm", IMAGE, "dask", "--version").stdout.startswith("dask")
    assert "usage: cli.py" in docker("run", "--rm", IMAGE).stdout


def test_docker_stop_ends_it_in_time_and_the_next_run_goes_on(
    front: GcsFront, bucket: str, expected: dict[str, tuple[int, int]]
) -> None:
    front.delay = 0.3
    with container(*FUSE, *options(front, bucket, SPOTTED_VIA="mount"), IMAGE, "-a") as name:
        wait_until(lambda: sum(front.puts.values()) > 10)
        begin = time.monotonic()
        docker("stop", "--time", "20", name)
        seconds = time.monotonic() - begin
        status, said = ended(name)
    assert (status, seconds < 10) == (130, True), said
    assert len(members(front, bucket)) < len(expected)
    front.delay = 0
    done = docker("run", "--rm", *FUSE, *options(front, bucket, SPOTTED_VIA="mount"), IMAGE, "-a")
    assert done.returncode == 0, done.stderr
    assert members(front, bucket) == expected


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


def test_without_the_rights_to_mount_one_line_says_so_and_the_api_is_used(front: GcsFront, bucket: str) -> None:
    done = docker("run", "--rm", *options(front, bucket), IMAGE, "-d", "stanford")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "through the API" in line]
    assert "there is no /dev/fuse" in line


@pytest.mark.parametrize("grants", [(), FUSE[:4], FUSE], ids=["nothing", "no AppArmor", "refused by the bucket"])
def test_a_mount_that_fails_is_an_error_and_nothing_lands_on_the_containers_disk(
    front: GcsFront, bucket: str, grants: tuple[str, ...]
) -> None:
    front.deny("json.upload")  # nothing can be writing through the mount, if it comes to one
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
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    port = address.rpartition(":")[2]
    scheduler = ["dask", "scheduler", "--host", "127.0.0.1", "--port", port, "--dashboard-address", "127.0.0.1:0"]
    worker = ["dask", "worker", address, "--nthreads", "4", "--dashboard-address", "127.0.0.1:0"]
    with (
        container("--network", "host", IMAGE, *scheduler),
        container(*options(front, bucket), IMAGE, *worker) as first,
        container(*options(front, bucket), IMAGE, *worker) as second,
        container(*options(front, bucket), IMAGE, *worker) as third,
    ):
        for name in (first, second, third):
            wait_until(lambda name=name: "Registered to" in docker("logs", name).stderr)  # type: ignore[misc]
        front.delay = 0.2
        with container(*options(front, bucket, SPOTTED_SCHEDULER=address), IMAGE, "-a") as run:
            wait_until(lambda: sum(front.puts.values()) > 3)
            docker("kill", second)
            front.delay = 0
            status, said = ended(run)
    assert status == 0, said
    assert "through the API: the workers of the cluster have no mount" in said
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
    override = tmp_path / "host-network.yaml"
    override.write_text(HOST_NETWORK)  # the engine of the tests has no bridge
    compose = [
        DOCKER,
        "compose",
        "--project-name",
        bucket,
        "--file",
        str(ROOT / "compose.yaml"),
        "--file",
        str(override),
    ]
    environment = {**os.environ, "IMAGE": IMAGE, "FRONT": front.url, "SPOTTED_TO": f"gs://{bucket}"}

    def run(*arguments: str) -> Done:
        return subprocess.run(
            [*compose, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
        )

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


def test_the_step_of_a_compiled_pipeline(front: GcsFront, bucket: str, expected: dict[str, tuple[int, int]]) -> None:
    component = ROOT / "component.yaml"
    inputs = {"datasets": "stanford,tsinghua", "destination": f"gs://{bucket}", "via": "mount"}
    compiled = subprocess.run(
        [os.environ.get("KFP_PYTHON", "python3"), "-W", "ignore", "-c", COMPILE, str(component), json.dumps(inputs)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stderr
    step, values = json.loads(compiled.stdout.splitlines()[-1])
    assert values == inputs
    first, *rest = (_filled(part, values) for part in [*step["command"], *step["args"]])
    environment = ["--network", "host", "-e", f"STORAGE_EMULATOR_HOST={front.url}", "-e", "SPOTTED_SAMPLE=1"]
    done = docker("run", "--rm", *FUSE, *environment, "--entrypoint", first, IMAGE, *rest)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == ["complete", "complete"]
    assert members(front, bucket) == {key: value for key, value in expected.items() if not key.startswith("austin/")}


def _filled(part: str, values: dict[str, str]) -> str:
    return re.sub(r"\{\{\$\.inputs\.parameters\['(\w+)'\]\}\}", lambda match: values[match[1]], part)


def test_docker_shell_builds_and_runs(front: GcsFront, bucket: str, tmp_path: Path) -> None:
    """From a checkout, told by a .env file, with a key file that only its owner may read."""
    parts = (
        "Dockerfile",
        ".dockerignore",
        "card.html",
        "Pipfile.lock",
        "docker",
        "docker-entrypoint.sh",
        "docker-shell.sh",
    )
    files = [*(ROOT / part for part in parts), *ROOT.glob("*.py")]
    subprocess.run(["cp", "-r", *map(str, files), str(tmp_path)], check=True)
    key = tmp_path / "a key.json"
    key.write_text("{}")
    key.chmod(stat.S_IRUSR)
    (tmp_path / ".env").write_text(f"# the bucket\nGCS_BUCKET={bucket}\nSTORAGE_EMULATOR_HOST={front.url}\n")
    environment = {**os.environ, "IMAGE": f"{IMAGE}-shell", "DOCKER_RUN_ARGS": "--network host"}
    environment["GOOGLE_APPLICATION_CREDENTIALS"] = str(key)
    done = subprocess.run(
        ["sh", "docker-shell.sh", "--dataset", "stanford", "--sample"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "writing through the mount" in done.stderr
    assert "stanford/Images/" in "".join(members(front, bucket))
    assert "a key" not in docker("history", "--no-trunc", environment["IMAGE"]).stdout
