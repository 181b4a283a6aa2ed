"""What a machine may lack: open files, threads, letters, a stdout; each has its line, or does no harm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.fault_harness import Site
from support.program import clean_environment, command

SAMPLE = ("-a", "--sample", "--to")


def shell(script: str, tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program, started by a shell with these words before it."""
    run = command(*(arguments or (*SAMPLE, str(tmp_path / "out"))))
    return subprocess.run(["bash", "-c", script, "bash", *run], env=clean_environment(tmp_path, environment),
                          capture_output=True, text=True, check=False, timeout=200)  # fmt: skip


@pytest.mark.parametrize("limit", ["ulimit -S -n 256", "ulimit -n 256"], ids=["that may be raised", "that may not"])
@pytest.mark.parametrize("place", ["api", "folder"])
def test_256_open_files(place: str, limit: str) -> None:
    with Site(place, ("-d", "stanford", "-d", "austin")) as site:
        site.wrapper = ["bash", "-c", f'{limit}; exec "$@"', "bash"]
        run = site.run()
        assert run.status == 0 and [*site.wrong(), *site.lacking()] == [], run.said
        assert ("this machine allows 256 open files" in run.said) == ("-S" not in limit)


def test_few_threads_are_one_line(tmp_path: Path) -> None:
    """prlimit's NPROC counts threads, and does not bind root: a limit of memory for stacks does the same."""
    done = shell('ulimit -v 1200000; ulimit -s 65536; exec "$@"', tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or "allows no more threads" in done.stderr or "memory" in done.stderr.lower(), done


ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def test_a_locale_without_letters(tmp_path: Path) -> None:
    out = tmp_path / "Ausgänge"
    done = shell('exec "$@"', tmp_path, "-d", "stanford", "--sample", "--to", str(out), **ASCII)
    assert done.returncode == 0, done.stderr
    assert (out / "_extraction/stanford/manifest.csv").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    done = shell(f'exec "$@" {closed}', tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (tmp_path / "out/_extraction/austin/manifest.csv").exists()


def test_a_stdout_that_is_full(tmp_path: Path) -> None:
    done = shell('exec "$@" >/dev/full', tmp_path)
    assert done.returncode == 1 and "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert (tmp_path / "out/_extraction/austin/manifest.csv").exists() and os.path.exists("/dev/full")
