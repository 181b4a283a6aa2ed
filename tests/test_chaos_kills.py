"""Runs that are killed or interrupted at random moments: the same command then completes, and leaves nothing over.

Twice with each signal here, into a bucket and into a directory; `make chaos` does it a hundred times and more.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import pytest

from support.fault_harness import LONG, METADATA_PREFIX, ROUNDS, Run, Site, Trial, ends_well, note, random_for
from support.faults import SIGNALS, WAYS
from support.program import children
from support.source_server import Plan

DATA = ("-d", "stanford", "-d", "tsinghua", "-d", "austin")
AT_ONCE = 3  # most of their time is waiting
DELAY = 0.02  # seconds that the bucket takes for an answer
STARTS = ((1, 0), (2, 0), (3, 0), (3, 0.2), (3, 0.5), (3, 1))  # seconds after so many processes of a run are there
IN_TIME = 10  # seconds for an interrupted run to end beside others; alone it has two (test_cli_interrupts.py)
SAID = "interrupted; what is stored is kept: run the same command again to continue"
TITLE = "stanford: Stanford Dogs: 20,580 photos of 120 breeds\n"  # is said when all processes are there


@dataclass(frozen=True)
class Length:
    """What an undisturbed run takes."""

    seconds: float
    requests: int  # to the bucket, or to the source of a run into a directory


@dataclass(frozen=True)
class Moment:
    """After which share of a run's time, or of its requests, it is hit."""

    of: str  # "time" or "requests"
    share: float


def moments(rng: random.Random) -> Iterator[Moment]:
    while True:
        yield from (Moment("time", rng.random()), Moment("requests", rng.random()))


class Victim(Site):
    """A run that will be hit by a signal."""

    def __init__(self, way: str) -> None:
        self.way = way
        super().__init__(way.partition(",")[0], DATA)

    def heal(self) -> None:
        super().heal()
        self.options = ["--workers", "2"] if "processes" in self.way else []
        if self.place == "api":
            self.front.delay = DELAY

    def measure(self) -> Length:
        """Run it undisturbed."""
        run = self.run()
        assert run.status == 0, run.said
        return Length(run.seconds, self.front.counts.total() if self.place == "api" else len(self.source.requests))

    def hit(self, number: signal.Signals, moment: Moment, length: Length) -> Run | None:
        """Run it and send it the signal at the moment; how it ended, in which seconds after, None if it had before."""
        process = self.start()
        try:
            self._wait(process, moment, length)
            if process.poll() is not None:
                return None
            begin = time.monotonic()
            # Ctrl-C goes to all processes of a terminal's group, docker and Kubernetes send theirs to the first alone.
            (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
            summary, said = process.communicate(
                timeout=60
            )  # which its own processes have a hand in: they are gone, too
            return Run(process.returncode, said, summary, time.monotonic() - begin)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def _wait(self, process: subprocess.Popen[str], moment: Moment, length: Length) -> None:
        if moment.of == "time":
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(length.seconds * moment.share)
            return
        came = threading.Event()
        when = self.front.when if self.place == "api" else self.source.when
        when(max(round(length.requests * moment.share), 1), came.set)
        while not came.wait(0.002) and process.poll() is None:
            pass

    def stamps(self) -> dict[str, object]:
        """When each file was written; of objects, nothing."""
        if self.place == "api":
            return {}
        files = (path for path in Path(self.to).rglob("*") if path.is_file() and not path.name.startswith("."))
        return {str(path.relative_to(self.to)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def ended_well(run: Run, number: signal.Signals) -> Iterator[str]:
    """What is wrong with how the run ended."""
    if run.status == 0:  # while Python itself begins it may pass over a Ctrl-C, and in the end all is done
        return
    if number == signal.SIGINT and run.said.startswith("Fatal Python error: init_"):  # or end by it, before cli.py
        return
    if run.seconds > IN_TIME:
        yield f"it took {run.seconds:.1f} s to end"
    if run.status == -number:  # by the system: before cli.py has its handlers
        if number != signal.SIGKILL and run.said.splitlines()[-1:] not in ([], ["KeyboardInterrupt"]):
            yield f"status {run.status}: {run.said}"
    elif run.status != 128 + number or SAID not in run.said or "error: " in run.said:
        yield f"status {run.status}: {run.said}"
    elif not run.said.endswith(f"{SAID}\n") or "Traceback" in run.said:
        yield f"it said more: {run.said}"


def hits(way: str, number: signal.Signals, length: Length) -> Iterator[Callable[[], Trial | None]]:
    """Trial after trial, at random moments."""
    for index, moment in enumerate(moments(random_for(way, number.name))):
        yield lambda moment=moment, index=index: try_out(way, number, moment, length, index)  # type: ignore[misc]


def try_out(way: str, number: signal.Signals, moment: Moment, length: Length, index: int) -> Trial | None:
    """Hit a run at a moment, and run it again; None if it had ended before."""
    trial = Trial(f"{number.name} at a random moment", way, index)
    with Victim(way) as site:
        run = site.hit(number, moment, length)
        if run is None:
            return None
        there, stamps = site.stored(), site.stamps()
        trial.status, trial.line, trial.seconds, trial.said = run.status, run.last, round(run.seconds, 2), run.said
        trial.moment = f"{moment.share:.3f} of the {moment.of}: {stage(there)}"
        trial.wrong += [
            *ended_well(run, number),
            *ends_well(site, run, spoils=False),
            *twice(site, there, stamps),
        ]
    note(trial)
    return trial


def twice(site: Victim, there: dict[str, tuple[int, int]], stamps: dict[str, object]) -> Iterator[str]:
    """What was there when the run was hit, and was written again all the same.

    The books are, and so is a large member of a unit that was not done: what it is shows only when it was read.
    """
    now = site.stamps()
    for name in there:
        is_again = name in site.front.puts if site.place == "api" else stamps.get(name) != now.get(name)
        if is_again and not name.startswith(METADATA_PREFIX) and not name.endswith(("/", "/large.bin")):
            yield f"{name} was stored before, and was stored again"


def stage(there: dict[str, tuple[int, int]]) -> str:
    """How far it was."""
    journals = sum("/journal/" in name and not name.endswith("/") for name in there)
    files = sum(not name.startswith(METADATA_PREFIX) and not name.endswith("/") for name in there)
    ends = [name.removeprefix(METADATA_PREFIX) for name in there if name.endswith(("manifest.csv", "card.json"))]
    return f"{files} objects, {journals} journal entries, {', '.join(sorted(ends)) or 'no manifest'}"


def length_of(way: str) -> Length:
    with Victim(way) as site:
        return site.measure()


def enough(way: str, number: signal.Signals, length: Length) -> list[Trial]:
    """As many trials as are asked for, of those that hit the run before it had ended."""
    trials = filter(None, (hit() for hit in hits(way, number, length)))
    return list(islice(trials, ROUNDS * WAYS[way] if LONG else max(WAYS[way] // 5, 1)))


@pytest.mark.parametrize("way", WAYS)
def test_the_same_command_completes_it(way: str) -> None:
    length = length_of(way)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        trials = chain(*pool.map(lambda number: enough(way, number, length), SIGNALS))
    assert [trial for trial in trials if trial.wrong] == []


def test_ctrl_c_while_its_processes_start_is_one_line() -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = list(pool.map(lambda start: interrupted_at(*start), STARTS))
    assert [(status, said.removeprefix(TITLE)) for status, said in ends] == [(130, f"{SAID}\n")] * len(STARTS)


def interrupted_at(count: int, seconds: float) -> tuple[int, str]:
    """Send Ctrl-C to all processes of a run; the status, and what they said until the last of them had ended."""
    with Victim("folder") as site:
        site.source.plan("/images.tar", Plan(stall=60))  # it is not done before
        process = site.start("--workers", "2")
        assert process.stderr and process.stderr.readline().startswith("extracting ")
        while len(children(process.pid)) < count:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        return process.wait(60), process.stderr.read()
