"""A run is killed at several moments, and the same command completes it: how many bytes were read twice?

    PYTHONPATH=. python benchmarks/resuming.py [--rate 3e5 5e6] [--moments 5 10 20] > benchmarks/results/resume.md

Bytes are counted by the sources' servers. What an undisturbed run reads is subtracted from what the killed run and the
next one read together; what is left was read twice. The next run has a faster source, to save time.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

from course import Course, course
from inputs import build
from ways import BUCKET, TOOL

DELAY = 0.02  # seconds that the bucket takes for an answer
SCALE = 1.0  # of the input: all of Stanford Dogs
CONNECTIONS = 8
FAST = 2e7  # bytes a second of a connection, for the runs that are not killed

INTRODUCTION = """\
# What a killed run reads twice

Stanford Dogs ({size:.0f} MB), {connections} connections to the source, {delay:.0f} ms a request to the bucket; SIGKILL,
then the same command. Made by benchmarks/resuming.py, {date}. *Twice*: bytes read beyond those of an
undisturbed run, as a share of what the killed run had read, and of all bytes; below zero is what the server had sent
and the run had not yet read. *With the checksum*: the same where a SHA-256 is published, for which what was read and is
not yet in its state is read again.

| bytes/s a connection | killed after | it had read | twice | of that | of all | with the checksum | of that | of all |
|---|---|---|---|---|---|---|---|---|"""


class Runs(NamedTuple):
    """The tool with one input, whose server has a rate."""

    at: Course
    folder: str
    rate: float

    def bytes(self) -> int:
        with urllib.request.urlopen(f"{self.at.source_at(self.rate)}/_served") as answer:
            return int(answer.read())

    def run(self, options: str, until: float | None = None) -> int:
        """Run it, or kill it so many seconds after its first byte; the bytes that it read."""
        begin = self.bytes()
        process = subprocess.Popen(
            ["bash", "-c", f"exec {TOOL} --via api --to gs://{BUCKET} {options}"],
            cwd=self.at.scratch, env=self.at.environment(f"{self.at.source_at(self.rate)}/{self.folder}"),
            start_new_session=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while until and self.bytes() == begin:  # the moments are counted from the first byte on
            time.sleep(0.05)
        try:
            status = process.wait(until)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(1)  # for the server to see it
        else:
            if status or until:
                raise RuntimeError(f"the run ended with status {status}, after less than {until} s")
        return self.bytes() - begin


def lines(at: Course, folder: str, rates: list[float], moments: list[float]) -> Iterator[str]:
    fast = Runs(at, folder, FAST)
    at.clear()
    whole = fast.run("--no-checksum")
    for rate, moment in itertools.product(rates, moments):
        found = []
        for options in ("--no-checksum", ""):
            at.clear()
            read = Runs(at, folder, rate).run(options, moment)
            twice = read + fast.run(options) - whole
            found.append(f"{twice / 1e6:.1f} MB | {twice / read:.1%} | {twice / whole:.1%}")
        yield f"| {rate / 1e6:.1f} MB/s | {moment:g} s | {read / 1e6:.1f} MB | {' | '.join(found)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, nargs="+", default=[3e5, 5e6])
    parser.add_argument("--moments", type=float, nargs="+", default=[5, 10, 20])
    arguments = parser.parse_args()
    with course(None) as at:
        given = build(at.sources, SCALE)
        size = sum(path.stat().st_size for path in (at.sources / given.folder).glob("*.tar")) / 1e6
        date = time.strftime("%-d %B %Y")
        print(INTRODUCTION.format(size=size, connections=CONNECTIONS, delay=DELAY * 1000, date=date))
        at.set_delay(DELAY)
        for line in lines(at, given.folder, arguments.rate, arguments.moments):
            print(line, flush=True)


if __name__ == "__main__":
    main()
