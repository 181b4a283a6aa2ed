"""What the machine does to a run, and a second run beside it: a full or read-only disk, limits, two concurrent runs.

Each once here; `make chaos` makes ROUNDS of them. What needs GCSFuse or Docker is in
test_container_faults.py.
"""

from __future__ import annotations

import random
import shlex
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from support.fault_harness import ROUNDS, Fault, Run, Site, Trial, ends_well, judged, note, random_for
from support.program import clean_environment, command
from support.source_server import Plan

MIX = ("-d", "stanford", "-d", "tsinghua", "-d", "austin")


def no_fault(site: Site, rng: random.Random) -> None:
    """It comes with the shell in which the run is."""


class Shell(Site):
    """A site whose destination is a small file system of its own, which only a script in its name space sees."""

    def __init__(self, before: str) -> None:
        super().__init__("folder")
        self.before = before  # a script that makes the destination, $OUT, and what may happen to it meanwhile

    def both(self, between: str) -> tuple[Run, Run]:
        """Run with the fault, and again after `between`; what is stored is then copied to where a test can see it."""
        run = shlex.join(command(*self.data, "--to", "$OUT")).replace("'$OUT'", "$OUT")
        script = f"""
            {self.before}
            {run} 2> first; echo $? > status; (cd $OUT && find . -name '.spotted-part-*') > parts
            {between}
            {run} 2> second; echo $? >> status; cp -a $OUT result
        """
        environment = clean_environment(self.home, {**self.environment, "OUT": f"{self.home}/out"})
        subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
            cwd=self.home, env=environment, stdout=subprocess.DEVNULL, timeout=300, check=True,
        )  # fmt: skip
        first, second = (self.home / "status").read_text().split()
        self.to = str(self.home / "result")
        return (
            Run(int(first), (self.home / "first").read_text(), "", 0),
            Run(int(second), (self.home / "second").read_text(), "", 0),
        )


TMPFS = "mkdir $OUT; mount -t tmpfs -o size={size}m tmpfs $OUT"
# `tmpfs $OUT`, not `$OUT` alone, with which mount repeats the options that it finds: a plain user's number
# is not known in there.
# A file system cannot become read-only while a file is open for writing: it is tried until it can.
SOON = """(
    until [ -d $OUT/stanford/Images ]; do sleep 0.01; done
    until mount -o remount,ro tmpfs $OUT; do :; done
) 2>/dev/null &"""


class Disk(NamedTuple):
    """What makes the destination so that it takes no more, and what makes it well again."""

    before: Callable[[random.Random], str]
    between: str
    status: int
    says: str


DISKS = {
    "a full disk at the destination": Disk(
        lambda rng: TMPFS.format(size=rng.randint(1, 22)),
        "mount -o remount,size=100m tmpfs $OUT",
        1,
        r"(?m)^error: .*/out/.*: cannot be written: No space left on device$",
    ),
    "a destination that becomes read-only": Disk(
        lambda _: f"{TMPFS.format(size=100)}; {SOON}",
        "mount -o remount,rw tmpfs $OUT",
        1,
        r"(?m)^error: .*/out/.*: cannot be written: Read-only file system$",
    ),
    "a destination that is read-only": Disk(
        lambda _: f"{TMPFS.format(size=100)}; mount -o remount,ro tmpfs $OUT",
        "mount -o remount,rw tmpfs $OUT",
        1,
        r"(?m)^error: .*/out: expected a directory that can be written, got: .*Read-only file system$",
    ),
    "a limit to the size of a file (ulimit -f)": Disk(
        lambda rng: f"mkdir $OUT; ulimit -S -f {rng.randint(1024, 16_000)}",
        "ulimit -S -f unlimited",
        3,
        "stanford: missing stanford/Images/large.bin: File too large",
    ),
}


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("name", DISKS)
def test_a_disk_that_takes_no_more(name: str, number: int) -> None:
    disk, trial = DISKS[name], Trial(name, "folder", number)
    with Shell(disk.before(random_for(name, number))) as site:
        site.source.plan("/images.tar", Plan(drip=0.0004))
        first, second = site.both(disk.between)
        trial.status, trial.line, trial.said = first.status, first.line, first.said
        trial.wrong += judged(first, Fault(name, no_fault, disk.status, disk.says))
        trial.wrong += [f"{part} is left" for part in (site.home / "parts").read_text().split()]
        trial.wrong += [f"the same command again: {second}"] if second.status else []
        trial.wrong += [*site.wrong(), *site.lacking()]
    note(trial)
    assert trial.wrong == []


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("place", ["api", "folder"])
def test_two_runs_at_once(place: str, number: int) -> None:
    rng, trial = random_for("two", place, number), Trial("two concurrent runs", place, number)
    with Site(place, MIX) as site:
        one = site.start()
        time.sleep(apart := rng.uniform(0, 3))
        other = site.start()
        runs = [Run(each.returncode, said[1], said[0], 0) for each in (one, other) if (said := each.communicate())]
        trial.moment, trial.status = f"{apart:.1f} s apart", max(run.status for run in runs)
        trial.line, trial.said = runs[0].line, "\n\n".join(run.said for run in runs)
        fault = Fault(trial.fault, no_fault, (0, 1), "complete|process [0-9]+ on .* writes here since ")
        trial.wrong += [each for run in runs for each in judged(run, fault)]
        trial.wrong += [] if any(run.status == 0 for run in runs) else ["neither is complete"]
        trial.wrong += ends_well(site, runs[0], spoils=False)
    note(trial)
    assert trial.wrong == []


CLOCK = """
import random, time
real, rng, jumps = time.time, random.Random({seed}), [0.0, 0.0]
def jumping():
    if real() > jumps[1]:  # several times a second: forwards by up to ten years, or back by up to two seconds
        jumps[:] = jumps[0] + rng.choice((-2, -0.5, 3600, 86_400, 315_360_000)), real() + 0.2
    return real() + jumps[0]
time.time = jumping
"""


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("place", ["api", "folder"])
def test_a_wall_clock_that_jumps(place: str, number: int) -> None:
    """In the program and its libraries alone: a machine's own clock is the other tests' too."""
    trial = Trial("the wall clock jumps", place, number)
    with Site(place, MIX) as site:
        (site.home / "sitecustomize.py").write_text(CLOCK.format(seed=random_for("clock", place, number).random()))
        site.environment["PYTHONPATH"] = str(site.home)
        site.source.plan("/images.tar", Plan(drip=0.0004))
        run = site.run()
        trial.status, trial.line, trial.said = run.status, run.line, run.said
        trial.wrong += [*judged(run, Fault("", no_fault, 0, "complete")), *ends_well(site, run, spoils=False)]
    note(trial)
    assert trial.wrong == []
