"""What larger datasets would take, from the figures that were measured: hours, calls and dollars.

    python benchmarks/forecast.py [FOLDER]      reads FOLDER/compare.csv and scaling.csv, writes FOLDER/forecast.md

An object's CPU is taken to grow in a straight line with its bytes, between the measured ones of 100 bytes and of
Stanford's; a worker has as many cores as the machine that was measured.
"""

import csv
import sys
from pathlib import Path
from typing import NamedTuple

from course import IN_FLIGHT
from render import cores, table

RESULTS = Path(__file__).parent / "results"
FIRST_RATE, DOUBLING = 1000, 1200  # writes a second, and seconds: https://cloud.google.com/storage/docs/request-rate
CLASS_A, CLASS_B = 5e-6, 4e-7  # dollars a call, Standard in one region: https://cloud.google.com/storage/pricing
SOURCE = 80e6  # bytes a second for each worker: eight connections of 10 MB/s
DELAY = 0.05  # seconds of a request
PHOTOS_AT_ONCE = 160  # of pipeline/context.py: requests to the photos' servers; a photo is also two puts
SMALL = 100  # bytes of the members of scaling.csv
PHOTO = 60e3  # bytes, guessed: their size is not published
WORKERS = (1, 10, 100)


class Job(NamedTuple):
    """A dataset: its objects and their bytes in all."""

    name: str
    objects: float
    size: float
    is_photos: bool = False


class Cost(NamedTuple):
    """What was measured: CPU seconds for an object, each byte of it, and a photo by its URL; calls for each object."""

    of_object: float
    of_byte: float
    of_photo: float
    class_a: float
    class_b: float


JOBS = (
    Job("Stanford Dogs", 41_163, 0.8e9),
    Job("ImageNet-21k, tars", 14.2e6, 1.31e12),
    Job("LAION-400M, URLs", 2 * 413e6, 413e6 * PHOTO, is_photos=True),
    Job("LAION-5B, URLs", 2 * 5.85e9, 5.85e9 * PHOTO, is_photos=True),
)


def ramp_seconds(objects: float, rate: float) -> float:
    """Seconds to write so many objects at `rate` a second, where a bucket takes 1,000 at first and doubles that."""
    seconds, allowed = 0.0, float(FIRST_RATE)
    while allowed < rate and objects > allowed * DOUBLING:
        objects, seconds, allowed = objects - allowed * DOUBLING, seconds + DOUBLING, allowed * 2
    return seconds + objects / min(allowed, rate)


def worker_rate(job: Job, cost: Cost, cores_each: int) -> tuple[float, str]:
    """Objects a second that one worker brings, and what holds it back."""
    mean = job.size / job.objects
    if job.is_photos:  # which come from many servers: none of them is what holds back
        return min((2 * cores_each / cost.of_photo, "CPU"), (2 * PHOTOS_AT_ONCE / DELAY, "delay"))
    cpu = cost.of_object + cost.of_byte * mean
    return min((cores_each / cpu, "CPU"), (IN_FLIGHT / DELAY, "delay"), (SOURCE / mean, "source"))


def forecast(job: Job, cost: Cost, cores_each: int) -> list[str]:
    """A line of the table: hours with 1, 10 and 100 workers, calls and dollars."""
    rate, held_by = worker_rate(job, cost, cores_each)
    hours = [ramp_seconds(job.objects, rate * workers) / 3600 for workers in WORKERS]
    free = job.objects / (rate * WORKERS[-1]) / 3600
    calls = job.objects * cost.class_a, job.objects * cost.class_b
    dollars = calls[0] * CLASS_A + calls[1] * CLASS_B
    return [
        job.name, f"{job.objects:,.0f}", f"{job.size / 1e12:,.3g} TB", f"{rate:,.0f} ({held_by})",
        *map(duration, hours), duration(free), f"{calls[0] / 1e6:,.2f} M + {calls[1] / 1e6:,.2f} M", f"${dollars:,.2f}",
    ]  # fmt: skip


def duration(hours: float) -> str:
    if hours >= 72:
        return f"{hours / 24:,.0f} days"
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:,.1f} min" if hours * 60 >= 1 else f"{hours * 3600:,.0f} s"


def measured(folder: Path) -> Cost:
    """What the two tables say; raises KeyError or IndexError where a part was not measured."""
    api = next(line for line in _lines(folder / "compare.csv") if "50 ms" in line["setting"] and "api" in line["way"])
    points = _lines(folder / "scaling.csv")
    small = [line for line in points if line["part"] == "members"][-1]
    photos = [line for line in points if line["part"] == "photos"][-1]
    whole, least = float(api["cpu_per_1000"]) / 1000, float(small["cpu"]) / float(small["objects"])
    of_byte = max(whole - least, 0) / (float(api["size"]) / float(api["objects"]) - SMALL)
    of_photo = 2 * float(photos["cpu"]) / float(photos["objects"])
    return Cost(least, of_byte, of_photo, float(api["class_a_per_object"]), float(api["class_b_per_object"]))


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def text(cost: Cost) -> str:
    header = (
        "dataset", "objects", "bytes", "one worker, objects/s (held back by)",
        *(f"{workers} workers" if workers > 1 else "1 worker" for workers in WORKERS),
        "100 without the bucket's ramp", "calls, A + B", "calls cost",
    )  # fmt: skip
    return (
        "# What larger datasets would take\n\n"
        "Computed by benchmarks/forecast.py from what was measured: an object costs"
        f" {1000 * cost.of_object:.2f} ms of CPU and {1e9 * cost.of_byte:.1f} ms for each MB, a photo by its URL"
        f" {1000 * cost.of_photo:.2f} ms;"
        f" {cores()} cores to a worker.\n\n"
        f"{table(header, (forecast(job, cost, cores()) for job in JOBS))}"
    )


def write(folder: Path) -> None:
    """Make forecast.md of the tables in a folder, and print it."""
    found = text(measured(folder))
    (folder / "forecast.md").write_text(found)
    print(found)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)
