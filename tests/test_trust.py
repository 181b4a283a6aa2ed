"""A re-run trusts only what an intact entry or manifest says of these bytes, and leaves nothing of older versions."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import requests

from support.archives import some_members, tar_of, zip_of
from support.fault_harness import Site, truth
from support.source_server import Plan

AUSTIN, STANFORD, TSINGHUA = ("-d", "austin"), ("-d", "stanford"), ("-d", "tsinghua")
PLACES = pytest.mark.parametrize("place", ["api", "folder"])


def replace(site: Site, name: str, data: bytes) -> None:
    """Put other bytes in an object's place, as another program would."""
    if site.place == "folder":
        Path(site.to, name).write_bytes(data)
    else:
        requests.put(f"{site.front.url}/{site.bucket}/{name}", data, timeout=10).raise_for_status()


def remove(site: Site, name: str) -> None:
    if site.place == "folder":
        Path(site.to, name).unlink()
    else:
        requests.delete(f"{site.front.url}/{site.bucket}/{name}", timeout=10).raise_for_status()


def all_well(site: Site) -> list[str]:
    return [*site.wrong(), *site.lacking()]


@PLACES
@pytest.mark.parametrize("data", [AUSTIN, STANFORD, TSINGHUA], ids=lambda data: data[1])
@pytest.mark.parametrize("is_complete", [True, False], ids=["complete", "without its manifest"])
def test_damaged_objects_are_stored_again(place: str, data: tuple[str, str], is_complete: bool) -> None:
    with Site(place, data) as site:
        assert site.run().status == 0
        names = sorted(truth(site.datasets[0], site.source.files))
        for name in random.Random(1).sample(names, 5):
            before = site.read(name) or b""
            replace(site, name, bytes([before[0] ^ 1]) + before[1:])  # of the same size
        if is_complete:
            assert site.run("--verify").status == 3
        else:
            remove(site, f"_extraction/{data[1]}/manifest.csv")
        site.source.requests.clear()
        run = site.run()
        assert run.status == 0 and all_well(site) == [], run.said
        fetched = [request for request in site.source.requests if "/animal_pics/" in request.path]
        assert not is_complete or data != AUSTIN or len(fetched) < 12  # and those that the source lacks, asked twice


@PLACES
def test_photos_of_a_killed_run_count_only_where_the_journal_has_them(place: str) -> None:
    with Site(place, AUSTIN) as site:
        for path in [path for path in site.source.files if "animal_pics" in path]:
            site.source.plan(path, Plan(stall=random.Random(path).uniform(0, 4)))
        process = site.start()
        while sum("animal_pics" in request.path for request in site.source.requests) < 50:
            time.sleep(0.05)
        time.sleep(2.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        site.heal()
        stored = [name for name in site.stored() if name.endswith(".png")]
        assert stored and site.run("--plan").status == 0
        for name in stored[::2]:
            replace(site, name, (site.read(name) or b"")[:-1] + b"x")
        run = site.run()
        assert run.status == 0 and all_well(site) == [], run.said


def versions() -> tuple[bytes, bytes]:
    """Two versions of an archive: the second lacks a third of the members, and has another in each third."""
    members = [(f"Images/{name}", data) for name, data in some_members(120, 150_000)]
    return tar_of(members), tar_of(
        [member for number, member in enumerate(members) if number % 3] + [("Images/z", b"z")]
    )


def kill_and_replace(site: Site, process: subprocess.Popen[str], archive: bytes) -> None:
    """End the run, and have the source offer another version."""
    process.kill()
    process.wait()
    site.source.files["/images.tar"] = archive
    site.source.plan("/images.tar", Plan(etag='"2"'))
    site.publish()


@PLACES
def test_nothing_is_left_of_the_version_that_a_killed_run_stored(place: str) -> None:
    old, new = versions()
    with Site(place) as site:
        site.source.files["/images.tar"] = old
        site.publish()
        site.source.plan("/images.tar", Plan(drip=0.001, etag='"1"'))
        process = site.start()
        while len([name for name in site.stored() if name.startswith("stanford/Images/")]) < 50:
            assert process.poll() is None
            time.sleep(0.02)
        kill_and_replace(site, process, new)
        run = site.run()
        assert run.status == 0 and all_well(site) == [], run.said
        assert site.run("--verify").status == 0


@PLACES
def test_what_others_put_there_before_stays(place: str) -> None:
    old, new = versions()
    with Site(place) as site:
        site.source.files["/images.tar"] = old
        site.publish()
        site.environment["SPOTTED_TIMEOUT"] = "30"
        if place == "folder":
            Path(site.to, "stanford").mkdir(parents=True)
        else:
            site.front.create_bucket(site.bucket)
        replace(site, "stanford/mine.txt", b"mine")
        process = site.start()
        while len(site.stored()) < 20 and process.poll() is None:
            time.sleep(0.02)
        kill_and_replace(site, process, new)
        assert site.run().status == 0
        assert site.read("stanford/mine.txt") == b"mine"
        assert [each for each in all_well(site) if "mine.txt" not in each] == []


@PLACES
def test_a_force_that_is_killed_and_repeated_leaves_nothing_of_the_older_version(place: str) -> None:
    old, new = versions()
    with Site(place) as site:
        site.source.files["/images.tar"] = old
        site.publish()
        assert site.run().status == 0
        site.source.files["/images.tar"] = new
        site.publish()
        site.source.plan("/images.tar", Plan(etag='"2"', drip=0.002))
        for _ in range(2):
            process = site.start("--force")
            before = len(site.source.requests)
            while len(site.source.requests) < before + 4:
                time.sleep(0.02)
            process.kill()
            process.wait()
        site.source.plan("/images.tar", Plan(etag='"2"'))
        run = site.run("--force")
        assert run.status == 0 and all_well(site) == [], run.said
        assert site.run("--verify").status == 0


def test_what_an_older_zip_had_goes_too() -> None:
    members = some_members(60, 1000, seed=3)
    with Site("folder", TSINGHUA) as site:
        site.source.files["/low-resolution.zip"] = zip_of([(f"low-resolution/{name}", data) for name, data in members])
        site.publish()
        assert site.run().status == 0
        site.source.files["/low-resolution.zip"] = zip_of([("low-resolution/a.jpg", b"1")])
        site.publish()
        run = site.run("--force")
        assert run.status == 0 and all_well(site) == [], run.said
