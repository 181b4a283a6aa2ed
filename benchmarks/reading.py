"""What the table of images costs a run, and how fast training reads shards and single objects, on one server.

    PYTHONPATH=.:benchmarks python benchmarks/reading.py [--scale 0.5] [--rounds 5] > benchmarks/results/reading.md

The input has Stanford's shape: real JPEG headers, annotations like the published ones.
"""

from __future__ import annotations

import argparse
import json
import random
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import urllib3

from course import Course, course
from inputs import File, photo_name, sizes, write_sums, write_tar
from measure import Figures
from sources import sample
from ways import BUCKET, HERE, TOOL

MEMBERS, DELAY = 20_580, 0.02  # of Stanford's images.tar; seconds of a request to the bucket
WITHOUT = TOOL.replace(f"{HERE.parent}/cli.py", f"{HERE}/without.py table")
THREADS = (1, 4, 16, 64)
NOTE = """\
<annotation>
\t<folder>02085620</folder>
\t<filename>{name}</filename>
\t<source>
\t\t<database>ImageNet database</database>
\t</source>
\t<size>
\t\t<width>333</width>
\t\t<height>500</height>
\t\t<depth>3</depth>
\t</size>
\t<segment>0</segment>
\t<object>
\t\t<name>Chihuahua</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
{box}\t\t</bndbox>
\t</object>
</annotation>
"""
SECONDS = 60  # a way to read is measured for no longer

INTRODUCTION = """\
# The table of images and the shards

{images:,} images of Stanford's sizes with an annotation each, {delay:.0f} ms a request to the bucket, made by
benchmarks/reading.py, {date}.

## What the table costs

The best of {rounds} alternating runs with the table and without it.

| to | wall time | | CPU | |
|---|---|---|---|---|"""
READING = """
## Training reads: shards and single objects

A plain loop: each thread requests one image after the other, or one shard after the other, from the same server.

| | threads | images/s | MB/s |
|---|---|---|---|"""


def notes(count: int) -> Iterator[File]:
    rng = random.Random(2)
    for number in range(count):
        name = photo_name(number).replace("Images", "Annotation", 1).removesuffix(".jpg")
        box = "".join(f"\t\t\t<{tag}>{rng.randrange(500)}</{tag}>\n" for tag in ("xmin", "ymin", "xmax", "ymax"))
        yield name, NOTE.format(name=name, box=box).encode()


def build(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = random.Random(1)
    images = ((name, sample.picture(number % 12)) for number, name in enumerate(map(photo_name, range(count))))
    filled = ((name, data + rng.randbytes(size)) for (name, data), size in zip(images, sizes(count), strict=True))
    write_tar(folder / "images.tar", filled)
    write_tar(folder / "annotation.tar", notes(count))
    write_tar(folder / "lists.tar", ())
    write_sums(folder)


def costs(at: Course, source: str, rounds: int) -> Iterator[str]:
    for to in (f"--via api --to gs://{BUCKET}", "--to $OUT"):
        runs: dict[str, list[Figures]] = {TOOL: [], WITHOUT: []}
        for _ in range(rounds):
            for tool, found in runs.items():
                found.append(at.run(f"{tool} {to}", source))
        cells = []
        for figure in ("wall", "cpu"):
            best = [min(getattr(run, figure) for run in found) for found in runs.values()]
            cells += [f"{best[0]:.2f} s, without {best[1]:.2f} s", f"{best[0] / best[1] - 1:+.0%}"]
        yield f"| {'a bucket' if 'api' in to else 'a directory'} | {' | '.join(cells)} |"


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def images(pool: urllib3.PoolManager, url: str) -> Iterator[int]:
    """The size of the image at this address."""
    yield len(pool.request("GET", url).data)


def shard(pool: urllib3.PoolManager, url: str) -> Iterator[int]:
    """The sizes of the images in the shard at this address, as they arrive."""
    answer = pool.request("GET", url, preload_content=False)
    with tarfile.open(fileobj=answer, mode="r|") as archive:
        for info in archive:
            file = archive.extractfile(info)
            data = file.read() if file else b""
            if not info.name.endswith(".json"):
                yield len(data)
    answer.release_conn()


def rate(
    read: Callable[[urllib3.PoolManager, str], Iterator[int]], urls: list[str], threads: int
) -> tuple[float, float]:
    """Images and bytes a second."""
    pool, begin = urllib3.PoolManager(maxsize=threads), time.monotonic()

    def work(url: str) -> list[int]:
        return list(read(pool, url)) if time.monotonic() - begin < SECONDS else []

    with ThreadPoolExecutor(threads) as workers:
        found = [size for sizes in workers.map(work, urls) for size in sizes]
    seconds = time.monotonic() - begin
    return len(found) / seconds, sum(found) / seconds


def readings(at: Course, source: str) -> Iterator[str]:
    at.run(f"{TOOL} --via api --to gs://{BUCKET}", source)
    at.run(f"{TOOL.replace('--mirror $SOURCE', '--shards webdataset')} --via api --to gs://{BUCKET}", "", keep=True)
    pool = urllib3.PoolManager()
    base = f"{at.server}/{BUCKET}"
    index = json.loads(pool.request("GET", f"{base}/shards/stanford/index.json").data)
    table = pool.request("GET", f"{base}/_extraction/stanford/metadata.jsonl").data.splitlines()
    objects = [f"{base}/{json.loads(line)['path']}" for line in table]
    random.Random(1).shuffle(objects)
    shards = [f"{base}/shards/stanford/{each['name']}" for each in index["shards"]]
    for name, read, urls in (("single objects", images, objects), ("shards", shard, shards)):
        for threads in (each for each in THREADS if each <= len(urls) or each == 1):
            number, size = rate(read, urls, threads)
            yield f"| {name} | {threads} | {number:,.0f} | {size / 1e6:,.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    count, date = round(MEMBERS * arguments.scale), time.strftime("%-d %B %Y")
    print(INTRODUCTION.format(images=count, delay=DELAY * 1000, rounds=arguments.rounds, date=date), flush=True)
    with course(None) as at:
        build(at.sources / "reading", count)
        at.set_delay(DELAY)
        for line in costs(at, f"{at.source}/reading", arguments.rounds):
            print(line, flush=True)
        print(READING)
        for line in readings(at, f"{at.source}/reading"):
            print(line, flush=True)


if __name__ == "__main__":
    main()
