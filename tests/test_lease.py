"""Two runs on one dataset: one writes, the other says who does; a run that is gone or silent is taken over."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from support.archives import some_members, tar_of
from support.fault_harness import Run, Site
from support.source_server import Plan

PLACES = pytest.mark.parametrize("place", ["api", "folder"])
OLD = tar_of([(f"Images/{name}", data) for name, data in some_members(200, 100_000)])
NEW = tar_of([(f"Images/{name}", data[::-1]) for name, data in some_members(150, 100_000)])


def offer(site: Site, data: bytes, etag: str, drip: float) -> None:
    site.source.files["/images.tar"] = data
    site.source.plan("/images.tar", Plan(etag=etag, drip=drip))
    site.publish()


def wait_for_objects(site: Site, count: int) -> None:
    deadline = time.monotonic() + 60
    while sum(name.startswith("stanford/Images/") for name in site.stored()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_a_pause(site: Site) -> None:
    """Wait until no put is under way: one that is cannot be taken back."""
    count = -1
    while count != (count := len(site.stored())):
        time.sleep(0.5)


@PLACES
@pytest.mark.parametrize("is_other", [False, True], ids=["same version", "other version"])
def test_of_two_runs_one_writes_and_the_other_says_who(place: str, is_other: bool) -> None:
    with Site(place) as site:
        offer(site, OLD, '"1"', drip=0.04)  # so that the first renews its lease while the other waits
        one = site.start()
        wait_for_objects(site, 20)
        if is_other:  # to the first it stays what it was
            other_site = site.source.files | {"/images.tar": NEW}
            with Site(place) as elsewhere:
                elsewhere.source.files = other_site
                elsewhere.publish()
                other = site.run("--mirror", elsewhere.source.url)
        else:
            other = site.run()
        summary, said = one.communicate()
        first = Run(one.returncode, said, summary, 0)
        assert first.status == 0, first.said
        expected = rf"_extraction/stanford/lock: process {one.pid} on {socket.gethostname()} writes here since 2"
        assert other.status == 1 and re.search(expected, other.said), other.said
        assert [*site.wrong(), *site.lacking()] == []


@PLACES
def test_what_a_killed_run_held_is_taken_over_at_once(place: str) -> None:
    with Site(place) as site:
        offer(site, OLD, '"1"', drip=0.016)
        process = site.start()
        wait_for_objects(site, 20)
        process.kill()
        process.wait()
        site.heal()
        run = site.run()
        assert run.status == 0 and [*site.wrong(), *site.lacking()] == [], run.said
        assert place == "folder" or "taken over, for its run has ended" in run.said


def test_a_run_that_was_paused_does_not_overwrite_what_another_completed() -> None:
    with Site("api") as site:
        offer(site, OLD, '"1"', drip=0.08)  # each connection brings a few members every 2.5 s
        paused = site.start()
        wait_for_objects(site, 20)
        wait_for_a_pause(site)
        os.kill(paused.pid, signal.SIGSTOP)
        offer(site, NEW, '"2"', drip=0)
        run = site.run()
        assert run.status == 0 and [*site.wrong(), *site.lacking()] == [], run.said
        os.kill(paused.pid, signal.SIGCONT)
        _, said = paused.communicate(timeout=120)
        assert paused.returncode in (1, 3) and "complete:" not in said, said
        assert [*site.wrong()] == []
        assert site.run().status == 0 and [*site.lacking()] == []  # an entry that was under way goes with the next run


def test_a_run_whose_lease_is_removed_ends_and_another_may_begin() -> None:
    """As docs/errors.md says for a run that cannot be reached."""
    with Site("api") as site:
        offer(site, OLD, '"1"', drip=0.08)
        one = site.start()
        wait_for_objects(site, 20)
        lease = quote("_extraction/stanford/lock", safe="")
        assert requests.delete(f"{site.front.url}/storage/v1/b/{site.bucket}/o/{lease}", timeout=10).ok
        offer(site, OLD, '"1"', drip=0)
        run = site.run()
        _, said = one.communicate(timeout=120)
        assert run.status == 0 and [*site.wrong()] == [], run.said
        assert one.returncode in (1, 3) and "complete:" not in said, said
        assert site.run().status == 0 and [*site.wrong(), *site.lacking()] == []


def test_a_lock_file_of_a_run_that_has_ended_is_no_lock(tmp_path: Path) -> None:
    with Site("folder") as site:
        (lock := Path(site.to, "_extraction/stanford/lock")).parent.mkdir(parents=True)
        lock.write_text(json.dumps({"pid": "1", "host": "\x1b[31mevil\n", "since": "ever"}))
        assert site.run().status == 0 and not lock.exists()


def test_a_lease_whose_answers_are_lost_is_still_held() -> None:
    with Site("api") as site:
        site.front.create_bucket(site.bucket)
        site.front.commit_then_fail("json.upload", times=1, name="_extraction/stanford/lock")
        site.front.fail("json.upload", 503, times=2, name="_extraction/stanford/lock", after=1)
        run = site.run()
        assert run.status == 0 and [*site.wrong(), *site.lacking()] == [], run.said


@pytest.mark.parametrize("status", [400, 403, 412])
def test_a_lease_that_cannot_be_taken_is_one_line(status: int) -> None:
    with Site("api") as site:
        site.front.create_bucket(site.bucket)
        site.front.fail("json.upload", status, times=1000, name="_extraction/stanford/lock")
        run = site.run()
        assert "Traceback" not in run.said and run.status == (0 if status == 403 else 1), run.said
        assert "lock: no lease can be" in run.said
