"""What a machine may lack: open files, threads, letters, a stdout; each has its line, or does no harm."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from support.fault_harness import Site
from support.program import clean_environment, command

PLAIN_USER = 65534
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


def few_threads(count: int) -> list[str]:
    """Starts a program as a user who may have so many threads more; the limit does not bind root (setrlimit(2))."""
    uid = os.getuid() or PLAIN_USER
    limit = f"--nproc={threads_of(uid) + count}"
    if os.getuid():
        return ["prlimit", limit]
    rights = [f"--{which}=-all,+dac_read_search" for which in ("inh-caps", "ambient-caps", "bounding-set")]
    return ["setpriv", f"--reuid={PLAIN_USER}", f"--regid={PLAIN_USER}", "--clear-groups", *rights, "prlimit", limit]


def threads_of(uid: int) -> int:
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            count += len(os.listdir(process / "task")) if process.stat().st_uid == uid else 0
    return count


@pytest.mark.parametrize("count", [3, 20, 60, 300])
def test_few_threads_are_one_line(count: int) -> None:
    with Site("api", ("-d", "stanford", "-d", "austin")) as site:
        site.wrapper = few_threads(count)
        run = site.run()
        assert "Traceback" not in run.said
        assert run.status == 0 or "error: this machine allows no more threads" in run.said, run.said
        assert [*site.wrong()] == []
        site.wrapper = []
        again = site.run()
        assert again.status == 0 and [*site.wrong(), *site.lacking()] == [], again.said


READ_ONLY = """
mkdir "$HOME/out" && mount -t tmpfs tmpfs "$HOME/out" && mount -t tmpfs tmpfs /dev/shm
for each in /*; do
  case $each in /proc | /sys | /dev) continue ;; esac
  if [ -d "$each" ] && [ ! -L "$each" ]; then
    mount --rbind "$each" "$each" && mount -o remount,bind,ro "$each"
  fi
done
mount -o remount,bind,ro / && cd /
for each in "$HOME" /tmp /var/tmp /; do if [ -w "$each" ]; then exit 99; fi; done
"$@" && ls "$HOME/out/_extraction/austin/manifest.csv"
"""
NO_PROC = 'mount -t tmpfs tmpfs /proc && exec "$@"'


def in_own_mounts(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    run = command(*SAMPLE, str(tmp_path / "out"))
    return subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *run],
                          env=clean_environment(tmp_path, {"PYTHONDONTWRITEBYTECODE": "1"}),
                          capture_output=True, text=True, check=False, timeout=200)  # fmt: skip


def test_nothing_but_memory_and_the_destination_can_be_written(tmp_path: Path) -> None:
    done = in_own_mounts(READ_ONLY, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no folder for temporary files can be written: they go to /dev/shm" in done.stderr
    assert "manifest.csv" in done.stdout


def test_no_proc_is_one_line(tmp_path: Path) -> None:
    done = in_own_mounts(NO_PROC, tmp_path)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: /proc is not there"), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


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
