"""What a bucket with limits and faults does to a run: the program and the object server, as they are.

    python benchmarks/real_bucket.py --rounds 3 [--only failing,limit] [--out benchmarks/results/real_bucket.md]

Ratios are of runs in one round, one after the other. Takes about five minutes a round on two quiet cores, without
`optimisations`. rclone and gcloud are run beside it where they are installed.

Two columns have objects/s: of the whole run, between its first and its last write, and *in the middle*, while the
middle 90 % of the writes were sent. Start and end (looking at the bucket, comparing its listing, writing the manifest)
take two to three seconds of any run, so the first comes near the second in long runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import inputs
import measure
from bucket_rules import DOUBLING, FIRST_RATE, HIERARCHICAL, RANDOM
from course import Course, course, prepare
from ways import BUCKET, HERE, TOOL, WAYS, lacking

MEMBERS, SIZE = 20_000, 2000  # of the archive, and bytes of each
MORE = 40_000  # about as many as Stanford's
FEWER = 5_000  # for those that take longer
PROCESSES, SHORT = 4, 3_000  # members of those that end early
HALF = 0.5  # of Stanford, for what the tool's own parts bring
PARTS_OF_THE_TOOL = ("batching", "stripes", "parallel-listing", "probing", "table")  # of without.py
RECOVERED = 0.5  # of the rate before an outage
HEADER = (
    "| bucket, 20 ms a request | writer | seconds | objects/s | in the middle | refused | |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | --- |"
)


class Run(NamedTuple):
    """One run: of what, and what the server saw of it."""

    bucket: str
    writer: str
    seconds: float  # from start to end of the program
    stored: int
    rate: float  # objects/s between the first and the last put
    middle: float  # objects/s in the middle
    refused: float  # share of the writes that were answered 429 or 503
    note: str = ""


class Bench:
    """Runs of the program and of others against a bucket with rules."""

    def __init__(self, at: Course) -> None:
        self.at = at
        at.set_delay(0.02)
        self.more, self.many, self.few, self.short = (
            inputs.build_small(at.sources, members, SIZE) for members in (MORE, MEMBERS, FEWER, SHORT)
        )

    def run(self, title: str, rules: Mapping[str, float], given: inputs.Input, rate: float = 0, way: str = "") -> Run:
        """One run into an empty bucket, from `rate` writes/s on (0: as into an emulator); `way` is of another tool."""
        self.at.clear()
        measure.post(f"{self.at.server}/_rules?{urlencode(rules)}")
        command = WAYS[way].command if way else self._command(rate)
        begin = time.monotonic()
        said = self._start(command, given).communicate()[1]
        return self._seen(title, way or "this tool", time.monotonic() - begin, given.objects, said)

    def _command(self, rate: float) -> str:
        return f"{TOOL} --via api --to gs://{BUCKET}" + (f" --write-rate {rate:g}" if rate else "")

    def _start(self, command: str, given: inputs.Input, folder: str = "") -> subprocess.Popen[str]:
        scratch = self.at.scratch / folder
        scratch.mkdir(exist_ok=True)
        return subprocess.Popen(
            ["bash", "-c", f"set -eo pipefail; {command}"], cwd=scratch, text=True,
            env=self.at.environment(f"{self.at.source}/{given.folder}"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def _seen(self, title: str, writer: str, seconds: float, expected: int, said: str) -> Run:
        stats = self.stats()
        tenths, refused = stats["tenths"], sum(stats["refused"].values())
        missing = expected - self.objects()
        note = f"{missing} objects missing: {said.strip()[-200:]}" if missing else ""
        rate, share = sum(tenths) / max(len(tenths), 1) * 10, refused / max(stats["puts"] + refused, 1)
        return Run(title, writer, seconds, stats["puts"], rate, middle(tenths), share, note)

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.at.server}/_stats") as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def objects(self) -> int:
        """How many members are in the buckets, without journals, folders and what else the program writes."""
        count: int = 0
        token = ""
        while True:
            query = urlencode({"fields": "items(name),nextPageToken", "pageToken": token})
            with urllib.request.urlopen(f"{self.at.server}/storage/v1/b/{BUCKET}/o?{query}") as answer:
                page: dict[str, Any] = json.load(answer)
            count += sum(str(item["name"]).endswith(".jpg") for item in page.get("items", ()))
            token = page.get("nextPageToken", "")
            if not token:
                return count

    # ── the parts ────────────────────────────────────────────────────────────────────────────────

    def failing(self) -> Iterator[Run]:
        """Refusals at random; wanted: 1.15, 1.3 and 1.6 times as long as without at most."""
        base = self.run("no refusals", {}, self.many)
        yield base
        for share in (0.0005, 0.005, 0.02):
            found = self.run(f"{100 * share:g} % answered 503 at random", {"failing": share}, self.many)
            yield found._replace(note=f"{found.seconds / base.seconds:.2f} times as long as without {found.note}")

    def limit(self) -> Iterator[Run]:
        """A hard limit; wanted: 900 objects/s, less than 5 % refused."""
        for given in (self.many, self.more):
            yield self.run(f"limit 1,000/s, 429 beyond: {given.objects:,} objects", {"limit": 1000}, given, 1000)
        rules = {"limit": 1000, "retry_after": 1}
        yield self.run("limit 1,000/s, 429 with Retry-After: 1", rules, self.many, 1000)
        for way in ("rclone", "gcloud"):
            if not lacking(WAYS[way]):
                title = f"limit 1,000/s, 429 beyond: {self.few.objects:,} objects"
                yield self.run(title, {"limit": 1000}, self.few, way=way)

    def documented(self) -> Iterator[Run]:
        """As Google documents it."""
        rules = {"limit": FIRST_RATE, "doubling": DOUBLING, "failing": RANDOM}
        yield self.run("as documented: 1,000/s, twice as many in 20 min, 0.05 % 503", rules, self.many, FIRST_RATE)
        limit = FIRST_RATE * HIERARCHICAL
        yield self.run("as documented, hierarchical: 8,000/s", rules | {"limit": limit}, self.many, limit)
        yield self.run("warm: no limit, 0.05 % 503", {"failing": RANDOM}, self.many, FIRST_RATE)

    def outage(self) -> Iterator[Run]:
        """All 503 for 20 s; wanted: goes on within 5 s, nothing lost."""
        begin, end = 4, 24
        rules = {"from": begin, "until": end, "limit": 2000}
        found = self.run("all 503 from 4 s to 24 s, limit 2,000/s", rules, self.many, 2000)
        tenths = self.stats()["tenths"]
        before = sum(tenths[: 10 * begin]) / (10 * begin)
        after = next((at for at, puts in enumerate(tenths[10 * end :]) if puts >= RECOVERED * before), None)
        back = "never" if after is None else f"{after / 10:.1f} s after its end"
        yield found._replace(note=f"back at half the rate {back} {found.note}")

    def optimisations(self) -> Iterator[Run]:
        """The tool without one of its parts: into a bucket as documented, without limits, and without faults."""
        given = prepare(self.at, HALF, False)
        rules = {"limit": FIRST_RATE, "doubling": DOUBLING, "failing": RANDOM}
        buckets: dict[str, tuple[dict[str, float], float]] = {
            "Stanford's shape, as documented": (rules, FIRST_RATE),
            "Stanford's shape, warm: no limit, 0.05 % 503": ({"failing": RANDOM}, FIRST_RATE),
            "Stanford's shape, no refusals": ({}, 0),
        }
        for title, (its, rate) in buckets.items():
            for part in ("", *PARTS_OF_THE_TOOL):
                yield self._without(part, title, its, given, rate)

    def _without(self, part: str, title: str, rules: Mapping[str, float], given: inputs.Input, rate: float) -> Run:
        self.at.clear()
        measure.post(f"{self.at.server}/_rules?{urlencode(rules)}")
        command = self._command(rate)
        if part:
            command = command.replace(f"{HERE.parent}/cli.py", f"{HERE}/without.py {part}")
        found = self.at.run(command, f"{self.at.source}/{given.folder}", keep=True)
        run = self._seen(
            title, f"without {part}" if part else "this tool", found.wall, (given.objects - inputs.LISTS) // 2, ""
        )
        return run._replace(note=f"{found.cpu:.1f} s of CPU, {found.memory / 1e6:.0f} MB {run.note}")

    def processes(self) -> Iterator[Run]:
        """Four processes that know nothing of each other; wanted: 1,800 objects/s in sum."""
        yield self._together("2,000/s, four processes", [self.many] * PROCESSES)
        yield self._together("2,000/s, four processes, three end early", [self.many] + [self.short] * (PROCESSES - 1))

    def _together(self, title: str, given: Sequence[inputs.Input]) -> Run:
        """Each writes a dataset's worth into a folder of the bucket; each begins with a quarter of the rate."""
        self.at.clear()
        measure.post(f"{self.at.server}/_rules?limit=2000")
        begin, script = time.monotonic(), f"{sys.executable} {Path(__file__).parent}/write_many.py"
        runs = [
            self._start(f"{script} {BUCKET} {number} {each.objects} {len(given)} 2000", each, str(number))
            for number, each in enumerate(given)
        ]
        said = "".join(run.communicate()[1] for run in runs)
        return self._seen(
            title, f"{len(given)} processes", time.monotonic() - begin, sum(it.objects for it in given), said
        )


PARTS: dict[str, Callable[[Bench], Iterator[Run]]] = {
    "failing": Bench.failing, "limit": Bench.limit, "documented": Bench.documented,
    "outage": Bench.outage, "processes": Bench.processes, "optimisations": Bench.optimisations,
}  # fmt: skip


def middle(tenths: Sequence[int]) -> float:
    """Puts a second while the middle 90 % were sent, from the puts in each tenth of a second."""
    total = sum(tenths)
    inner = [
        puts
        for puts, so_far in zip(tenths, itertools.accumulate(tenths), strict=True)
        if 0.05 * total < so_far <= 0.95 * total
    ]
    return 10 * statistics.mean(inner or [0])


def line(runs: Sequence[Run]) -> str:
    """The medians of a run's rounds, and the note of the median one."""
    typical = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
    seconds, rate, inner, refused = (
        statistics.median(getattr(run, name) for run in runs) for name in ("seconds", "rate", "middle", "refused")
    )
    return (
        f"| {typical.bucket} | {typical.writer} | {seconds:.1f} | {rate:,.0f} | {inner:,.0f} | {100 * refused:.2f} %"
        f" | {typical.note.strip()} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, help="file for the table (default: standard output alone)")
    options = parser.parse_args()
    found = dict[tuple[str, str], list[Run]]()
    with course(None) as at:
        bench = Bench(at)
        for _ in range(options.rounds):
            for part in options.only.split(","):
                for run in PARTS[part](bench):
                    found.setdefault((run.bucket, run.writer), []).append(run)
                    print(line([run]), file=sys.stderr, flush=True)
    table = "\n".join([HEADER, *(line(runs) for runs in found.values())])
    print(table)
    if options.out:
        about = f"{options.rounds} rounds, {os.cpu_count()} cores, medians."
        options.out.write_text(f"# A bucket with limits and faults\n\n{about}\n\n{table}\n")


if __name__ == "__main__":
    main()
