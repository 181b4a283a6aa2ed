"""What a file costs on a mount: this tool beside the usual way, and the effect of each flag of storage/gcsfuse.py."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from course import Course, prepare
from inputs import Input
from measure import Bucket, Failed
from render import table, write_page
from ways import WAYS, lacking

SHARE = 0.05  # of Stanford: 2,061 files, 40 MB
DELAY = 0.05  # seconds of a request
PART = "mounting"
HEADER = (
    "",
    "seconds",
    "files/s",
    "as fast as the first",
    "CPU s per 1,000",
    "inserts",
    "look-ups",
    "PATCH, DELETE",
    "peak memory",
)
# In place of gcsfuse, on PATH before it: leaves out the flags that begin with a word of $LEFT_OUT.
WRAPPER = """#!/bin/bash
for flag; do
  for word in $LEFT_OUT; do [[ $flag == "$word"* ]] && continue 2; done
  kept+=("$flag")
done
exec {gcsfuse} "${{kept[@]}}"
"""
ALL = ("--implicit", "--metadata", "--stat", "--experimental", "--max", "--write", "--enable")
CHANGES: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "without `--experimental-enable-dentry-cache`": ("--experimental",),
    "without `--metadata-cache-ttl-secs`, `--metadata-cache-negative-ttl-secs`, `--stat-cache-max-size-mb`": (
        "--metadata", "--stat",
    ),
    "without `--implicit-dirs`": ("--implicit",),
    "without `--write-block-size-mb`, `--write-global-max-blocks`": ("--write",),
    "without `--max-conns-per-host`, `--max-idle-conns-per-host`": ("--max-conns", "--max-idle"),
    "without `--enable-metadata-prefetch=false`": ("--enable",),
    "without any of mount.py's flags": ALL,
}  # fmt: skip
UPLOADS = (16, 32, 64, 256)  # files being written in parallel; as it is, 128
PROCESSES = (0, 32)  # of the usual way; 0: as many as cores


class Run(NamedTuple):
    """Seconds and bytes of all; requests for each file."""

    seconds: float
    cpu: float  # of the way and GCSFuse, not of the servers
    memory: float
    inserts: float
    look_ups: float
    others: float


class Mounting:
    """Runs ways on a mount, and counts what the server behind it is asked for."""

    def __init__(self, at: Course, scale: float, rounds: int) -> None:
        self.at, self.rounds, self.given = at, rounds, prepare(at, scale * SHARE, False)
        self.bin = at.folder / "bin"
        self.bin.mkdir()
        wrapper = self.bin / "gcsfuse"
        wrapper.write_text(WRAPPER.format(gcsfuse=shutil.which("gcsfuse")))
        wrapper.chmod(0o755)

    def ways(self) -> Iterator[list[str]]:
        usual = WAYS["usual"].command
        yield from self._rows(
            {WAYS["mount"].title: (WAYS["mount"].command, ())}
            | {f"the usual way, {many or os.cpu_count()} processes": (f"{usual} {many}", ()) for many in PROCESSES},
            rounds=1,
        )

    def changes(self) -> Iterator[list[str]]:
        tool = WAYS["mount"].command
        yield from self._rows(
            {title: (tool, flags) for title, flags in CHANGES.items()}
            | {f"`--uploads {many}`": (f"{tool} --uploads {many}", ()) for many in UPLOADS},
            self.rounds,
        )

    def _rows(self, runs: Mapping[str, tuple[str, tuple[str, ...]]], rounds: int) -> Iterator[list[str]]:
        found = dict[str, list[Run]]()
        for _ in range(rounds):  # all take turns
            for title, (command, left_out) in runs.items():
                try:
                    found.setdefault(title, []).append(self.run(command, left_out))
                except Failed as error:
                    say(f"{title}: {error}")
        medians = {
            title: Run(*map(statistics.median, zip(*each, strict=True))) for title, each in found.items() if each
        }
        first = next(iter(medians.values()))
        for title, run in medians.items():
            yield cells(title, run, self.given, first)

    def run(self, command: str, left_out: tuple[str, ...] = ()) -> Run:
        program = f"export PATH={self.bin}:$PATH LEFT_OUT='{' '.join(left_out)}'; {command}"
        figures = self.at.run(program, f"{self.at.source}/{self.given.folder}")
        if figures.puts < self.given.objects:
            raise Failed(f"it ended well, but stored {figures.puts:,} of {self.given.objects:,} files")
        counts = Bucket(self.at.server, self.at.server_process).stats()
        run = Run(figures.wall, figures.cpu, figures.memory, *(count / self.given.objects for count in by_kind(counts)))
        say(f"{self.given.objects / run.seconds:,.0f} files/s: {command} {' '.join(left_out)}")
        return run


def by_kind(counts: Counter[str]) -> tuple[int, int, int]:
    """Inserts, look-ups (an object asked for, or a listing), and requests that change or remove an object."""
    inserts = sum(count for kind, count in counts.items() if kind.startswith(("upload", "xml PUT")))
    look_ups = sum(
        count for kind, count in counts.items() if kind in ("json GET object", "json GET objects", "xml GET")
    )
    others = sum(count for kind, count in counts.items() if "PATCH" in kind or "DELETE" in kind)
    return inserts, look_ups, others


def cells(title: str, run: Run, given: Input, first: Run) -> list[str]:
    return [
        title, f"{run.seconds:.1f}", f"{given.objects / run.seconds:,.0f}", f"{first.seconds / run.seconds:.2f}",
        f"{1000 * run.cpu / given.objects:.2f}",
        *(f"{number:.3f}" for number in (run.inserts, run.look_ups, run.others)),
        f"{run.memory / 1e6:,.0f} MB",
    ]  # fmt: skip


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measure(at: Course, scale: float, rounds: int, out: Path | None) -> None:
    """Run all this where a bucket can be mounted; print the tables, and write them to the folder `out`."""
    if missing := lacking(WAYS["mount"]):
        say(f"{PART}: was not run: this machine has no {', '.join(missing)}")
        return
    at.set_delay(DELAY)
    mounting, begin = Mounting(at, scale, rounds), time.monotonic()
    parts: dict[str, Callable[[], Iterator[list[str]]]] = {
        "This tool and the usual way, once each": mounting.ways,
        f"What the flags are worth, medians of {rounds}": mounting.changes,
    }
    sections = [f"### {title}\n\n{table(HEADER, run())}" for title, run in parts.items()]
    head = (
        f"# On a mount\n\n{mounting.given.objects:,} files, {mounting.given.size / 1e6:.0f} MB; a bucket that answers"
        f" after {DELAY * 1000:.0f} ms. Requests are for each file; journal, placeholders and listings are in."
    )
    write_page(out, "mount.md", head, sections, begin)
