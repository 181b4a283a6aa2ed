"""How much of what a bucket gives the rate limiter takes, by a clock of its own.

    python benchmarks/rate_simulation.py [--set MAX_DEVIATIONS=0 …] [--out benchmarks/results/rate.md]

Threads of one or several processes, which know nothing of each other, write to one bucket of bucket_rules.py. A write
takes 50 ms. Nothing is timed: the same events give the same figures on every machine. More than 100 %: a bucket takes
a tenth of a second's writes at one time.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from bucket_rules import DOUBLING, Rules
from storage import congestion
from storage.congestion import Congestion, Grant
from storage.rate_limit import WAIT_SLICE, backoff

LATENCY = 0.05  # seconds
HEADER = (
    "| bucket | processes x threads | of what it gives | refused | back after |\n| --- | --- | ---: | ---: | ---: |"
)


class Scene(NamedTuple):
    """A bucket, and who writes to it for how long."""

    title: str
    rules: Rules
    seconds: float = 60.0
    processes: int = 1
    threads: int = 256  # of each process
    start: float = 1000.0  # writes/s of all processes at first
    ends: float = 1e9  # seconds after which one process is left
    jitter: float = 0.0  # seconds by which a request is late at random
    measured_from: float = 0.0  # seconds
    objects: float = math.inf  # after which all threads end: the start and the last retries are then measured too


class Outcome(NamedTuple):
    """What came of a scene."""

    share: float  # of what the bucket would have taken
    refused: float  # share of the requests, without those refused at random or in an outage
    recovery: float  # seconds after an outage until 90 % of the rate before


@dataclass
class _Bench:
    """The events of one scene in the order of their times."""

    scene: Scene
    seed: int = 0
    events: list[tuple[float, int, int, int, str, float]] = field(default_factory=list)
    delivered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        self.rng, self.count = random.Random(self.seed), 0
        self.controls = [Congestion(self.scene.start, self.scene.processes, 0.0) for _ in range(self.scene.processes)]
        self.grants = dict[tuple[int, int], Grant]()
        self.tries = dict[tuple[int, int], int]()
        self.left = self.scene.objects - self.scene.processes * self.scene.threads  # objects that no thread has
        for process in range(self.scene.processes):
            for thread in range(self.scene.threads):
                self.at(self.rng.uniform(0, LATENCY), process, thread, "ask")

    def at(self, moment: float, process: int, thread: int, what: str, sent: float = 0.0) -> None:
        self.count += 1
        heapq.heappush(self.events, (moment, self.count, process, thread, what, sent))

    def run(self) -> None:
        while self.events and self.events[0][0] < self.scene.seconds:
            now, _, process, thread, what, sent = heapq.heappop(self.events)
            if what == "arrive":
                self.arrive(now, process, thread, sent)
            elif what == "ask" and not (process and now > self.scene.ends):
                self.ask(now, process, thread)
            elif what == "wake":
                self.wake(now, process, thread)
            elif what in ("yes", "no"):
                self.answered(now, process, thread, what == "yes", sent)

    def ask(self, now: float, process: int, thread: int) -> None:
        self.grants[process, thread] = self.controls[process].reserve(now)
        self.wake(now, process, thread)

    def wake(self, now: float, process: int, thread: int) -> None:
        """What RateLimiter.acquire does in its thread."""
        control, grant = self.controls[process], self.grants[process, thread]
        if grant.version != control.version or (now >= grant.moment and not grant.may_send):
            self.at(now, process, thread, "ask")
        elif now < grant.moment:
            self.at(min(grant.moment, now + WAIT_SLICE), process, thread, "wake")
        else:
            control.sent(now)
            self.sent += 1
            self.at(now + LATENCY / 2 + self.rng.uniform(0, self.scene.jitter), process, thread, "arrive", now)

    def arrive(self, now: float, process: int, thread: int, sent: float) -> None:
        status = self.scene.rules.answer(now)
        if not status:
            self.delivered.append(now)
        elif status == 429:
            self.refused.append(now)
        self.at(now + LATENCY / 2, process, thread, "no" if status else "yes", sent)

    def answered(self, now: float, process: int, thread: int, is_yes: bool, sent: float) -> None:
        control, key = self.controls[process], (process, thread)
        if is_yes:
            control.delivered(sent, now)
            self.tries[key] = 0
            self.left -= 1
            if self.left >= 0:
                self.at(now, process, thread, "ask")
        else:
            asked = self.scene.rules.retry_after
            control.throttled(sent, now, asked)
            self.tries[key] = self.tries.get(key, 0) + 1
            self.at(now + max(backoff(self.tries[key] - 1, self.rng), asked), process, thread, "ask")


def simulate(scene: Scene) -> Outcome:
    """Run a scene from its first write to its end."""
    bench = _Bench(scene._replace(rules=scene.rules.renewed()))
    bench.run()
    end = scene.seconds if scene.objects == math.inf else bench.delivered[-1]
    given = sum(_given(scene, tenth / 10) for tenth in range(int(scene.measured_from * 10), int(end * 10)))
    taken = sum(moment >= scene.measured_from for moment in bench.delivered)
    return Outcome(taken / (given / 10), len(bench.refused) / max(bench.sent, 1), _recovery(scene, bench.delivered))


def _given(scene: Scene, age: float) -> float:
    """Writes/s that the bucket and the threads allow at that age."""
    rules, threads = scene.rules, scene.threads * (scene.processes if age < scene.ends else 1)
    if rules.outage[0] <= age < rules.outage[1]:
        return 0.0
    each = LATENCY / (1 - rules.failing)
    return min(rules.limit_at(age), threads / each)


def _recovery(scene: Scene, delivered: Sequence[float]) -> float:
    """Seconds after an outage until a tenth of a second with 90 % of the median rate before it."""
    begin, end = scene.rules.outage
    if end > scene.seconds:
        return 0.0
    before = sum(begin - 1 <= moment < begin for moment in delivered) / 10
    for tenth in range(int(10 * (scene.seconds - end))):
        first = end + tenth / 10
        if sum(first <= moment < first + 0.1 for moment in delivered) >= 0.9 * before:
            return tenth / 10
    return scene.seconds - end


def scenes() -> Iterator[Scene]:
    """All that the limiter is held against."""
    for share in (0.0001, 0.001, 0.01, 0.03, 0.1):
        for threads in (64, 256):
            yield Scene(
                f"{100 * share:g} % refused at random", Rules(failing=share), threads=threads, start=float("inf")
            )
    for limit in (1000, 3000, 8000):
        yield Scene(f"limit {limit:,}/s, growing", Rules(limit, DOUBLING), threads=512, measured_from=30)
    for objects in (10_000, 40_000):
        yield Scene(f"limit 1,000/s, all of {objects:,} objects", Rules(1000), objects=objects)
    yield Scene("limit 1,000/s, Retry-After of 1 s", Rules(1000, retry_after=1))
    yield Scene("limit 8,000/s, begun at it", Rules(8000, DOUBLING), threads=512, start=8000)
    yield Scene("limit 3,000/s and 1 % at random", Rules(3000, failing=0.01), start=3000)
    yield Scene("limit 3,000/s, an outage of 20 s", Rules(3000, outage=(20, 40)), start=3000)
    yield Scene(
        "limit 3,000/s, an outage of 20 s, Retry-After of 2 s", Rules(3000, outage=(20, 40), retry_after=2), start=3000
    )
    yield Scene("an outage of 20 s, no limit", Rules(outage=(20, 40)), start=float("inf"))
    yield Scene("limit 3,000/s, half from 30 s on", Rules(3000, halved=30), start=3000)
    yield Scene("limit 40/s and 1 % at random", Rules(40, failing=0.01), threads=32, seconds=120)
    yield Scene("limit 60/s, begun without one", Rules(60), threads=32, seconds=120, start=float("inf"))
    for processes in (1, 2):
        title, rules = "limit 60/s by the clock's seconds", Rules(60, is_by_second=True)
        yield Scene(title, rules, 30, processes, 32 // processes, start=600)
    for processes in (1, 4, 16):
        for limit in (1000, 3000):
            threads = max(256 // processes, 64)
            yield Scene(f"limit {limit:,}/s", Rules(limit), processes=processes, threads=threads, start=limit)
    for processes in (4, 16):
        title = "limit 2,000/s, all but one end after 20 s"
        yield Scene(title, Rules(2000), processes=processes, threads=128, start=1000, ends=20)
        title = "limit 2,000/s, begun at it, all but one end after 20 s"
        yield Scene(title, Rules(2000), processes=processes, threads=128, start=2000, ends=20)


def rows(of: Iterator[Scene]) -> Iterator[str]:
    """A line of the table for each scene."""
    yield HEADER
    for scene in of:
        found = simulate(scene)
        begin = f", from {scene.measured_from:g} s on" if scene.measured_from else ""
        back = f"{found.recovery:.1f} s" if scene.rules.outage[1] < scene.seconds else ""
        yield (
            f"| {scene.title}{begin} | {scene.processes} x {scene.threads} | {100 * found.share:.1f} %"
            f" | {100 * found.refused:.2f} % | {back} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the table (default: standard output alone)")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="constants of storage/congestion.py")
    options = parser.parse_args()
    for name, _, value in (text.partition("=") for text in options.set):
        vars(congestion)[name] = float(value)
    lines = list[str]()
    for line in rows(scenes()):
        print(line, flush=True)
        lines.append(line)
    if options.out:
        options.out.write_text(
            f"# The rate limiter, simulated\n\n{(__doc__ or '').strip()}\n\n" + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    main()
