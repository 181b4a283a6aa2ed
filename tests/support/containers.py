"""How the tests use Docker: the engine and the image that .ci/containers made, and what they ask of them."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from support.fake_gcs import GcsFront

DOCKER = os.environ.get("DOCKER", "docker")
IMAGE = os.environ.get("CONTAINER_IMAGE", "spotted-data-extraction:test")
FUSE = ("--cap-add", "SYS_ADMIN", "--device", "/dev/fuse", "--security-opt", "apparmor=unconfined")
METADATA_PREFIX = "_extraction/"
Done = subprocess.CompletedProcess[str]


def docker(*arguments: str, timeout: float = 300) -> Done:
    return subprocess.run([DOCKER, *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def options(front: GcsFront, bucket: str, **more: str) -> list[str]:
    """docker run's options for a run on the sample whose options are all in its environment."""
    environment = {"STORAGE_EMULATOR_HOST": front.url, "SPOTTED_SAMPLE": "1", "SPOTTED_TO": f"gs://{bucket}", **more}
    return ["--network", "host", *(part for key, value in environment.items() for part in ("--env", f"{key}={value}"))]


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


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def members(front: GcsFront, bucket: str) -> dict[str, tuple[int, int]]:
    """What was extracted, with size and checksum; the books tell of times, and differ."""
    return {name: what for name, what in front.objects(bucket).items() if not name.startswith(METADATA_PREFIX)}
