"""A worker on another machine, where neither loopback nor directories of this one are: one line, before any work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sources import sample
from sources.source import unreachable
from support.program import ROOT, Cli, message, wait_for

# As on another machine: of this one's loopback the worker has the scheduler alone, of its files none of a mirror.
ELSEWHERE = """
import os, pathlib, socket
connect, stat = socket.socket.connect, pathlib.Path.stat
def connect_elsewhere(self, address):
    if self.family == socket.AF_INET and str(address[1]) != os.environ["SCHEDULER"]:
        raise ConnectionRefusedError(111, "Connection refused")
    return connect(self, address)
def stat_elsewhere(self, **how):
    if "mirror" in self.parts:
        raise FileNotFoundError(2, "No such file or directory")
    return stat(self, **how)
socket.socket.connect, pathlib.Path.stat = connect_elsewhere, stat_elsewhere
"""


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cluster")
    file, here = folder / "scheduler.json", [sys.executable, "-m", "dask"]
    (folder / "sitecustomize.py").write_text(ELSEWHERE)
    with ExitStack() as stack:

        def start(*words: str, **more: str) -> None:
            environment = {**os.environ, **more}
            process = subprocess.Popen([*here, *words, "--no-dashboard"], env=environment, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)

        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
        wait_for(file)
        address: str = json.loads(file.read_text())["address"]
        port = address.rpartition(":")[2]
        start("worker", address, "--no-nanny", "--host", "127.0.0.1", PYTHONPATH=f"{folder}:{ROOT}", SCHEDULER=port)
        yield address


@pytest.mark.parametrize("command", [(), ("--check",)])
@pytest.mark.parametrize("source", ["--sample", "--mirror", "--datasets-file"])
def test_what_no_worker_sees_is_one_line(
    cli: Cli, tmp_path: Path, scheduler: str, source: str, command: tuple[str, ...]
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for path, data in sample.sources().items():
        if "/" not in path:
            (mirror / path).write_bytes(data)
    (tmp_path / "my.toml").write_text(f"[mine]\n[[mine.archives]]\nurl = '{(mirror / 'lists.tar').as_uri()}'\n")
    named = {"--sample": (), "--mirror": (mirror,), "--datasets-file": (tmp_path / "my.toml",)}[source]
    name = "mine" if source == "--datasets-file" else "stanford"
    done = cli("-d", name, source, *named, *command, "--to", tmp_path / "out", "--scheduler", scheduler)
    (line,) = [line for line in done.stdout.splitlines() if "cluster" in line] if command else [message(done)]
    assert done.returncode == 1 and "the worker cannot read " in line, done.stdout + done.stderr
    why = "Connection refused" if source == "--sample" else "no such file or directory there"
    assert why in line and "--sample is for workers of this machine" in line
    assert not (tmp_path / "out/stanford").exists()


def test_any_answer_of_a_server_counts(tmp_path: Path) -> None:
    with sample.serve() as url:
        assert unreachable((url, f"{url}/nothing", str(tmp_path), tmp_path.as_uri())) == ""
    assert "Connection refused" in unreachable((str(tmp_path), "http://127.0.0.1:9/"))
