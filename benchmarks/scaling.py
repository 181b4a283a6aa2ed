"""How the tool scales: with the number of members, spans, connections, puts in flight, processes; photos; a second run.

Each part is a table: one thing is changed, all else stays. One run each, for it is the slope that counts.
"""

import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import inputs
from course import Course, free_port, prepare
from measure import Failed, Figures
from render import table, write_page
from ways import BUCKET, HERE, TOOL

API = f"{TOOL} --via api --to gs://{BUCKET}"
SIZED = API.replace("cli.py", "benchmarks/sized.py {}")
PHOTOS = API.replace("-d stanford", "-d austin")
DELAY = 0.05  # seconds of a request, unless a part says otherwise
SMALL = 100  # bytes of a member, where there are many
HEADER = ("", "objects", "seconds", "objects/s", "CPU s per 1,000", "peak memory", "calls per object")


class Point(NamedTuple):
    """One run: of which part, with what, how many objects, and its figures."""

    part: str
    value: str
    objects: int
    figures: Figures


@dataclass
class Bench:
    """Where the parts run, and at which scale."""

    at: Course
    scale: float

    def run(self, part: str, value: str, given: inputs.Input, command: str = API, rate: float = 0) -> Point:
        """One run from an empty bucket."""
        figures = self.at.run(command, f"{self.at.source_at(rate)}/{given.folder}")
        return Point(part, value, given.objects, figures)

    def share(self, share: float) -> inputs.Input:
        return prepare(self.at, self.scale * share, False)

    # ── the parts ────────────────────────────────────────────────────────────────────────────────

    def members(self) -> Iterator[Point]:
        """Members of 100 bytes, into a bucket that answers immediately"""
        self.at.set_delay(0)
        for members in (1_000, 10_000, 100_000, 1_000_000):
            given = inputs.build_small(self.at.sources, round(members * self.scale), SMALL)
            yield self.run("members", f"{given.objects:,} members", given)

    def spans(self) -> Iterator[Point]:
        """Size of a span, 50 ms a request"""
        for size in (1, 2, 4, 8, 16, 32):
            yield self.run("spans", f"{size} MiB", self.share(0.5), SIZED.format(size))

    def connections(self) -> Iterator[Point]:
        """Connections to a source that gives each 5 MB/s, 50 ms a request"""
        for number in (1, 2, 4, 8, 16):
            yield self.run("connections", f"{number}", self.share(0.1), f"{API} --connections {number}", 5e6)

    def uploads(self) -> Iterator[Point]:
        """Puts in flight, 50 ms a request"""
        for number in (16, 64, 128, 256, 512):
            yield self.run("uploads", f"{number}", self.share(0.25), f"{API} --uploads {number}")

    def workers(self) -> Iterator[Point]:
        """Processes (--workers), 50 ms a request"""
        yield self.run("workers", "this process", self.share(0.5))
        for number in (1, 2, 4):
            yield self.run("workers", f"{number}", self.share(0.5), f"{API} --workers {number}")

    def photos(self) -> Iterator[Point]:
        """Photos from a server that takes 50 ms for each; annotations are counted as objects too"""
        port, count = free_port(), round(10_000 * self.scale)
        self.at.start("photo_server.py", port, "--photos", str(count), "--delay-ms", "50")
        for delay in (0, DELAY):
            self.at.set_delay(delay)
            figures = self.at.run(PHOTOS, f"http://127.0.0.1:{port}")
            yield Point("photos", f"{count:,} photos, bucket {delay * 1000:.0f} ms", 2 * count, figures)

    def again(self) -> Iterator[Point]:
        """The same command again on a complete dataset, 50 ms a request; calls are in all"""
        given = self.share(1)
        yield self.run("again", "first run", given)
        again = self.at.run(API, f"{self.at.source}/{given.folder}", keep=True)
        yield Point("again", f"second run: {again.class_a + again.class_b} calls", given.objects, again)


PARTS = ("members", "spans", "connections", "uploads", "workers", "photos", "again", "start")


def measure(at: Course, scale: float, only: Collection[str], out: Path | None) -> None:
    """Run these parts; print their tables, and write them to the folder `out`."""
    bench, begin = Bench(at, scale), time.monotonic()
    points, sections = list[Point](), list[str]()
    for part in PARTS:
        if part in only and part != "start":
            run: Callable[[], Iterator[Point]] = getattr(bench, part)
            at.set_delay(DELAY)
            found = list(escaped(part, run()))
            points += found
            sections.append(f"### {run.__doc__}\n\n{table(HEADER, map(cells, found))}")
    if "start" in only:
        sections.append(start(at, bench))
    write_page(out, "scaling.md", "# How it scales", sections, begin)
    if out:
        write_csv(out / "scaling.csv", points)


def escaped(part: str, points: Iterator[Point]) -> Iterator[Point]:
    """The points, each printed as soon as it is known; a run that fails is the part's last."""
    try:
        for point in points:
            print(f"{part}: {' | '.join(cells(point))}", file=sys.stderr, flush=True)
            yield point
    except Failed as error:
        print(f"{part}: failed, and is not gone on with: {error}", file=sys.stderr, flush=True)


def cells(point: Point) -> list[str]:
    it, objects = point.figures, max(point.objects, 1)
    return [
        point.value, f"{objects:,}", f"{it.wall:.1f}", f"{objects / it.wall:,.0f}", f"{1000 * it.cpu / objects:.2f}",
        f"{it.memory / 1e6:,.0f} MB", f"{(it.class_a + it.class_b) / objects:.3f}",
    ]  # fmt: skip


def write_csv(path: Path, points: list[Point]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("part", "value", "objects", *Figures._fields))
        for point in points:
            figures = (f"{value:.6g}" if isinstance(value, float) else value for value in point.figures)
            writer.writerow((point.part, point.value, point.objects, *figures))


# ── how soon it is there ─────────────────────────────────────────────────────────────────────────


def start(at: Course, bench: Bench) -> str:
    """The time until --help is printed, and until a real run says its first word."""
    given = bench.share(0.01)
    tool = f"{sys.executable} {HERE.parent}/cli.py"
    run = f"{tool} -d stanford --via api --to gs://{BUCKET} --mirror {at.source}/{given.folder}"
    help_, first = (statistics.median(first_word(at, command) for _ in range(5)) for command in (f"{tool} --help", run))
    return f"### How soon it is there\n\n`--help` in {help_:.2f} s; the first line of a real run after {first:.2f} s.\n"


def first_word(at: Course, command: str) -> float:
    """Seconds until a command says anything at all; it is then let go on to its end."""
    at.clear()
    begin = time.monotonic()
    process = subprocess.Popen(
        command.split(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=at.environment(at.source)
    )
    assert process.stdout
    process.stdout.readline()
    took = time.monotonic() - begin
    process.communicate()
    return took
