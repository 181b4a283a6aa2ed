"""Ways to bring one tar of many small files into a bucket, side by side on this machine, one after the other.

    python benchmarks/compare.py [--scale 0.1] [--delay-ms 50] [--rounds 3]

The input is made here: a tar as large as Stanford's images.tar (20,580 files, 0.8 GB; --scale for less), seeded. nginx
serves it; the objects go to bucket_server.py, which answers after --delay-ms. Prints a Markdown table of medians. What
this machine lacks for a way is said in its row. Read the ratios: one machine does everything at once.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent
MEMBERS, FOLDERS, MEAN = 20_580, 120, 38_500  # of Stanford's images.tar, and its files' mean size in bytes
NGINX = """daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; root {root}; }} }}"""


class Course(NamedTuple):
    """Where every way starts and ends: URLs of the source and of the objects' server, and a folder that it may fill."""

    source: str
    server: str
    scratch: Path


class Figures(NamedTuple):
    """Of one run: seconds, CPU seconds of the way's own processes, their peak memory in bytes, calls, objects."""

    wall: float
    cpu: float
    memory: int
    calls: int
    objects: int


@dataclass(frozen=True)
class Way:
    """One way to go: a shell command, the programs it needs, and whether its end is a bucket."""

    name: str
    command: Callable[[Course], str]
    needs: tuple[str, ...] = ()
    to_bucket: bool = True


def tool(to: str) -> Callable[[Course], str]:
    """This tool, told to take images.tar alone by a mirror whose other archives are empty."""
    command = f"{sys.executable} {ROOT}/cli.py -d stanford --via api --quiet"
    return lambda at: f"{command} --mirror {at.source} --to {to.format(at=at)}"


def unpacked(then: str) -> Callable[[Course], str]:
    """Download and unpack first, then do this with the folder x."""
    return lambda at: f"mkdir x && curl -sf {at.source}/images.tar | tar x -C x && {then.format(at=at)}"


RCLONE = "rclone --gcs-endpoint {at.server}/storage/v1/ --gcs-anonymous"
UPLOAD_MANY = f"{sys.executable} {HERE}/upload_many.py x bench"
WAYS = (
    Way("this tool, into the bucket", tool("gs://bench")),
    Way("curl, tar x, `upload_many`", unpacked(UPLOAD_MANY), ("curl", "tar")),
    Way(
        "curl, tar x, `rclone copy --transfers 64`",
        unpacked(f"{RCLONE} copy -q --transfers 64 x :gcs:bench"),
        ("rclone",),
    ),
    Way("curl, tar x, `gcloud storage cp -r`", unpacked("gcloud storage cp -q -r x/Images gs://bench"), ("gcloud",)),
    Way(
        "`rclone archive extract`",
        lambda at: f"{RCLONE.format(at=at)} -q archive extract ':http,url=\"{at.source}\":images.tar' :gcs:bench",
        ("rclone",),
    ),
    Way("this tool, into a directory", tool("{at.scratch}/out"), to_bucket=False),
    Way("curl, tar x, a directory", unpacked("true"), ("curl", "tar"), to_bucket=False),
)


# ── the course ───────────────────────────────────────────────────────────────────────────────────


def build(folder: Path, scale: float) -> None:
    """The input: images.tar, and two archives without members for the rest of the dataset, with their checksums."""
    rng = random.Random(1)
    with tarfile.open(folder / "images.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(round(MEMBERS * scale)):
            info = tarfile.TarInfo(f"Images/n{number % FOLDERS:08d}-breed/{number}.jpg")
            info.size = round(min(rng.lognormvariate(0, 0.5) * MEAN * 0.88, 1_500_000))
            archive.addfile(info, io.BytesIO(rng.randbytes(info.size)))
    for name in ("annotation.tar", "lists.tar"):
        tarfile.open(folder / name, "w").close()
    sums = ((hashlib.file_digest(path.open("rb"), "sha256").hexdigest(), path.name) for path in folder.glob("*.tar"))
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for digest, name in sums))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def running(*command: str, port: int) -> Iterator[None]:
    """A server, from when it answers on its port until the end of the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def course(scale: float, delay: float) -> Iterator[Course]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-")))
        source, server, (root, run) = free_port(), free_port(), (folder / "source", folder / "nginx")
        folder.chmod(0o755)  # nginx gives its workers another user
        root.mkdir()
        run.mkdir()
        build(root, scale)
        (run / "conf").write_text(NGINX.format(folder=run, port=source, root=root))
        stack.enter_context(running("nginx", "-c", str(run / "conf"), port=source))
        objects = (sys.executable, str(HERE / "bucket_server.py"), str(server), "--delay-ms", str(delay))
        stack.enter_context(running(*objects, port=server))
        yield Course(f"http://127.0.0.1:{source}", f"http://127.0.0.1:{server}", folder / "scratch")


# ── the runs ─────────────────────────────────────────────────────────────────────────────────────


def run(way: Way, at: Course) -> Figures:
    """Go one way once, from an empty bucket and an empty folder; raises RuntimeError with what it said if it fails."""
    urllib.request.urlopen(urllib.request.Request(f"{at.server}/_reset", method="POST")).close()
    shutil.rmtree(at.scratch, ignore_errors=True)
    at.scratch.mkdir()
    environment = {**os.environ, "STORAGE_EMULATOR_HOST": at.server, "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
                   "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{at.server}/storage/v1/",
                   "CLOUDSDK_CORE_PROJECT": "x"}  # fmt: skip
    begin, before = time.monotonic(), os.times()
    process = subprocess.Popen(way.command(at), shell=True, cwd=at.scratch, env=environment, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(process.communicate)
        memory = max(iter(lambda: sample(process, said.done()), -1), default=0)
    wall, after = time.monotonic() - begin, os.times()
    if process.returncode:
        raise RuntimeError(f"{way.name}: {said.result()[1].strip().splitlines()[-1][:200]}")
    with urllib.request.urlopen(f"{at.server}/_stats") as answer:
        stats = json.load(answer)
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Figures(wall, cpu, memory, sum(stats["requests"].values()), stats["puts"])


def sample(process: subprocess.Popen[str], done: bool) -> int:
    """The resident memory of the way's processes right now, in bytes; -1 when it has ended."""
    time.sleep(0.05)
    return (
        -1
        if done
        else sum(resident(status) for status in Path("/proc").glob("[0-9]*/stat") if in_session(status, process.pid))
    )


def in_session(status: Path, session: int) -> bool:
    try:
        return int(status.read_text().rpartition(")")[2].split()[3]) == session
    except OSError:  # ended meanwhile
        return False


def resident(status: Path) -> int:
    try:
        return int(status.read_text().rpartition(")")[2].split()[21]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def compare(at: Course, rounds: int) -> Iterator[str]:
    """The table, a row as soon as it is known."""
    yield "| way | seconds | objects/s | CPU s per 1,000 | peak memory | calls per object | times this tool |"
    yield "|---|---|---|---|---|---|---|"
    first: dict[bool, float] = {}
    for way in WAYS:
        lacking = [program for program in way.needs if not shutil.which(program)]
        if lacking:
            yield f"| {way.name} | not run: no {lacking[0]} here | | | | | |"
            continue
        runs = [run(way, at) for _ in range(rounds)]
        middle = Figures(*(statistics.median(values) for values in zip(*runs, strict=True)))
        first.setdefault(way.to_bucket, middle.wall)
        yield row(way, middle, middle.wall / first[way.to_bucket])


def row(way: Way, it: Figures, times: float) -> str:
    objects = max(it.objects, 1)
    per = f"{it.objects / it.wall:,.0f} | {it.cpu / objects * 1000:.2f}" if way.to_bucket else " | "
    calls = f"{it.calls / objects:.2f}" if way.to_bucket else ""
    return f"| {way.name} | {it.wall:.1f} | {per} | {it.memory / 1e6:.0f} MB | {calls} | {times:.1f} |"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--scale", type=float, default=1.0)
    arguments.add_argument("--delay-ms", type=float, default=50)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    with course(options.scale, options.delay_ms) as at:
        for line in compare(at, options.rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
