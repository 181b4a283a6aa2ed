"""Answers to earlier writes become the rate of the next ones, in writes a second.

A healthy bucket refuses some requests at random (https://cloud.google.com/storage/sla): these say nothing of its
limit. An overloaded one refuses a *share*, which falls when less is sent. Therefore whole windows are judged
by what was delivered in them. benchmarks/rate_simulation.py shows the effect of each rule. This module has no clock,
no threads and no randomness: each call passes the time.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

MIN_RATE = 1.0  # writes a second
WINDOW_SECONDS = 1.0  # seconds that are judged together
CLEAN_WINDOW_SECONDS = 0.3  # seconds, where nothing was refused
ENOUGH_ANSWERS = 100  # answers that are enough to estimate a latency
SLOT_SECONDS = 0.1  # seconds between two looks
TOLERATED_SHARE = 0.02  # share of refusals that is normal
MAX_DEVIATIONS = 1.5  # by which a random share may exceed that
MIN_REFUSALS = 2  # refusals, below which nothing is concluded
CUT_FACTOR = 0.97  # of what was delivered
FIRST_STEP = 0.01  # growth in the first window without congestion
STEP_FACTOR = 4  # by which it is larger in each window that follows
MAX_STEP_KNOWN = 1.0  # growth a window, up to a rate that the bucket has accepted or Google documents
MAX_STEP = 0.05  # growth a window beyond: twice as much in 4 s
MAX_VAIN_CUTS = 4  # whole windows whose cuts changed nothing: the refusals are random, not a limit
NOISE_HALF_LIFE = 30.0  # seconds in which a random share is believed half as much: it is found again where it is there
SAME_SHARE = 0.7  # of a share of refusals that is as large as before
MIN_USED_SHARE = 0.8  # share of the rate that must be used before it grows
SLOWER_FACTOR = 3.0  # times the shortest latency at which the rate grows no more beyond what is known
SLOWER_SECONDS = 0.05  # seconds, at least
OUTAGE_SECONDS = 0.5  # seconds in which hardly anything is delivered
OUTAGE_SHARE = 0.98  # of the answers that are refusals
MIN_OUTAGE_REFUSALS = 10  # refusals at least
PROBE_INTERVAL = 0.5  # seconds between the probes of an outage


class Grant(NamedTuple):
    """When something may be sent, or acquire called again."""

    moment: float
    may_send: bool
    version: int  # of the rate; a grant of an older one is void


@dataclass
class _Window:
    """Answers since `begin` to what was sent at the present rate."""

    begin: float
    delivered: int = 0
    refused: int = 0
    sent: int = 0
    timed: int = 0  # of the delivered
    latency: float = 0.0  # seconds, of all that was timed

    @property
    def answers(self) -> int:
        return self.delivered + self.refused


@dataclass
class _Slot:
    """All answers in a tenth of a second."""

    number: int
    delivered: int = 0
    refused: int = 0


class Congestion:
    """The rate of one process's writes to a bucket that other processes may write to as well.

    `start` is in writes a second, of all `writers` together; infinity is no limit until the first congestion.
    """

    def __init__(self, start: float, writers: int, now: float) -> None:
        self.rate = start / writers
        self.version = 0  # changes whenever the rate jumps
        self.outage_since: float | None = None
        self._known, self._borne, self._is_tried = start, self.rate, False
        self._next = self._epoch = self._active_since = self._last_sent = now
        self._window, self._slots = _Window(now), deque[_Slot]()
        self._step, self._noise, self._shortest = FIRST_STEP, 0.0, math.inf
        self._cuts, self._before_cuts, self._share = 0, self.rate, 0.0
        self._probe_at = now

    # ── sending ──────────────────────────────────────────────────────────────────────────────────

    def reserve(self, now: float) -> Grant:
        """When the next write may be sent."""
        if self.outage_since is not None:
            if now < self._probe_at:
                return Grant(self._probe_at, False, self.version)
            self._probe_at = now + PROBE_INTERVAL
            return Grant(now, True, self.version)
        moment = max(now, self._next)
        self._next = moment + 1 / self.rate
        return Grant(moment, True, self.version)

    def sent(self, now: float) -> None:
        """Something was sent."""
        if now - self._last_sent > WINDOW_SECONDS:
            self._active_since = now
        self._last_sent = now
        self._window.sent += 1

    # ── answers ──────────────────────────────────────────────────────────────────────────────────

    def delivered(self, sent: float, now: float, is_timed: bool = True) -> None:
        """What was sent at `sent` was accepted, or answered by anything but a refusal.

        `is_timed` when the time between says how busy the bucket is, and not how large the object was.
        """
        is_new = self._slot(now)
        self._slots[-1].delivered += 1
        if self.outage_since is not None:
            if sent > self.outage_since:
                self._end_outage(now)
            return
        if sent >= self._epoch:
            self._window.delivered += 1
            if is_timed:
                self._window.timed += 1
                self._window.latency += now - sent
        if is_new:
            self._look(now)

    def throttled(self, sent: float, now: float, retry_after: float = 0.0) -> None:
        """What was sent at `sent` was refused, for `retry_after` seconds where the bucket said that."""
        self._slot(now)
        self._slots[-1].refused += 1
        if sent >= self._epoch and self.outage_since is None:
            self._window.refused += 1
            self._look(now)
        if self.outage_since is not None:
            self._probe_at = max(self._probe_at, now + retry_after)

    def _slot(self, now: float) -> bool:
        number = int(now / SLOT_SECONDS)
        if self._slots and self._slots[-1].number == number:
            return False
        self._slots.append(_Slot(number))
        while self._slots[0].number < number - WINDOW_SECONDS / SLOT_SECONDS:
            self._slots.popleft()
        return True

    def _recent(self, now: float, seconds: float) -> tuple[int, int]:
        """What was delivered and what was refused in the last so many seconds."""
        first = round((now - seconds) / SLOT_SECONDS)
        slots = [slot for slot in self._slots if slot.number >= first]
        return sum(slot.delivered for slot in slots), sum(slot.refused for slot in slots)

    # ── judging ──────────────────────────────────────────────────────────────────────────────────

    def _look(self, now: float) -> None:
        window, elapsed = self._window, now - self._window.begin
        if self._is_outage(now):
            self._begin_outage(now)
        elif self._is_flooded(elapsed):
            self._cut(now, is_whole=False)
        elif elapsed >= (WINDOW_SECONDS if window.refused else CLEAN_WINDOW_SECONDS):
            self._judge(now, elapsed)
        elif not self._cuts and self._exceeds_early(elapsed):
            self._cut(now, is_whole=False)

    def _exceeds(self, answers: float) -> bool:
        """Whether the window has more refusals than chance explains."""
        mean = answers * (self._noise + TOLERATED_SHARE)
        return self._window.refused > max(mean + MAX_DEVIATIONS * math.sqrt(mean), MIN_REFUSALS)

    def _exceeds_early(self, elapsed: float) -> bool:
        """Whether the part of a window so far has more refusals than chance explains in a whole one."""
        return elapsed >= SLOT_SECONDS and self._exceeds(self._window.answers * max(1, WINDOW_SECONDS / elapsed))

    def _is_flooded(self, elapsed: float) -> bool:
        window = self._window
        expected = (1 + self._noise) / 2
        return elapsed >= SLOT_SECONDS and window.refused > max(expected * window.answers, 2 * MIN_REFUSALS)

    def _judge(self, now: float, elapsed: float) -> None:
        window = self._window
        if self._exceeds(window.answers):
            self._cut(now, is_whole=True)
            return
        if window.refused < SAME_SHARE * self._share * window.answers or not window.refused:
            self._cuts = 0  # the last cut was right
        self._noise *= 0.5 ** (elapsed / NOISE_HALF_LIFE)
        if now - self._epoch >= WINDOW_SECONDS:  # since the last cut: a bucket may count by whole seconds
            self._borne, self._is_tried = self.rate, True
        is_calm = window.refused <= (self._noise + TOLERATED_SHARE) * window.answers
        if is_calm and window.sent >= MIN_USED_SHARE * self.rate * elapsed and not self._is_slower():
            self._grow()
        self._window = _Window(now)

    def _grow(self) -> None:
        step = min(self._step, MAX_STEP_KNOWN if self.rate < self._known else MAX_STEP)
        self.rate *= 1 + step
        self._step = min(STEP_FACTOR * self._step, MAX_STEP_KNOWN)

    def _is_slower(self) -> bool:
        """Whether answers take longer, above the rate that the bucket is known to accept."""
        if self._window.timed < ENOUGH_ANSWERS:
            return False
        latency = self._window.latency / self._window.timed
        self._shortest = min(self._shortest, latency)
        usual = max(SLOWER_FACTOR * self._shortest, self._shortest + SLOWER_SECONDS)
        return self.rate >= self._known and latency > usual

    # ── congestion ───────────────────────────────────────────────────────────────────────────────

    def _cut(self, now: float, is_whole: bool) -> None:
        span = min(max(now - self._active_since, SLOT_SECONDS), WINDOW_SECONDS)
        rate = self._recent(now, span)[0] / span
        if not rate:
            return  # an outage, as it seems
        share = self._window.refused / self._window.answers
        is_in_vain = self._cuts and is_whole and share > SAME_SHARE * self._share
        if not self._cuts:
            self._before_cuts = self.rate
        self._cuts = self._cuts + 1 if is_in_vain else 1
        self._share = share
        if self._cuts > MAX_VAIN_CUTS:
            self._noise, self._cuts = share, 0
            self._jump(self._before_cuts, now)
            return
        self._jump(max(CUT_FACTOR * min(rate, self.rate), MIN_RATE), now)
        if is_whole or not self._is_tried:
            self._borne = self.rate

    def _jump(self, rate: float, now: float) -> None:
        self.rate, self._step = rate, FIRST_STEP
        self._next = self._epoch = now
        self._window = _Window(now)
        self.version += 1

    # ── outages ──────────────────────────────────────────────────────────────────────────────────

    def _is_outage(self, now: float) -> bool:
        if now - self._active_since < OUTAGE_SECONDS:
            return False
        delivered, refused = self._recent(now, OUTAGE_SECONDS)
        return refused >= MIN_OUTAGE_REFUSALS and refused >= OUTAGE_SHARE * (delivered + refused)

    def _begin_outage(self, now: float) -> None:
        self.outage_since, self._probe_at = now, now + PROBE_INTERVAL
        self._jump(self.rate, now)

    def _end_outage(self, now: float) -> None:
        self.outage_since, self._cuts = None, 0
        self._slots.clear()
        self._slot(now)
        self._active_since = now
        self._jump(self._borne, now)
