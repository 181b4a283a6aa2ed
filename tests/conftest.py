"""Fixtures of several tests: the miniature as a mirror, a real emulator behind its front, the program, small limits."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from archives import decompress, tar
from archives import zip as zip_archive
from sources import sample
from support.archives import some_members, tar_of
from support.containers import IMAGE, docker
from support.fake_gcs import GcsFront
from support.miniature import sums
from support.program import Cli, clean_environment, command
from support.source_server import Plan, SourceServer

pytest_plugins = ["support.bench"]


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
    """A server that has the miniature's files, and can be made to misbehave."""
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
    """A bucket's name that is used only here."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything above 600 bytes is a large member, and comes in chunks of 100."""
    for module in (tar, zip_archive):
        monkeypatch.setattr(module, "LARGE", 600)
    monkeypatch.setattr(zip_archive, "SPAN_BYTES", 600)
    monkeypatch.setattr(decompress, "UNPACKED", 100)


@pytest.fixture
def slow_mirror(mirror: SourceServer) -> SourceServer:
    """A mirror whose images.tar is 40 MB, and comes slowly enough to be interrupted."""
    mirror.files["/images.tar"] = tar_of([(f"Images/{name}", data) for name, data in some_members(2500, 20_000)])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    mirror.plan("/images.tar", Plan(drip=0.002))
    return mirror


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, in seconds; noted, and not waited."""
    waits: list[float] = []
    monkeypatch.setattr("sources.retry.time.sleep", waits.append)
    return waits
