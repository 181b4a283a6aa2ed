"""Interruptions: kill -9, Ctrl-C and SIGTERM, and the same command again."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import google_crc32c
import pytest

from support.archives import some_members
from support.fake_gcs import GcsFront
from support.program import ROOT, Cli, clean_environment, command, dataset_files, start
from support.source_server import Plan, SourceServer


@pytest.mark.parametrize("moment", [0.15, 0.4, 0.8])
def test_kill_9_and_the_same_command_again(
    cli: Cli, tmp_path: Path, slow_mirror: SourceServer, front: GcsFront, moment: float
) -> None:
    to, environment = f"gs://test-{uuid.uuid4().hex[:12]}", {"STORAGE_EMULATOR_HOST": front.url}
    process = start(tmp_path, slow_mirror, to, environment)
    while front.counts["xml.put"] < 2500 * moment:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    slow_mirror.plan("/images.tar", Plan())
    before = dict(front.puts)
    done = cli("-d", "stanford", "--mirror", slow_mirror.url, "--to", to, **environment)
    assert done.returncode == 0, done.stderr
    members = {f"stanford/Images/{name}": data for name, data in some_members(2500, 20_000)}
    objects = front.objects(to.removeprefix("gs://"))
    assert {name: objects[name] for name in members} == {
        n: (len(d), google_crc32c.value(d)) for n, d in members.items()
    }
    assert before, "it was killed before it stored anything"
    if moment > 0.5:  # by then, pieces of the archive are done; the state of their checksum is carried to this run
        assert "are done already" in done.stderr and "images.tar: sha256 matches" in done.stderr
    twice = [name for name in members if front.puts[name] > 1]
    assert len(twice) < 0.1 * len(members)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_within_two_seconds_and_the_next_run_goes_on(
    cli: Cli, tmp_path: Path, slow_mirror: SourceServer, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    process = start(tmp_path, slow_mirror, str(out))
    while not list(out.glob("stanford/Images/*/*")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.Random(number).random())
    process.send_signal(number)
    begin = time.monotonic()
    time.sleep(0.2)
    process.send_signal(number)  # who is in a hurry presses Ctrl-C twice
    _, stderr = process.communicate(timeout=10)
    assert time.monotonic() - begin < 2
    assert process.returncode == 128 + number and "Traceback" not in stderr, stderr
    assert stderr.splitlines()[-1] == "interrupted; what is stored is kept: run the same command again to continue"
    slow_mirror.plan("/images.tar", Plan())
    done = cli("-d", "stanford", "--mirror", slow_mirror.url, "--to", out)
    assert done.returncode == 0, done.stderr
    found = {name: data for name, data in dataset_files(out).items() if name.startswith("stanford/Images")}
    assert found == {f"stanford/Images/{name}": data for name, data in some_members(2500, 20_000)}


SWALLOWED = """
import gc, signal, sys, threading, cli
def interrupt(phase, info):
    if "pipeline.worker" in sys.modules and threading.current_thread() is threading.main_thread():
        gc.callbacks.remove(interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.raise_signal(signal.SIGINT)
gc.callbacks.append(interrupt)
signal.signal(signal.SIGALRM, lambda *_: gc.collect())  # in the main thread, as all handlers
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
sys.exit(cli.main(sys.argv[1:]))
"""


def test_an_interrupt_that_python_swallows_ends_it_all_the_same(tmp_path: Path, slow_mirror: SourceServer) -> None:
    arguments = [sys.executable, "-c", SWALLOWED, "-b", "--mirror", slow_mirror.url, "--to", str(tmp_path / "out")]
    environment = clean_environment(tmp_path, {})
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130 and "Traceback" not in done.stderr and "error" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("interrupted; ")


CLOSING = """
import os, signal, sys, time, cli
from distributed import utils
wait_for = utils.wait_for
def interrupt(awaitable, timeout):
    if awaitable.__qualname__ == "Client._close":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)  # in dask's own thread: the program's takes back meanwhile what has not begun
    return wait_for(awaitable, timeout)
utils.wait_for = interrupt
sys.exit(cli.main(sys.argv[1:]))
"""


def test_an_interrupt_while_dask_is_closed_is_one_line_too(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", CLOSING, "-d", "stanford", "--sample", "--to", str(tmp_path / "out")]
    environment = clean_environment(tmp_path, {})
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130 and "complete: " in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("interrupted; "), done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_is_json_where_the_log_is(
    tmp_path: Path, slow_mirror: SourceServer, number: signal.Signals, status: int
) -> None:
    arguments = command("-d", "stanford", "--mirror", slow_mirror.url, "--to", tmp_path / "out", "--log-format", "json")
    process = subprocess.Popen(arguments, env=clean_environment(tmp_path, {}), stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").glob("stanford/Images/*/*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    *_, last = map(json.loads, process.communicate(timeout=10)[1].splitlines())
    assert (process.returncode, last["severity"]) == (status, "WARNING")
    assert last["message"].startswith("interrupted; what is stored is kept")


def test_an_interrupt_does_not_wait_for_a_source_that_is_silent(tmp_path: Path, slow_mirror: SourceServer) -> None:
    slow_mirror.plan("/images.tar", Plan(), times=2)  # the probe, and the look at what it is
    slow_mirror.plan("/images.tar", Plan(stall=20))
    process = start(tmp_path, slow_mirror, str(tmp_path / "out"))
    while not (tmp_path / "out/stanford/lists").is_dir():
        assert process.poll() is None
        time.sleep(0.01)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert time.monotonic() - begin < 2 and process.returncode == 130
