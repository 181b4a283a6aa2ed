"""Runs become rows, rows become Markdown and CSV; with what machine and which versions they were measured."""

from __future__ import annotations

import csv
import os
import platform
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

from limits import Limit
from measure import Figures

PACKAGES = ("obstore", "google-cloud-storage", "dask", "requests")
PROGRAMS = {"rclone": "version", "gcloud": "--version", "gcsfuse": "--version", "nginx": "-v", "curl": "--version"}


@dataclass(frozen=True)
class Row:
    """A way under a setting: medians over its runs. Seconds, bytes, and requests per object."""

    setting: str
    way: str
    share: float  # of the whole input
    objects: int
    size: int  # bytes of the archives
    rounds: int
    seconds: float
    seconds_least: float
    seconds_most: float
    objects_per_second: float
    bytes_per_second: float
    cpu_per_1000: float
    server_cpu_per_1000: float  # of the objects' server
    memory: float
    disk: float
    class_a_per_object: float
    class_b_per_object: float
    limit: float
    limited_by: str
    times_limit: float


def row(setting: str, way: str, share: float, objects: int, size: int, runs: Sequence[Figures], limit: Limit) -> Row:
    """The row of some runs of one way."""
    middle = Figures(*(statistics.median(values) for values in zip(*runs, strict=True)))
    walls = [each.wall for each in runs]
    return Row(
        setting, way, share, objects, size, len(runs), middle.wall, min(walls), max(walls),
        objects / middle.wall, size / middle.wall, 1000 * middle.cpu / objects, 1000 * middle.server_cpu / objects,
        middle.memory, middle.disk, middle.class_a / objects, middle.class_b / objects,
        limit.seconds, limit.by, middle.wall / limit.seconds,
    )  # fmt: skip


# ── as text ──────────────────────────────────────────────────────────────────────────────────────

HEADER = (
    "way", "share", "seconds (least to most)", "objects/s", "MB/s", "CPU s per 1,000", "peak memory", "local disk",
    "calls per object, A + B", "limit, s", "times the limit", "the first is faster",
)  # fmt: skip


def markdown(rows: Sequence[Row], title: str) -> str:
    """A setting's rows as a table with a heading; the last column compares objects/s with the first row's."""
    lines = [[*_cells(it), f"{rows[0].objects_per_second / it.objects_per_second:.1f} times"] for it in rows]
    return f"### {title}\n\n{table(HEADER, lines)}"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all but the first column are numbers, and stand to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *lines))


def _cells(it: Row) -> list[str]:
    return [
        it.way,
        f"{it.share:.0%}",
        f"{it.seconds:.1f} ({it.seconds_least:.1f} to {it.seconds_most:.1f})",
        f"{it.objects_per_second:,.0f}",
        f"{it.bytes_per_second / 1e6:,.1f}",
        f"{it.cpu_per_1000:.2f}",
        f"{it.memory / 1e6:,.0f} MB",
        f"{it.disk / 1e6:,.0f} MB" if it.disk else "0",
        f"{it.class_a_per_object:.2f} + {it.class_b_per_object:.2f}",
        f"{it.limit:.2f} ({it.limited_by})",
        f"{it.times_limit:.1f}",
    ]


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for each in rows:
            writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in asdict(each).items()}
            )


# ── the machine ──────────────────────────────────────────────────────────────────────────────────


def write_page(out: Path | None, name: str, head: str, sections: Iterable[str], begin: float) -> None:
    """Print a page of results, made since `begin` on the monotonic clock; write it into the folder `out` if given."""
    minutes, day = (time.monotonic() - begin) / 60, time.strftime("%Y-%m-%d")
    made = f"Made by `make bench`, {day}, in {minutes:.0f} minutes. {machine()}\n"
    text = "\n".join([f"{head}\n\n{made}", *sections])
    print(text)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)


def machine() -> str:
    """Processor, memory, kernel, and the versions of what took part, in Markdown."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    programs = [f"{name} {_version(name, option)}" for name, option in PROGRAMS.items() if shutil.which(name)]
    versions = ", ".join([f"Python {platform.python_version()}", *packages, *programs])
    return f"{cores()} cores of {_processor()}, {memory:.0f} GiB, Linux {platform.release()}. {versions}."


def cores() -> int:
    return len(os.sched_getaffinity(0))


def _processor() -> str:
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _version(program: str, option: str) -> str:
    done = subprocess.run([program, option], capture_output=True, text=True, check=False)
    found = re.search(r"\d+(?:\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else "?"
