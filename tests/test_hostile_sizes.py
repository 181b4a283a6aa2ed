"""Archives of unusual shape and size: empty, of folders alone, of a huge member, of very many members."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.archives import File
from support.bench import PACKS, Bench, only
from support.huge_archives import Vast, joined, served, tar_of_many, tar_of_one, zip_of_one
from support.program import clean_environment, command
from support.tars import END
from support.zips import pack_zip

MB = 1 << 20


EMPTY = {
    "tar": END,
    "tar of one block": bytes(512),
    "zip": pack_zip()([]),
    "tar.gz": gzip.compress(END),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_archive_is_complete_with_nothing_in_it(name: str, bench: Bench) -> None:
    result = bench.extract(only(bench, name, EMPTY[name]))
    assert (result.state, result.objects, bench.objects()) == ("complete", 0, {})


@pytest.mark.parametrize("kind", PACKS)
def test_an_archive_of_folders_alone(any_bench: Bench, kind: str) -> None:
    packed = PACKS[kind]([File("a/"), File("a/b/"), File("c/")])
    result = any_bench.extract(only(any_bench, kind, packed))
    assert (result.state, result.objects) == ("complete", 0)
    assert {stored.name for stored in any_bench.bucket.list("mini/")} == {"mini/", "mini/a/", "mini/a/b/", "mini/c/"}


LONG = bool(os.environ.get("LONG"))  # make fuzz sets it
LARGE = (5000 if LONG else 200) * MB
MANY = 1_000_000 if LONG else 10_000
MEMORY = 220 * MB  # of the whole program, half of which it has before it begins


def extracted(vast: dict[str, Vast], to: Path) -> tuple[int, int]:
    """Run the program on these in the place of Stanford's archives; its exit status, and its memory at most (bytes)."""
    rest = {"/images.tar": joined(END), "/annotation.tar": joined(END), "/lists.tar": joined(END)}
    with served({**rest, "/SHA256SUMS": joined(b""), **vast}) as url:
        process = subprocess.Popen(
            command("-d", "stanford", "--mirror", url, "--to", to, "--quiet"),
            env=clean_environment(to.parent, {}),
            stdout=subprocess.DEVNULL,
        )
        memory = 0
        while process.poll() is None:
            memory = max(memory, peak(process.pid))
            time.sleep(0.02)
    return process.returncode, memory


def peak(pid: int) -> int:
    """Bytes that a process has had at most. Its rusage would count what its parent had when it was started."""
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = re.search(r"VmHWM:\s+(\d+) kB", status)  # none once it has ended
    return int(kilobytes[1]) << 10 if kilobytes else 0


@pytest.mark.parametrize("make", [tar_of_one, zip_of_one])
def test_a_large_member_takes_no_more_memory(make: Callable[[int], Vast], tmp_path: Path) -> None:
    """A plain tar or a zip under any name; 5 GB in the long form."""
    status, memory = extracted({"/images.tar": make(LARGE)}, tmp_path / "out")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out/stanford").iterdir() if path.is_file()}
    shutil.rmtree(tmp_path / "out")
    assert (status, sizes["large"]) == (0, LARGE)
    assert memory < MEMORY


def test_very_many_empty_members(tmp_path: Path) -> None:
    """A million in the long form."""
    status, memory = extracted({"/images.tar": tar_of_many(MANY)}, tmp_path / "out")
    count = sum(len(files) for _, _, files in os.walk(tmp_path / "out/stanford"))
    shutil.rmtree(tmp_path / "out")
    assert (status, count) == (0, MANY)
    assert memory < MEMORY + MANY * 500
