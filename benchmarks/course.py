"""Where every way runs: the sources' servers, the objects' server, and folders, for as long as a benchmark lasts."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import inputs
import measure
from ways import environment

HERE = Path(__file__).parent
SHM = Path("/dev/shm")
ROOM = 8 << 30  # bytes that must be free in memory's file system before it is taken
NGINX = """daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; autoindex on; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; root {root}; }} }}"""
CONNECTIONS, IN_FLIGHT = 8, 256  # to the source and into the bucket, as this tool has by default


class Loop(NamedTuple):
    """What a bare loop took: objects, seconds, and seconds of CPU of itself and of the objects' server."""

    objects: int
    seconds: float
    cpu: float
    server_cpu: float

    @property
    def cpu_per_object(self) -> float:
        return (self.cpu + self.server_cpu) / self.objects


class Course:
    """Servers and folders; `run` starts each run from an empty bucket and empty folders."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.sources, self.scratch, self.out = folder / "sources", folder / "scratch", folder / "out"
        self.sources.mkdir()
        self._limited: dict[float, str] = {}  # rate → URL
        self.source, self.served_by = self._full_speed()
        self.port = free_port()
        self.server = f"http://127.0.0.1:{self.port}"
        self.server_process = self.start("bucket_server.py", self.port)

    def start(self, script: str, port: int, *arguments: str) -> int:
        """Start one of the servers here, until the course ends; its process."""
        command = (sys.executable, str(HERE / script), str(port), *arguments)
        return self.stack.enter_context(running(*command, port=port))

    def _full_speed(self) -> tuple[str, str]:
        port = free_port()
        if not shutil.which("nginx"):
            self.start("file_server.py", port, str(self.sources))
            return f"http://127.0.0.1:{port}", "aiohttp"
        folder = self.folder / "nginx"
        folder.mkdir()
        (folder / "conf").write_text(NGINX.format(folder=folder, port=port, root=self.sources))
        self.stack.enter_context(running("nginx", "-c", str(folder / "conf"), port=port))
        return f"http://127.0.0.1:{port}", "nginx"

    def source_at(self, rate: float) -> str:
        """The URL of the sources at so many bytes a second for each connection; 0 for full speed."""
        if rate and rate not in self._limited:
            port = free_port()
            self.start("file_server.py", port, str(self.sources), "--rate", str(rate))
            self._limited[rate] = f"http://127.0.0.1:{port}"
        return self._limited[rate] if rate else self.source

    def set_delay(self, seconds: float) -> None:
        measure.post(f"{self.server}/_delay?ms={seconds * 1000}")

    def environment(self, source: str) -> dict[str, str]:
        return environment(source, self.server, self.folder, self.out) | {"TMPDIR": str(self.scratch)}

    def run(self, command: str, source: str, keep: bool = False) -> measure.Figures:
        """Run a command with the archives at `source`; with `keep`, with what the last run stored still there."""
        if not keep:
            self.clear()
        bucket = measure.Bucket(self.server, self.server_process)
        return measure.run(command, self.environment(source), self.scratch, bucket)

    def clear(self) -> None:
        for folder in (self.scratch, self.out):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        measure.post(f"{self.server}/_reset")

    def stored(self) -> int:
        """How many files are in the output directory."""
        return sum(path.is_file() for path in self.out.rglob("*"))

    # ── what the limit is computed from ──────────────────────────────────────────────────────────

    def bare(self, target: str, photos: int, delay: float) -> Loop:
        """A bare loop of puts of so many photos and annotations, into the bucket or a folder."""
        self.clear()
        self.set_delay(delay)
        before = measure.cpu_of(self.server_process)
        command = (sys.executable, str(HERE / "bare.py"), target, str(photos))
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=self.environment(""))
        answer = json.loads(done.stdout)
        return Loop(**answer, server_cpu=measure.cpu_of(self.server_process) - before)

    @cache  # noqa: B019  # there is one course in a process
    def full_rate(self) -> float:
        """Bytes a second from the source over one connection, with nothing done with them."""
        path, buffer = self.sources / "rate", bytearray(1 << 20)
        path.write_bytes(bytes(1 << 28))
        begin = time.monotonic()
        with urllib.request.urlopen(f"{self.source}/{path.name}") as answer:
            while answer.readinto(buffer):
                pass
        size = path.stat().st_size
        path.unlink()
        return size / (time.monotonic() - begin)


@contextmanager
def course(scratch: Path | None) -> Iterator[Course]:
    """A course below a folder; by default in memory's file system, so that no disk is measured."""
    if scratch is None and SHM.is_dir() and shutil.disk_usage(SHM).free > ROOM:
        scratch = SHM
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=scratch)))
        folder.chmod(0o755)  # nginx gives its workers another user
        yield Course(folder, stack)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def running(*command: str, port: int) -> Iterator[int]:
    """A server, from when it answers on its port until the end of the block; its process."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        while not _answers(port):
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with status {process.returncode}: {' '.join(command)}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def prepare(at: Course, scale: float, with_zip: bool) -> inputs.Input:
    """The input of this scale, made once."""
    made = inputs.build(at.sources, scale)
    folder = at.sources / made.folder
    if with_zip and not (folder / inputs.ZIP).exists():
        inputs.write_zip(folder)
    return made
