"""What several tests need: the miniature's sources as a mirror, a real emulator behind its front, and the program."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from containers import IMAGE, docker
from gcs_front import GcsFront
from source_server import SourceServer

from sources import sample

ROOT = Path(__file__).parent.parent
ROOMS = ("archives", "commands", "manifest", "pipeline", "report", "sources", "storage")
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def session_front() -> Iterator[GcsFront]:
    with GcsFront() as front:
        yield front


@pytest.fixture
def front(session_front: GcsFront) -> GcsFront:
    """The emulator behind its front, with nothing planned and nothing counted."""
    session_front.reset()
    return session_front


@pytest.fixture
def mirror() -> Iterator[SourceServer]:
    """A server that has the miniature's files, and can be told to misbehave."""
    with SourceServer() as server:
        server.files.update({f"/{path}": data for path, data in sample.sources().items()})
        yield server


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Runs cli.py as a user does, in a process of its own, with a clean environment."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            env=clean_environment(tmp_path, environment),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]


def clean_environment(home: Path, more: dict[str, str]) -> dict[str, str]:
    """This environment without what names a cloud, an account or an option; a bucket is written through its API."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SPOTTED_", "GOOGLE_", "GCP_", "GCS_", "STORAGE_", "CLOUDSDK_"))
    }
    return {**kept, "HOME": str(home), "SPOTTED_VIA": "api", **more}


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are there, and those that these have started."""
    found = list[int]()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            found += map(int, path.read_text().split())
    return [*found, *(grandchild for child in found for grandchild in children(child))]


@pytest.fixture(scope="session")
def image() -> None:
    """In CI what is missing is a failure; on a laptop it is a reason to leave the container tests out."""
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
    """A bucket's name that nobody else has."""
    return f"test-{uuid.uuid4().hex[:12]}"


def product_files() -> list[Path]:
    """Every module of the program."""
    return sorted([*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])
