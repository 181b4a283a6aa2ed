"""Which writes a bucket refuses: as documented, with a fixed limit, at random, for a while.

The rules of the benchmarks' object server and of the simulation (rate_simulation.py).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

FIRST_RATE, DOUBLING = 1000.0, 1200.0  # writes/s, seconds: https://cloud.google.com/storage/docs/request-rate
HIERARCHICAL = 8  # times the first rate: https://cloud.google.com/storage/docs/hns-overview
RANDOM = 0.0005  # share that fails on a healthy bucket (https://cloud.google.com/storage/sla)
BURST = 0.1  # seconds of the limit that may come at one time


@dataclass
class Rules:
    """What a bucket answers to a write: 0 is yes, 429 beyond its limit, 503 at random or in an outage.

    Times are seconds since the first write.
    """

    limit: float = math.inf  # writes/s at first
    doubling: float = math.inf  # seconds in which it doubles
    failing: float = 0.0  # share of the writes that fails at random
    outage: tuple[float, float] = (math.inf, math.inf)  # from, until
    halved: float = math.inf  # from when on the limit is half
    retry_after: float = 0.0  # seconds that a refusal asks for
    is_by_second: bool = False  # each second of the clock has its own limit, and refuses all that is beyond
    begin: float | None = None
    _tokens: float = 0.0
    _last: float = 0.0
    _rng: random.Random = field(default_factory=lambda: random.Random(0))

    def renewed(self) -> Rules:
        """The same for a bucket that has not been written to."""
        return replace(self, begin=None, _tokens=0.0, _last=0.0, _rng=random.Random(0))

    def limit_at(self, age: float) -> float:
        """Writes/s so many seconds after the first."""
        return self.limit * 2 ** (age / self.doubling) / (1 if age < self.halved else 2)

    def answer(self, now: float) -> int:
        """The status for a write that arrives now."""
        if self.begin is None:
            self.begin, self._tokens = (
                now,
                0 if self.limit == math.inf else (1 if self.is_by_second else BURST) * self.limit,
            )
        age = now - self.begin
        if self.outage[0] <= age < self.outage[1] or self._rng.random() < self.failing:
            return 503
        if self.limit == math.inf:
            return 0
        limit = self.limit_at(age)
        if self.is_by_second:
            if int(age) != int(self._last):
                self._tokens = limit
            self._last = age
        else:
            self._refill(age, limit)
        if self._tokens < 1:
            return 429
        self._tokens -= 1
        return 0

    def _refill(self, age: float, limit: float) -> None:
        self._tokens = min(self._tokens + (age - self._last) * limit, max(BURST * limit, 1))
        self._last = age


def documented(factor: float = 1) -> Rules:
    """A bucket as Google documents it; `factor` is HIERARCHICAL_FACTOR where it has folders."""
    return Rules(factor * FIRST_RATE, DOUBLING, RANDOM)
