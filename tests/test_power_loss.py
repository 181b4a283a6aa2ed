"""Power is lost right after "complete": all that the manifest says is on the disk, or there is no manifest.

A file system of its own on a loop device is stopped as a loss of power stops it (FS_IOC_SHUTDOWN, without flushing its
log), unmounted, and mounted again. This takes root.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fault_harness import Site

SHUTDOWN, NO_FLUSH = 0x8004587D, struct.pack("I", 2)  # linux/fs.h, EXT4_GOING_FLAGS_NOLOGFLUSH


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 MB that writes to its disk only on demand, or after minutes."""
    image, folder = tmp_path / "disk", tmp_path / "mounted"
    folder.mkdir()
    image.write_bytes(b"")
    os.truncate(image, 200 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mount(image, folder)
    yield folder
    subprocess.run(["umount", folder], check=True)


def mount(image: Path, folder: Path) -> None:
    subprocess.run(["mount", "-o", "loop,commit=600", image, folder], check=True)


def lose_power(folder: Path) -> None:
    at = os.open(folder, os.O_RDONLY)
    fcntl.ioctl(at, SHUTDOWN, NO_FLUSH)
    os.close(at)
    subprocess.run(["umount", folder], check=True)
    mount(folder.parent / "disk", folder)


@pytest.mark.root
def test_what_is_complete_is_on_the_disk(disk: Path) -> None:
    with Site("folder", ("-d", "stanford", "-d", "austin")) as site:
        site.to = str(disk / "out")
        assert site.run().status == 0
        lose_power(disk)
        assert [*site.wrong()] == []
        assert all((disk / f"out/_extraction/{name}/manifest.csv").stat().st_size for name in ("stanford", "austin"))
        assert site.run("--verify", "--deep").status == 0


@pytest.mark.root
@pytest.mark.parametrize("seconds", [0.5, 1.5])
def test_a_run_that_loses_power_in_its_middle_goes_on(disk: Path, seconds: float) -> None:
    with Site("folder", ("-d", "stanford", "-d", "austin")) as site:
        site.to = str(disk / "out")
        process = site.start()
        while not (disk / "out/stanford").exists():
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(seconds)
        at = os.open(disk, os.O_RDONLY)
        fcntl.ioctl(at, SHUTDOWN, NO_FLUSH)
        os.close(at)
        process.kill()
        process.communicate()
        lose_power(disk)
        run = site.run()
        assert run.status == 0 and [*site.wrong(), *site.lacking()] == [], run.said


def test_a_manifest_comes_after_all_that_it_names(tmp_path: Path) -> None:
    """Without root: the order of the system's calls."""
    with Site("folder") as site:
        log = tmp_path / "calls"
        arguments = ["strace", "-f", "-qq", "-e", "trace=renameat,syncfs", "-o", str(log)]
        site.wrapper = arguments
        assert site.run().status == 0
    calls = re.findall(r"(syncfs)\(|renameat\(.*\"([^\"]*)\"\)", log.read_text())
    order = ["sync" if sync else name for sync, name in calls if sync or name in ("manifest.csv", "manifest.json")]
    assert order[:4] == ["manifest.json", "sync", "manifest.csv", "sync"], order
