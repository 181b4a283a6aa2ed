"""The program as a user runs it, and what it leaves: processes, their environment, files and messages."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from support.source_server import SourceServer

ROOT = Path(__file__).parents[2]
ROOMS = ("archives", "commands", "manifest", "pipeline", "report", "sources", "storage")
Cli = Callable[..., subprocess.CompletedProcess[str]]


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


def product_files() -> list[Path]:
    """Every module of the program."""
    return sorted([*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])


def files_under(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def unlock(root: Path) -> None:
    """Let the user read what another program has extracted, with any mode that the archive says."""
    subprocess.run(["chmod", "-R", "u+rwX", root], check=True)


def dataset_files(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_under(root).items() if not name.startswith("_extraction/")}


def message(done: subprocess.CompletedProcess[str]) -> str:
    """The one error line; there must be no other, and no traceback."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def start(
    tmp_path: Path, mirror: SourceServer, to: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    arguments = command("-d", "stanford", "--mirror", mirror.url, "--to", to)
    return subprocess.Popen(
        arguments, env=clean_environment(tmp_path, environment or {}), stderr=subprocess.PIPE, text=True
    )
