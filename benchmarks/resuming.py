"""A run is killed at several moments, and the same command completes it: how many bytes were read twice?

    PYTHONPATH=. python benchmarks/resuming.py [--rate 3e5 5e6] [--moments 5 10 15] > benchmarks/results/resume.md

Bytes are counted by the source's server. What an undisturbed run reads is subtracted from what the killed run and the
next one read together; what is left was read twice, and is held against what the killed run had read.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

from course import Course, course
from inputs import Input, build
from ways import BUCKET, TOOL

DELAY = 0.02  # seconds that the bucket takes for an answer
SECONDS = 20  # that an undisturbed run takes, about
CONNECTIONS = 8
LARGEST = 1.0  # of the scale of the input

INTRODUCTION = """\
# What a killed run reads twice

{connections} connections to the source, {delay:.0f} ms a request to the bucket; SIGKILL, then the same command. Made by
benchmarks/resuming.py, {date}. *Twice*: bytes read beyond those of an
undisturbed run, by what the killed run had read; below zero is what the server had sent and the run had not yet read.
*With the checksum*: the same where a SHA-256 is published, for which the pieces that were being read are read again.

| bytes/s a connection | killed after | it had read | twice | share | with the checksum |
|---|---|---|---|---|---|"""


class Runs(NamedTuple):
    """The tool with one input at one rate."""

    at: Course
    source: str
    served: str

    def bytes(self) -> int:
        with urllib.request.urlopen(self.served) as answer:
            return int(answer.read())

    def run(self, options: str, until: float | None = None) -> int:
        """Run it, or kill it so many seconds after its first byte; the bytes that it read."""
        begin = self.bytes()
        process = subprocess.Popen(
            ["bash", "-c", f"exec {TOOL} --via api --to gs://{BUCKET} {options}"],
            cwd=self.at.scratch, env=self.at.environment(self.source), start_new_session=True,
            stdout=subprocess.DEVNULL,
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

    def undisturbed(self) -> int:
        self.at.clear()
        return self.run("--no-checksum")

    def twice(self, moment: float, options: str, whole: int) -> tuple[int, int]:
        """What the killed run had read, and how much of it was read again."""
        self.at.clear()
        first = self.run(options, moment)
        return first, first + self.run(options) - whole


def lines(at: Course, rate: float, moments: list[float]) -> Iterator[str]:
    given = inputs_for(at, rate)
    url = at.source_at(rate)
    runs = Runs(at, f"{url}/{given.folder}", f"{url}/_served")
    whole = runs.undisturbed()
    for moment in moments:
        read, twice = runs.twice(moment, "--no-checksum", whole)
        compared_read, compared_twice = runs.twice(moment, "", whole)
        run, found = f"{rate / 1e6:.1f} MB/s | {moment:g} s", f"{read / 1e6:.1f} MB | {twice / 1e6:.2f} MB"
        yield f"| {run} | {found} | {twice / read:.1%} | {compared_twice / compared_read:.0%} |"


def inputs_for(at: Course, rate: float) -> Input:
    """As much as takes about SECONDS."""
    scale = min(LARGEST, round(SECONDS * rate * CONNECTIONS / 0.8e9, 2))
    return build(at.sources, scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, nargs="+", default=[3e5, 5e6])
    parser.add_argument("--moments", type=float, nargs="+", default=[5, 10, 15])
    arguments = parser.parse_args()
    date = time.strftime("%-d %B %Y")
    print(INTRODUCTION.format(connections=CONNECTIONS, delay=DELAY * 1000, date=date))
    with course(None) as at:
        at.clear()
        at.set_delay(DELAY)
        for rate in arguments.rate:
            for line in lines(at, rate, arguments.moments):
                print(line, flush=True)


if __name__ == "__main__":
    main()
