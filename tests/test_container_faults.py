"""Faults that take GCSFuse or a Docker engine to make: a mount that dies, memory that is not enough.

.ci/containers brings what they need; docs/reliability.md has what came of them.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from pathlib import Path

import pytest

import inputs
from support.containers import IMAGE, container, docker, ended, members
from support.fake_gcs import GcsFront
from support.fault_harness import Fault, Run, Site, Trial, ends_well, judged, note, random_for
from support.source_server import SourceServer

pytestmark = pytest.mark.container

ROUNDS = int(os.environ.get("ROUNDS", "1"))
MEMORY = "512m"
TOO_LITTLE = "120m"  # enough to begin with, not for the pieces of archives that are under way
SCALE = 0.05  # of Stanford's archives


def no_fault(site: Site, rng: random.Random) -> None:
    """It comes later."""


def check(trial: Trial, site: Site, run: Run, fault: Fault) -> None:
    trial.status, trial.line, trial.seconds, trial.said = run.status, run.line, round(run.seconds, 1), run.said
    trial.wrong += [*judged(run, fault), *ends_well(site, run, spoils=False)]
    note(trial)
    assert trial.wrong == []


# ── GCSFuse ──────────────────────────────────────────────────────────────────────────────────────


class MountSite(Site):
    """A site whose runs write through a mount."""

    def heal(self) -> None:
        super().heal()
        self.environment |= {"SPOTTED_VIA": "mount", "GCS_BUCKET_ROOT": str(self.home / "mounts")}


def gcsfuse_of(pid: int) -> int:
    """The GCSFuse that a process has started."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            text = status.read_text()
            if "Name:\tgcsfuse\n" in text and f"PPid:\t{pid}\n" in text:
                return int(status.parent.name)
    raise AssertionError(f"process {pid} has no gcsfuse")


@pytest.mark.parametrize("number", range(ROUNDS))
def test_gcsfuse_is_killed(number: int) -> None:
    count = random_for("gcsfuse", number).randrange(40, 400)
    trial = Trial("GCSFuse killed", "mount", number, moment=f"at request {count} to the bucket")
    with MountSite("api") as site:
        reached = threading.Event()
        site.front.when(count, reached.set)
        process = site.start()
        while not reached.wait(0.01):
            assert process.poll() is None, process.communicate()
        os.kill(gcsfuse_of(process.pid), signal.SIGKILL)
        summary, said = process.communicate(timeout=120)
        run = Run(process.returncode, said, summary, 0)
        check(trial, site, run, Fault(trial.fault, no_fault, 1, "(?m)^error: "))


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


def test_memory_that_is_enough_and_memory_that_is_not(front: GcsFront, mirror: SourceServer, tmp_path: Path) -> None:
    folder = tmp_path / inputs.build(tmp_path, SCALE).folder
    mirror.files.update({f"/{path.name}": path.read_bytes() for path in folder.iterdir()})
    front.delay = 0.2  # what is on its way waits in memory
    environment = ["--env", f"STORAGE_EMULATOR_HOST={front.url}", "--env", f"SPOTTED_MIRROR={mirror.url}"]
    command = [IMAGE, "-d", "stanford", "--via", "api", "--to", "gs://test-memory"]

    def limited(memory: str) -> list[str]:
        return ["--network", "host", "--memory", memory, "--memory-swap", memory, *environment, *command]

    with container(*limited(TOO_LITTLE)) as name:
        status, said = ended(name)
        killed = docker("inspect", "--format", "{{.State.OOMKilled}}", name).stdout.strip()
    assert (status, killed) == (137, "true"), said
    with container(*limited(MEMORY)) as name:
        status, said = ended(name)
    assert status == 0, said
    assert len([name for name in members(front, "test-memory") if not name.endswith("/")]) == 2 * 1029 + 3
