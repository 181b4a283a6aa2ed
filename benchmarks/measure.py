"""One run of one command, measured: time, CPU, memory of its process tree, local disk, calls to the bucket.

Memory is PSS (proc(5), smaps_rollup): what processes share is divided among them, and counted once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

TICK = 0.2  # seconds between two looks at the processes
LOOKS = 50  # a look at the disk is due when this many times the last one's duration has passed: 2 % of a core
DISK_BLOCK = 512  # bytes of st_blocks
TOO_LONG = 900  # seconds
LISTS = ("json GET objects", "json GET buckets")  # reading by its method, class A by its price
CLASS_A = ("xml PUT", "json POST", "json PATCH", "upload", *LISTS)
FREE = ("json DELETE", "xml DELETE")


class Failed(Exception):
    """A way that did not arrive; says why in one line."""


class Figures(NamedTuple):
    """Of one run: seconds, bytes, and numbers of requests."""

    wall: float
    cpu: float  # of the way's own processes, not of the servers
    server_cpu: float  # of the object server
    memory: int
    disk: int
    class_a: int  # calls that are paid for as writes and lists
    class_b: int  # calls that are paid for as reads
    puts: int


class Peaks:
    """The most memory and disk that were seen in use."""

    def __init__(self, root: int, scratch: Path) -> None:
        self.root, self.scratch = root, scratch
        self.memory = self.disk = 0
        self._next_look = 0.0

    def look(self) -> None:
        self.memory = max(self.memory, sum(map(pss, tree(self.root))))
        if time.monotonic() >= self._next_look:
            self.look_at_disk()

    def look_at_disk(self) -> None:
        begin = time.monotonic()
        self.disk = max(self.disk, disk_usage(self.scratch))
        end = time.monotonic()
        self._next_look = end + LOOKS * (end - begin)


class Bucket(NamedTuple):
    """The objects' server."""

    url: str
    process: int

    def stats(self) -> Counter[str]:
        """How many requests of each kind it has had, and under "puts" how many objects it took."""
        with urllib.request.urlopen(f"{self.url}/_stats") as answer:
            stats = json.load(answer)
        return Counter(stats["requests"] | {"puts": stats["puts"]})


def run(command: str, environment: Mapping[str, str], scratch: Path, bucket: Bucket) -> Figures:
    """Run a shell command in the folder `scratch`; raises Failed with what it said last."""
    stats, before, server_before = bucket.stats(), os.times(), cpu_of(bucket.process)
    with tempfile.TemporaryFile("w+") as said:
        begin = time.monotonic()
        process = subprocess.Popen(
            ["bash", "-c", f"set -eo pipefail; {command}"], cwd=scratch, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, text=True,
        )  # fmt: skip
        peaks = watch(process, scratch)
        wall, after = time.monotonic() - begin, os.times()
        if process.returncode:
            raise Failed(last_line(said, process.returncode))
    peaks.look_at_disk()
    requests = bucket.stats() - stats
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    server_cpu, puts = cpu_of(bucket.process) - server_before, requests.pop("puts", 0)
    return Figures(wall, cpu, server_cpu, peaks.memory, peaks.disk, *price_classes(requests), puts)


def watch(process: subprocess.Popen[str], scratch: Path) -> Peaks:
    """Look at a process until it ends; one that takes too long is ended."""
    peaks, deadline = Peaks(process.pid, scratch), time.monotonic() + TOO_LONG
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TICK)
            return peaks
        peaks.look()
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def last_line(said: IO[str], status: int) -> str:
    said.seek(0)
    lines = [line for line in said.read().splitlines() if line.strip()]
    return f"exit status {status}: {lines[-1][:200] if lines else ''}"


# ── processes ────────────────────────────────────────────────────────────────────────────────────


def tree(root: int) -> list[int]:
    """The process and all that descend from it."""
    children = defaultdict[int, list[int]](list)
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat(int(entry))):
            children[int(fields[1])].append(int(entry))
    found = [root]
    for process in found:  # which grows meanwhile
        found += children[process]
    return found


def stat(process: int) -> list[str]:
    """The fields of proc(5), stat, from `state` on; none for a process that has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_of(process: int) -> float:
    """Seconds of CPU that a process has had."""
    fields = stat(process)
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def pss(process: int) -> int:
    """Bytes of memory, of what is shared a fair share; 0 for a process that has ended."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


def disk_usage(folder: Path) -> int:
    """Bytes of all files in a folder, which may change meanwhile."""
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                is_folder = entry.is_dir(follow_symlinks=False)
                total += disk_usage(Path(entry.path)) if is_folder else file_usage(entry)
    return total


def file_usage(entry: os.DirEntry[str]) -> int:
    return entry.stat(follow_symlinks=False).st_blocks * DISK_BLOCK


# ── the objects' server ──────────────────────────────────────────────────────────────────────────


def post(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method="POST")).close()


def price_classes(requests: Mapping[str, int]) -> tuple[int, int]:
    """Class A and class B (https://cloud.google.com/storage/pricing#operations-by-class); deleting is free."""
    paid = {kind: count for kind, count in requests.items() if not kind.startswith(FREE)}
    class_a = sum(count for kind, count in paid.items() if kind.startswith(CLASS_A))
    return class_a, sum(paid.values()) - class_a
