"""A dask cluster of real processes, of which some are killed while they work: what the log says, and what goes on.

Each once here; `make chaos` makes ROUNDS of them.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, Self

import pytest
from distributed import Client
from distributed.chaos import KillWorker

from support.fault_harness import ROUNDS, Fault, Run, Site, Trial, ends_well, judged, note, random_for
from support.program import ROOT, clean_environment, wait_for
from support.source_server import Plan

WORKERS = 3
LIFE = 12  # seconds that a worker lives on average, of those that die all the time
MODES: tuple[Literal["sys.exit", "segfault", "graceful"], ...] = ("sys.exit", "segfault", "graceful")
LOST = "(?m)^error: the dask cluster was lost"
WorkerContext = subprocess.Popen[bytes]


class ClusterSite(Site):
    """A site whose runs hand their work to a scheduler and its workers, each a process of its own."""

    address = ""

    def __enter__(self) -> Self:
        super().__enter__()
        self.processes: list[WorkerContext] = []
        self._stack.callback(self.end_cluster)
        self.begin_cluster()
        return self

    def begin_cluster(self) -> None:
        """Start a scheduler and its workers."""
        file = self.home / "scheduler.json"
        file.unlink(missing_ok=True)
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
        wait_for(file)
        self.address = str(json.loads(file.read_text())["address"])
        self.workers = [self.start_worker() for _ in range(WORKERS)]
        with Client(self.address) as client:
            client.wait_for_workers(WORKERS, timeout=60)
        self.heal()

    def start_worker(self) -> WorkerContext:
        return self._start("worker", self.address, "--nthreads", "2", "--no-nanny")

    def _start(self, what: str, *options: str) -> WorkerContext:
        arguments = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *options]
        environment = clean_environment(self.home, self.environment)
        self.processes.append(subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL))
        return self.processes[-1]

    def end_cluster(self) -> None:
        """Kill all of it: there is nothing that it should save."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()

    def heal(self) -> None:
        super().heal()
        self.options = ["--scheduler", self.address]

    def wait(self, process: subprocess.Popen[str], count: int) -> None:
        """Wait until so many photos are stored."""
        while sum(name.startswith("stanford/Images/") for name in list(self.front.puts)) < count:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)

    def lacking(self) -> Iterator[str]:
        """A worker may still be at a task of a driver that was killed, and write its journal entry after the next run
        is complete. The run after that takes it away.
        """
        for _ in range(3):
            if any("/journal/" in name for name in self.stored()):
                time.sleep(1)
                self.run()
        yield from super().lacking()

    def end(self, process: subprocess.Popen[str]) -> Run:
        begin = time.monotonic()
        summary, said = process.communicate(timeout=300)
        return Run(process.returncode, said, summary, time.monotonic() - begin)


class Kill(NamedTuple):
    """Who is killed, and how the run must end."""

    who: Callable[[ClusterSite, subprocess.Popen[str]], subprocess.Popen[str] | WorkerContext]
    status: int
    says: str


KILLS = {
    "a dask worker killed": Kill(lambda site, _: site.workers[0], 0, "complete"),
    "the dask scheduler killed": Kill(lambda site, _: site.scheduler, 1, LOST),
    "the driver of a dask cluster killed": Kill(lambda _, driver: driver, -signal.SIGKILL, ""),
}


def no_fault(site: Site, rng: random.Random) -> None:
    """It comes later."""


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("name", KILLS)
def test_killed_at_a_random_moment(name: str, number: int) -> None:
    kill, count = KILLS[name], random_for(name, number).randrange(80)
    trial = Trial(name, "api", number, moment=f"at {count} photos of 91")
    with ClusterSite("api") as site:
        site.source.plan("/images.tar", Plan(drip=0.0012))
        process = site.start()
        site.wait(process, count)
        kill.who(site, process).kill()
        run = site.end(process)
        if site.scheduler.poll() is not None:
            site.end_cluster()
            site.begin_cluster()
        check(trial, site, run, Fault(name, no_fault, kill.status, kill.says))


def check(trial: Trial, site: ClusterSite, run: Run, fault: Fault) -> None:
    trial.status, trial.line, trial.seconds, trial.said = run.status, run.line, round(run.seconds, 1), run.said
    trial.wrong += [*judged(run, fault), *ends_well(site, run, spoils=False)]
    errors = [line for line in run.said.splitlines() if line.startswith("error: ")]
    trial.wrong += [f"{len(errors)} errors, expected one: {run.said}"] if run.status > 0 and len(errors) != 1 else []
    note(trial)
    assert trial.wrong == []


@pytest.mark.parametrize("number", range(ROUNDS))
def test_workers_that_die_all_the_time(number: int) -> None:
    mode = MODES[number % len(MODES)]
    says = f"{LOST}|complete|all workers that worked on it ended"
    fault = Fault(f"distributed.chaos.KillWorker ({mode})", no_fault, (0, 1), says)
    trial = Trial(fault.name, "api", number)
    with ClusterSite("api") as site:
        site.source.plan("/images.tar", Plan(drip=0.0012))
        with Client(site.address) as client:
            client.register_plugin(KillWorker(LIFE, mode))
        with others_in_place_of_the_dead(site):
            run = site.run()
        trial.moment = f"{len(site.processes) - 1 - WORKERS} workers died"
        site.end_cluster()
        site.begin_cluster()
        check(trial, site, run, fault)


@contextmanager
def others_in_place_of_the_dead(site: ClusterSite) -> Iterator[None]:
    """Start a worker for each that ends, as Kubernetes and docker --restart do."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            site.workers = [site.start_worker() if each.poll() is not None else each for each in site.workers]

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
